"""What the commands of the mesh's processes have in common."""

from __future__ import annotations

import os
from pathlib import Path

from kubeapi.client import ApiServer
from kubeapi.config import KubeconfigError, in_cluster, load_config
from meshgraft._errors import CommandError
from vocabulary.mesh import is_trust_domain

AUDIENCE = "meshgraft-mesh"
"""For whom the tokens are that the mesh's processes show each other."""
NAMESPACE = "meshgraft"


def api_server(kubeconfig: Path | None, name: str) -> ApiServer:
    """The API server of a kubeconfig, or of the cluster that this runs in.

    Raises:
        KubeconfigError: neither is there, or it is not usable.
    """
    if kubeconfig is None and not in_cluster():
        raise KubeconfigError(
            "this is no pod of a cluster: name the cluster with --kubeconfig FILE, or give the "
            "cluster's objects with --offline-objects FILE"
        )
    return ApiServer(load_config(kubeconfig), name)


def pair(flag: str, text: str) -> tuple[str, str]:
    """NAMESPACE/NAME.

    Raises:
        CommandError: it is something else.
    """
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise CommandError(f"{flag} {text!r}: expected NAMESPACE/NAME")
    return namespace, name


def trust_domain(text: str) -> str:
    """The trust domain.

    Raises:
        CommandError: it cannot be one.
    """
    if not is_trust_domain(text):
        raise CommandError(f"--trust-domain {text!r}: expected a DNS name, such as cluster.local")
    return text


def own_namespace() -> str:
    """The namespace that this runs in."""
    return os.environ.get("POD_NAMESPACE") or NAMESPACE


def exclusive(kubeconfig: Path | None, offline: Path | None) -> None:
    """Of the two one at most can be given.

    Raises:
        CommandError: both are.
    """
    if kubeconfig is not None and offline is not None:
        raise CommandError("--kubeconfig and --offline-objects exclude each other")
