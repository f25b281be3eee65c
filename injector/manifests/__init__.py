"""Manifests in, manifests out: inject and uninject over documents that stay as they were."""
