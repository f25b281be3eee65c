"""Keeps the plugin installed on the node, and takes it out without a trace."""
