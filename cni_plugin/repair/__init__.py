"""Pods that started too early get their rules, and validators their word."""
