"""What runs before Envoy: the container that sets the pod's rules, or the one that checks them."""

from __future__ import annotations

from injector.core.model import Object
from injector.core.values import BadValues, Values
from injector.profiles.common import image, pull_policy, resources_field
from vocabulary.annotations import Redirect

INIT = "meshgraft-init"
VALIDATOR = "meshgraft-network-validator"
_INBOUND_WAIT = "3s"
"""Longer than an agent needs that is there; without one a pod starts that much later."""
_MODES = ("", "legacy", "nft", "plain")


def init(values: Values, redirect: Redirect) -> Object:
    """Sets the rules from inside the pod, where no CNI plugin does it from the node.

    Raises:
        BadValues: the settings name a mode that ``proxy-init`` does not know.
    """
    settings = values.proxy_init
    if settings.iptables_mode not in _MODES:
        raise BadValues(
            f"values: proxyInit.iptablesMode: {settings.iptables_mode!r}: "
            "expected one of legacy, nft, plain"
        )
    args = ["--iptables-mode", settings.iptables_mode, "--redirect", redirect.to_annotation()]
    if settings.close_wait_timeout_secs:
        args += ["--timeout-close-wait-secs", str(settings.close_wait_timeout_secs)]
    return {
        "name": INIT,
        **_own_image(values),
        "command": ["meshgraft", "proxy-init"],
        "args": args,
        "securityContext": _init_rights(values),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **resources_field(values),
    }


def _init_rights(values: Values) -> Object:
    """Root, because Kubernetes gives a user without a file capability none at all. libiptc
    (legacy) opens raw sockets; a sysctl can be written by a privileged container only."""
    privileged = bool(values.proxy_init.close_wait_timeout_secs or values.proxy_init.privileged)
    rights: Object = {
        "allowPrivilegeEscalation": privileged,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if privileged:
        return {**rights, "privileged": True}
    needed = ["NET_ADMIN"]
    if values.proxy_init.iptables_mode == "legacy":
        needed.append("NET_RAW")
    return {**rights, "capabilities": {"drop": ["ALL"], "add": needed}}


def validator(values: Values, redirect: Redirect) -> Object:
    """Waits until the rules that the CNI plugin set are seen to work, and fails if they are not.

    For the inbound ones it takes the word of the node's agent, if that comes soon. The command is
    the static program of the image, which hands anything but a healthy pod over to
    ``meshgraft network-validator``.
    """
    settings = values.network_validator
    ipv6 = not values.disable_ipv6
    port = values.proxy.ports.outbound
    return {
        "name": VALIDATOR,
        **_own_image(values),
        "command": ["meshgraft-network-validator"],
        "args": [
            "--connect-addr",
            settings.connect_addr or ("[fd00::1]:20001" if ipv6 else "1.1.1.1:20001"),
            "--listen-addr",
            settings.listen_addr or (f"[::]:{port}" if ipv6 else f"0.0.0.0:{port}"),
            "--timeout",
            settings.timeout,
            "--redirect",
            redirect.to_annotation(),
            "--inbound-wait",
            _INBOUND_WAIT,
        ],
        "securityContext": settings.security_context,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **resources_field(values),
    }


def _own_image(values: Values) -> Object:
    picture = values.meshgraft.image
    return {"image": image(picture, values), "imagePullPolicy": pull_policy(picture, values)}
