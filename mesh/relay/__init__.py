"""The node's part: sockets in pods' network namespaces, their keys, and a cache of resources."""
