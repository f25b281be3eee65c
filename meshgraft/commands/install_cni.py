"""``meshgraft install-cni``: prints the manifests of the CNI plugin, for ``kubectl apply -f -``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from meshgraft._errors import CommandError
from meshgraft.charts.helm import Tree
from meshgraft.commands._charts import ValueFlags, layers, print_manifests

NAMESPACE = "linkerd-cni"
IMAGE = "meshgraft/meshgraft"

_Switch = Parameter(negative="", show_default=False)
_Repeated = Parameter(negative="", consume_multiple=False, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class CniFlags:
    """Linkerd's own flags of ``install-cni``; what is not given is the chart's default."""

    proxy_uid: int | None = None
    """The proxy's user, whose own traffic is left alone. Default: 2102."""
    proxy_gid: int | None = None
    """The proxy's group, whose own traffic is left alone; -1 for none. Default: -1."""
    inbound_port: int | None = None
    """The proxy's port for traffic into the pod. Default: 4143."""
    outbound_port: int | None = None
    """The proxy's port for traffic out of the pod. Default: 4140."""
    control_port: int | None = None
    """The proxy's port of its control API, which bypasses the proxy. Default: 4190."""
    admin_port: int | None = None
    """The proxy's port of metrics and probes, which bypasses the proxy. Default: 4191."""
    skip_inbound_ports: Annotated[list[str], _Repeated] = field(default_factory=list)
    """Further inbound ports that bypass the proxy, such as 22,8000-8010."""
    skip_outbound_ports: Annotated[list[str], _Repeated] = field(default_factory=list)
    """Outbound ports that bypass the proxy."""
    redirect_ports: Annotated[list[str], _Repeated] = field(default_factory=list)
    """The only inbound ports that go through the proxy. Default: all."""
    cni_image: str | None = None
    """Image of the agent, without tag. Default: meshgraft/meshgraft."""
    cni_image_version: str | None = None
    """Its tag. Default: this command's version."""
    registry: str | None = None
    """Take the image from this registry."""
    cni_log_level: Literal["debug", "info", "warn"] | None = None
    """What the plugin logs on the node. Default: info."""
    dest_cni_net_dir: str | None = None
    """The node's folder of network configurations. Default: /etc/cni/net.d."""
    dest_cni_bin_dir: str | None = None
    """The node's folder of CNI programs. Default: /opt/cni/bin."""
    cni_scope: Literal["active", "all"] | None = None
    """Which configurations get the plugin. Default: the active one."""
    cni_method: Literal["rewrite", "drop-in"] | None = None
    """How: into the configuration's own file, or as a file beside it. Default: rewrite."""
    priority_class_name: str | None = None
    """Priority class of the agent. Default: system-node-critical."""
    mesh: Annotated[bool, _Switch] = False
    """A relay on each node, for install --mesh."""
    use_wait_flag: Annotated[bool, _Switch] = False
    """Accepted for Linkerd's sake: there is no xtables lock to wait for here."""
    linkerd_version: Annotated[str | None, Parameter(alias="-v")] = None
    """Accepted for Linkerd's sake: --cni-image-version is what counts."""


_NO_CNI_FLAGS = CniFlags()
_NO_FLAGS = ValueFlags()


def install_cni(*, cni: CniFlags = _NO_CNI_FLAGS, flags: ValueFlags = _NO_FLAGS) -> None:
    """Print the manifests of the CNI plugin, for kubectl apply -f -; again, to upgrade."""
    preset = {"createNamespace": True, "managedBy": "meshgraft"}
    print_manifests(
        "meshgraft-cni", NAMESPACE, layers("meshgraft-cni", preset, flags, chart_values(cni)), flags
    )
    if cni.linkerd_version is not None:
        print(
            "‼ --linkerd-version has no effect: --cni-image-version is the image's tag",
            file=sys.stderr,
        )


def chart_values(cni: CniFlags) -> Tree:
    """What the flags say, as values of the chart.

    Raises:
        CommandError: --cni-image has a tag, which belongs in --cni-image-version.
    """
    image = {"name": _image(cni), "version": cni.cni_image_version}
    given: dict[str, Any] = {
        "proxyUID": cni.proxy_uid,
        "proxyGID": cni.proxy_gid,
        "inboundProxyPort": cni.inbound_port,
        "outboundProxyPort": cni.outbound_port,
        "proxyControlPort": cni.control_port,
        "proxyAdminPort": cni.admin_port,
        "ignoreInboundPorts": ",".join(cni.skip_inbound_ports) or None,
        "ignoreOutboundPorts": ",".join(cni.skip_outbound_ports) or None,
        "portsToRedirect": ",".join(cni.redirect_ports) or None,
        "image": _said(image) or None,
        "logLevel": cni.cni_log_level,
        "destCNINetDir": cni.dest_cni_net_dir,
        "destCNIBinDir": cni.dest_cni_bin_dir,
        "cniScope": cni.cni_scope,
        "cniMethod": cni.cni_method,
        "priorityClassName": cni.priority_class_name,
        "useWaitFlag": cni.use_wait_flag or None,
        "mesh": {"enabled": True} if cni.mesh else None,
    }
    return _said(given)


def _said(values: Tree) -> Tree:
    return {key: value for key, value in values.items() if value is not None}


def _image(cni: CniFlags) -> str | None:
    """The image's name; a registry takes the place of what is before its last part."""
    if cni.cni_image is not None and ":" in cni.cni_image.rpartition("/")[2]:
        raise CommandError(f"--cni-image {cni.cni_image}: its tag belongs in --cni-image-version")
    if cni.registry is None:
        return cni.cni_image
    name = (cni.cni_image or IMAGE).rpartition("/")[2]
    return f"{cni.registry.rstrip('/')}/{name}"
