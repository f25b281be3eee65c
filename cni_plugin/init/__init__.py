"""What runs as init containers: proxy-init and the network validator."""
