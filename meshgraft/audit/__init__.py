"""Which pods should have a proxy and have none, and the reverse, and why: a pure core, `judge`,
between a shell that reads the cluster and one that restarts workloads."""
