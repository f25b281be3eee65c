"""What the proxies speak with: identity, discovery and routes, where the proxy is Envoy."""
