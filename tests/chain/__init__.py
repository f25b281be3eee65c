"""The plugin as a node runs it: chains of real plugins, a real runtime, and many pods at once."""
