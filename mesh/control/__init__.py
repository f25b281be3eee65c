"""The process that knows the cluster, and tells each node what its pods use."""
