"""Manifests in, manifests out: inject and uninject over documents that stay as they were."""

import injector.profiles  # noqa: F401  so that all marks are known
