"""Linkerd's trust anchors, for profile ``linkerd``: from a file, or from the cluster."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from kubeapi.client import ApiServerError
from kubeapi.config import KubeconfigError
from kubeapi.reading import CONFIG_MAPS, read
from meshgraft._errors import CommandError
from meshgraft.commands._cluster import find_cluster, with_api

CONFIG_MAP = "linkerd-identity-trust-roots"
KEY = "ca-bundle.crt"

_OTHERWISE = (
    "give --identity-trust-anchors-file FILE, or --ignore-cluster to install without (then no proxy"
    " can prove who it is)"
)


def from_file(path: Path) -> str:
    """The anchors in a PEM file.

    Raises:
        CommandError: it cannot be read, or holds no certificate.
    """
    try:
        return _checked(path.read_text(encoding="ascii"), str(path))
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: not PEM: it holds more than ASCII letters") from error


def from_cluster(kubeconfig: Path | None, context: str | None, namespace: str) -> str:
    """The anchors that Linkerd's control plane gives to its proxies.

    Raises:
        CommandError: no cluster is named or in reach, Linkerd is not there, or we may not read.
    """
    source = f"ConfigMap {namespace}/{CONFIG_MAP}"
    try:
        config = find_cluster(kubeconfig, context)
        found = with_api(config, lambda api: read(api, CONFIG_MAPS, CONFIG_MAP, namespace))
    except (ApiServerError, KubeconfigError, ValueError) as error:
        raise CommandError(
            f"profile linkerd needs Linkerd's trust anchors, and {source} cannot be read: {error};"
            f" {_OTHERWISE}"
        ) from error
    if found is None:
        raise CommandError(
            f"profile linkerd needs Linkerd's trust anchors, and there is no {source}: is Linkerd"
            f" installed there (--linkerd-namespace)? Else {_OTHERWISE}"
        )
    return _checked((found.get("data") or {}).get(KEY) or "", f"{source}, key {KEY}")


def _checked(text: str, source: str) -> str:
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise CommandError(f"{source}: no certificate in PEM is there: {error}") from error
    return text
