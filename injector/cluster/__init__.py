"""What the webhook asks of the API server: namespaces and owners; and the Events it tells it."""
