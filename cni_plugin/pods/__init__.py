"""This node's pods: where they are looked up, their state and their network namespaces."""
