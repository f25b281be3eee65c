"""``meshgraft inject``: puts the proxy, or the wish for it, into manifests."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from injector.core.model import Profile
from injector.core.values import Values
from injector.manifests.inject import How, inject_rule
from injector.manifests.overrides import OURS, Overrides, parse_config
from injector.manifests.report import failed_report, inject_report
from injector.profiles import get_profile
from injector.service.settings import Settings
from meshgraft._errors import CommandError
from meshgraft.commands._inputs import read_all
from meshgraft.commands._profiles import ProfileName
from meshgraft.commands._transform import Output, run
from vocabulary.version import __version__

_Switch = Parameter(negative="", show_default=False)
_Repeated = Parameter(negative="", consume_multiple=False, show_default=False)
_DEPRECATED = ("proxy-cpu", "proxy-memory")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProxyFlags:
    """Linkerd's own flags about the proxy. Without ``--manual`` each becomes an annotation."""

    admin_port: str | None = None
    """The proxy's port of metrics and probes."""
    close_wait_timeout: str | None = None
    """Sets nf_conntrack_tcp_timeout_close_wait, such as 30s."""
    control_port: str | None = None
    """The proxy's port of its control API."""
    default_inbound_policy: str | None = None
    """What may come in where no policy says otherwise: all-unauthenticated, all-authenticated,
    cluster-unauthenticated, cluster-authenticated, deny or audit."""
    enable_debug_sidecar: Annotated[bool | None, _Switch] = None
    """Add a container for debugging."""
    enable_external_profiles: Annotated[bool | None, _Switch] = None
    """Look up service profiles for names outside the cluster too."""
    image_pull_policy: str | None = None
    """Always, IfNotPresent or Never."""
    inbound_port: str | None = None
    """The proxy's port for traffic into the pod."""
    ingress: Annotated[bool | None, _Switch] = None
    """Make the proxy take each request's destination from its headers."""
    native_sidecar: Annotated[bool | None, _Switch] = None
    """Run the proxy as an init container that stays."""
    opaque_ports: str | None = None
    """Ports on which no protocol is to be detected; on Services too."""
    outbound_port: str | None = None
    """The proxy's port for traffic out of the pod."""
    proxy_cpu: Annotated[str | None, Parameter(show=False)] = None
    proxy_cpu_limit: str | None = None
    """The most CPU that the proxy gets."""
    proxy_cpu_request: str | None = None
    """The CPU that the proxy asks for."""
    proxy_image: str | None = None
    """The proxy's image, without tag."""
    proxy_log_level: str | None = None
    """What the proxy logs."""
    proxy_memory: Annotated[str | None, Parameter(show=False)] = None
    proxy_memory_limit: str | None = None
    """The most memory that the proxy gets."""
    proxy_memory_request: str | None = None
    """The memory that the proxy asks for."""
    proxy_uid: str | None = None
    """The user that the proxy runs as."""
    proxy_version: Annotated[str | None, Parameter(alias="-v")] = None
    """The tag of the proxy's image."""
    require_identity_on_inbound_ports: str | None = None
    """Inbound ports that take only connections with a mesh identity."""
    skip_inbound_ports: str | None = None
    """Inbound ports that bypass the proxy."""
    skip_outbound_ports: str | None = None
    """Outbound ports that bypass the proxy."""
    wait_before_exit_seconds: str | None = None
    """How long the proxy waits before it stops; not for native sidecars."""


def inject(
    *resources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    profile: ProfileName | None = None,
    manual: Annotated[bool, _Switch] = False,
    values: Path | None = None,
    set: Annotated[list[str], _Repeated] = [],  # noqa: B006
    config: Annotated[list[str], _Repeated] = [],  # noqa: B006
    ignore_cluster: Annotated[bool, _Switch] = False,
    output: Annotated[Output, Parameter(alias="-o")] = "yaml",
    registry: str | None = None,
    linkerd_namespace: Annotated[str | None, Parameter(alias="-L")] = None,
    verbose: Annotated[bool, _Switch] = False,
    disable_identity: Annotated[bool, _Switch, Parameter(show=False)] = False,
    flags: ProxyFlags = ProxyFlags(),
) -> int:
    """Put the proxy into manifests, or the annotations that make the webhook do so.

    Parameters
    ----------
    resources
        Files, folders (every file below, but hidden ones), https:// URLs, or - for stdin.
    profile
        Which proxy; overrides the values file.
    manual
        Write the proxy itself, for clusters without the webhook; else only annotations.
    values
        Settings: a Helm values file, or Linkerd's ConfigMap linkerd-config (YAML or JSON).
    set
        A setting, KEY=VALUE, such as proxy.logLevel=debug; may be repeated.
    config
        An annotation, KEY=VALUE, with or without config.linkerd.io/; may be repeated.
    ignore_cluster
        Take all settings from here and none from a cluster (the only way so far).
    output
        The format of what is written to stdout.
    registry
        Take all images from this registry. Default with profile linkerd:
        $LINKERD_DOCKER_REGISTRY, if set.
    linkerd_namespace
        The namespace of Linkerd's control plane.
    verbose
        Report what was found in order, too.
    """
    if disable_identity:
        raise CommandError("--disable-identity is no longer supported; identity is always required")
    base = Settings(values, profile).current
    overrides = Overrides(base)
    if registry is None and base.meshgraft.profile == "linkerd":
        registry = os.environ.get("LINKERD_DOCKER_REGISTRY")
    _lay(overrides, flags, set, registry, linkerd_namespace)
    how = _how(overrides, get_profile(overrides.values.meshgraft.profile), manual, config)
    notes = [*overrides.warnings, *_void(how, overrides, values, ignore_cluster)]
    return run(
        read_all(resources),
        inject_rule(how),
        output,
        lambda reports: inject_report(reports, verbose, notes),
        failed_report,
    )


def _how(overrides: Overrides, profile: Profile, manual: bool, config: list[str]) -> How:
    """Linkerd's command writes its flags into the proxy as settings, which comes out a little
    different from annotations; for other profiles both are the same."""
    said, asked = overrides.annotations, dict(map(parse_config, config))
    if manual and profile.name != "linkerd":
        return How(
            values=overrides.rest,
            profile=profile,
            version=__version__,
            manual=True,
            config={**said, **asked},
        )
    unknown = OURS if manual else frozenset()
    return How(
        values=overrides.values,
        profile=profile,
        version=__version__,
        manual=manual,
        overrides={key: text for key, text in said.items() if key not in {*asked, *unknown}},
        config=asked,
    )


def _lay(
    overrides: Overrides,
    flags: ProxyFlags,
    assignments: list[str],
    registry: str | None,
    linkerd_namespace: str | None,
) -> None:
    """Lay flags over the settings; the registry first, so that an image's own flag wins."""
    if registry:
        overrides.registry(registry)
    if linkerd_namespace:
        overrides.linkerd_namespace(linkerd_namespace)
    for assignment in assignments:
        overrides.set(assignment)
    for item in fields(flags):
        given, name = getattr(flags, item.name), item.name.replace("_", "-")
        if given is None:
            continue
        if name in _DEPRECATED:
            overrides.warnings.append(
                f"flag --{name} has been deprecated, use --{name}-request instead"
            )
        overrides.flag(name, _flag_text(name, given))


def _flag_text(name: str, given: str | bool) -> str:
    if name == "ingress":
        return "ingress" if given else "enabled"
    return given if isinstance(given, str) else str(given).lower()


def _void(how: How, overrides: Overrides, values: Path | None, ignore_cluster: bool) -> list[str]:
    """What was asked for and cannot come about, without ``--manual``; with it, what is missing.

    Raises:
        CommandError: Linkerd's proxy without the settings of its control plane.
    """
    if not how.manual:
        return [
            f"{path} has no effect without --manual: no annotation tells the webhook"
            for path in overrides.unsaid
        ]
    if how.profile.name != "linkerd":
        return []
    _check_linkerd(how.values, values, ignore_cluster)
    anchors = how.values.identity_trust_anchors_pem.strip()
    return [] if anchors else ["identityTrustAnchorsPEM is empty: no proxy can prove who it is"]


def _check_linkerd(values: Values, path: Path | None, ignore_cluster: bool) -> None:
    if path is None and not ignore_cluster:
        raise CommandError(
            "--manual takes the control plane's settings, and this command cannot ask a cluster"
            " for them yet; save them (kubectl -n linkerd get configmap linkerd-config -o yaml)"
            " and name the file with --values, or give --ignore-cluster"
        )
    if not (values.linkerd_version or values.proxy.image.version):
        raise CommandError(
            "the proxy's version is not known; give --proxy-version, or --values with"
            " linkerdVersion"
        )
