"""A call of the plugin and its answer: the socket, the decision, the metrics."""
