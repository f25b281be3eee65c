"""Incremental xDS as a library: bytes in, bytes out, whatever they mean."""
