"""Tests; they mirror the modules that they test."""
