"""The command ``meshgraft``: one entry point for both halves, and the demo that shows them."""
