"""The relay's sockets in pods' network namespaces: opened, handed over, and closed in time."""
