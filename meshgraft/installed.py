"""The names of what is installed in a cluster, and the settings in force there."""

from __future__ import annotations

import msgspec

from injector.core.model import Object
from injector.core.values import BadValues, Values, decode_values
from injector.profiles import get_profile
from injector.service.settings import SettingsError, rehearse
from process.files import FileError, parse_documents
from vocabulary.version import __version__

NAMESPACE = "meshgraft"
INJECTOR = "meshgraft-injector"
"""Deployment, Service, ServiceAccount, ClusterRole and ClusterRoleBinding of the webhook."""
WEBHOOK_CONFIG = "meshgraft-injector-webhook-config"
CONFIG_MAP = "meshgraft-injector-config"
CERT_LEASE = "meshgraft-injector-certificates"
TLS_SECRET = "meshgraft-injector-tls"  # noqa: S105, this is its name
CNI_NAMESPACE = "linkerd-cni"
CNI = "linkerd-cni"
"""ServiceAccount, ClusterRole, ClusterRoleBinding and DaemonSet of the CNI plugin."""
CNI_CONFIG_MAP = "linkerd-cni-config"


def settings_in(config_map: Object, source: str) -> Values:
    """The settings of the injector's ConfigMap: its keys ``values`` and ``profile``.

    Raises:
        SettingsError: not readable, a key of the wrong type, or nothing a pod could be given.
    """
    data = config_map.get("data") or {}
    try:
        documents = parse_documents(data.get("values") or "", f'{source}: data key "values"')
        values = decode_values(documents[0] if documents else None)
        values = with_profile(values, (data.get("profile") or "").strip())
        rehearse(values)
    except FileError as error:
        raise SettingsError(str(error)) from error
    except BadValues as error:
        raise SettingsError(f"{source}: {error}") from error
    return values


def with_profile(values: Values, profile: str) -> Values:
    """The settings with a profile laid over them; an empty one changes nothing.

    Raises:
        BadValues: there is no such profile.
    """
    if not profile:
        return values
    ours = msgspec.structs.replace(values.meshgraft, profile=get_profile(profile).name)
    return msgspec.structs.replace(values, meshgraft=ours)


def version_of(deployment: Object) -> str:
    """The injector's version: its image's tag; empty where that says none."""
    spec = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    images = [container.get("image") or "" for container in spec.get("containers") or ()]
    name = images[0].partition("@")[0].rpartition("/")[2] if images else ""
    return name.partition(":")[2]


def version_skew(deployment: Object) -> str | None:
    """What to say where the injector and this command are of different versions."""
    installed = version_of(deployment)
    if installed in ("", __version__):
        return None
    return f"the injector is version {installed}, and this command {__version__}"
