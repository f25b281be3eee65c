"""What ``meshgraft check`` asks: small pure checks over one snapshot of the cluster."""
