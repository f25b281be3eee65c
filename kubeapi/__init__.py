"""The connection to an API server that both halves stand on; it knows nothing of either."""
