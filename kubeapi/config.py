"""Which API server to talk to, and as whom: a kubeconfig, or the pod's service account."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from vocabulary.errors import MeshgraftError


class KubeconfigError(MeshgraftError, ValueError):
    """There is no usable way to reach a cluster; the text says what to do."""


def in_cluster() -> bool:
    """Whether this runs in a pod, where a service account leads to the API server."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def load_config(kubeconfig: Path | None, context: str | None = None) -> SingleConfig:
    """The kubeconfig's current context, or the one that is named; without a file, the pod's
    service account.

    Raises:
        KubeconfigError: no such file, not a kubeconfig, or this is no pod.
    """
    try:
        config = _from_file(kubeconfig) if kubeconfig else _service_account()
        single = config.get(context)
    except KeyError as error:
        raise KubeconfigError(f"{kubeconfig}: {error} is missing") from error
    except (ConfigError, OSError, msgspec.ValidationError, TypeError) as error:
        raise KubeconfigError(f"{kubeconfig or 'service account'}: {error}") from error
    if single is None:
        raise KubeconfigError(f"{kubeconfig}: there is no current-context")
    return single


def _from_file(path: Path) -> KubeConfig:
    try:
        documents = _documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KubeconfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise KubeconfigError(f"{path}: neither YAML nor JSON: {detail}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise KubeconfigError(f"{path}: is no kubeconfig")
    return KubeConfig.from_dict(documents[0], fname=path)


def _documents(text: str) -> list[Any]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def _service_account() -> KubeConfig:
    if not in_cluster():
        raise KubeconfigError(
            "this is no pod of a cluster: name the cluster with --kubeconfig FILE"
        )
    return KubeConfig.from_service_account()
