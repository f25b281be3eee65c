"""From Kubernetes objects, as the API server sends them, to the model."""
