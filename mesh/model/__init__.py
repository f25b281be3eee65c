"""What the mesh knows: services, endpoints and workloads as values, and who is behind what."""
