"""The plugin's input: its entry of the network configuration (stdin), and ``CNI_ARGS``.

All keys of Linkerd's own entry are accepted. Numbers may be written as strings and port lists
as numbers, as Helm users do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from cni_plugin.spec import (
    ANNOTATIONS_CAPABILITY,
    DEFAULT_CNI_VERSION,
    SUPPORTED_VERSIONS,
    CniError,
    Code,
)
from vocabulary.defaults import INBOUND_PORT, OUTBOUND_PORT, PROXY_UID

DEFAULT_EXCLUDED_NAMESPACES = ("kube-system", "linkerd-cni")


_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Id = Annotated[int, msgspec.Meta(le=4294967294)]


class LinkerdConf(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """``linkerd``: the redirection for pods that carry none of their own, as in Linkerd's entry.

    ``iptables-mode`` and ``use-wait-flag`` are accepted and mean nothing here: the agent chose its
    backend when it started, and there is no xtables lock to wait for.
    """

    incoming_proxy_port: _Port = INBOUND_PORT
    """0 stands for the default, as does a missing one (Linkerd redirects to port 0 then)."""
    outgoing_proxy_port: _Port = OUTBOUND_PORT
    proxy_uid: _Id = PROXY_UID
    """0 and below: no rule for the proxy's uid."""
    proxy_gid: _Id = -1
    """0 and below: no rule for the proxy's gid."""
    ports_to_redirect: list[int | str] = []
    inbound_ports_to_ignore: list[int | str] = []
    outbound_ports_to_ignore: list[int | str] = []
    subnets_to_ignore: list[str] = []
    simulate: bool = False
    """Decide and log, but touch no rules."""
    iptables_mode: str = ""
    use_wait_flag: bool = False
    ipv6: bool = False


class MeshgraftConf(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """``meshgraft``: what Linkerd's entry has no place for."""

    exclude_namespaces: list[str] | None = None
    socket: str | None = None
    """Where the agent listens, for the static program, unless ``LINKERD_CNI_SOCKET`` tells it."""


class _RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime handed over; null is how Go writes the empty map of a pod with none."""

    annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name=ANNOTATIONS_CAPABILITY
    )

    @property
    def handed_over(self) -> dict[str, str] | None:
        """The pod's annotations; None where the runtime handed over none."""
        return None if self.annotations is msgspec.UNSET else self.annotations or {}


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The entry as it is written; null is the same as absent."""

    name: str = ""
    log_level: str | None = None
    kubernetes: dict[str, Any] | None = None
    policy: dict[str, Any] | None = None
    linkerd: dict[str, Any] | None = None
    meshgraft: MeshgraftConf | None = None
    runtime_config: _RuntimeConfig | None = msgspec.field(default=None, name="runtimeConfig")
    prev_result: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="prevResult")


class _Version(msgspec.Struct, frozen=True):
    cni_version: str = msgspec.field(default="0.1.0", name="cniVersion")


_entry_decoder = msgspec.json.Decoder(_Entry, strict=False)
_version_decoder = msgspec.json.Decoder(_Version)


class NetConf(msgspec.Struct, frozen=True, kw_only=True):
    """The plugin's entry, checked. ``annotations`` is None where the runtime handed over none."""

    cni_version: str
    name: str = ""
    log_level: str = "warn"
    linkerd: LinkerdConf = LinkerdConf()
    excluded_namespaces: frozenset[str] = frozenset(DEFAULT_EXCLUDED_NAMESPACES)
    annotations: Mapping[str, str] | None = None
    prev_result: bytes = b""
    """Exactly as it came; empty where there was none."""

    @property
    def result(self) -> bytes:
        """What a successful ADD prints: prevResult byte for byte, or as Linkerd without one."""
        return self.prev_result or msgspec.json.encode({"cniVersion": self.cni_version})

    def at_least(self, version: str) -> bool:
        """Whether the configuration's version allows what came with ``version``."""
        return SUPPORTED_VERSIONS.index(self.cni_version) >= SUPPORTED_VERSIONS.index(version)


def cni_version_of(stdin: bytes) -> str:
    """The configuration's ``cniVersion`` for an error about the rest of it; never raises."""
    try:
        return _decode_version(stdin)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return DEFAULT_CNI_VERSION


def _decode_version(stdin: bytes) -> str:
    """Empty is the same as absent, as in Go: libcni hands that down from a list without one."""
    return _version_decoder.decode(stdin).cni_version or _Version().cni_version


def _decode(stdin: bytes) -> tuple[str, _Entry]:
    try:
        return _decode_version(stdin), _entry_decoder.decode(stdin)
    except msgspec.ValidationError as error:
        raise CniError(Code.BAD_CONFIG, f"network configuration: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CniError(
            Code.BAD_CONTENT, f"network configuration on stdin is not usable JSON: {error}"
        ) from error


def _linkerd(keys: Mapping[str, Any]) -> LinkerdConf:
    """``linkerd``; as in Go, null leaves the default of a key standing."""
    given = {key: value for key, value in keys.items() if value is not None}
    try:
        return msgspec.convert(given, LinkerdConf, strict=False)
    except msgspec.ValidationError as error:
        raise CniError(Code.BAD_CONFIG, f"network configuration: linkerd: {error}") from error


def _level(text: str | None) -> str:
    """``debug`` or ``info``; anything else is ``warn``, as Linkerd has it."""
    level = (text or "").lower()
    return level if level in ("debug", "info") else "warn"


def decode_netconf(stdin: bytes) -> NetConf:
    """The plugin's entry from stdin.

    Raises:
        CniError: not JSON (code 6), a key of the wrong type (code 7, names it), or a version of
            CNI that is not known here (code 1).
    """
    cni_version, entry = _decode(stdin)
    if cni_version not in SUPPORTED_VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f'incompatible CNI versions; config is "{cni_version}", '
            f"plugin supports {list(SUPPORTED_VERSIONS)}",
        )
    prev_result = bytes(entry.prev_result)
    if prev_result == b"null":
        prev_result = b""
    if prev_result and not prev_result.startswith(b"{"):
        raise CniError(Code.BAD_CONFIG, "network configuration: prevResult is not a JSON object")
    excluded = entry.meshgraft.exclude_namespaces if entry.meshgraft else None
    return NetConf(
        cni_version=cni_version,
        name=entry.name,
        log_level=_level(entry.log_level),
        linkerd=_linkerd(entry.linkerd or {}),
        excluded_namespaces=frozenset(
            DEFAULT_EXCLUDED_NAMESPACES if excluded is None else excluded
        ),
        annotations=entry.runtime_config.handed_over if entry.runtime_config else None,
        prev_result=prev_result,
    )


class PodArgs(msgspec.Struct, frozen=True):
    """Which pod a call is about, from ``CNI_ARGS``; empty where the runtime did not say."""

    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.named else "(not named in CNI_ARGS)"

    @property
    def named(self) -> bool:
        """Whether this is a pod of Kubernetes at all."""
        return bool(self.namespace and self.name)


def parse_cni_args(text: str) -> PodArgs:
    """The pod that ``K=V;K2=V2`` names. Unknown keys are tolerated, of a repeated one the last
    counts."""
    pairs = {key: value for key, _, value in (item.partition("=") for item in text.split(";"))}
    return PodArgs(
        namespace=pairs.get("K8S_POD_NAMESPACE", ""),
        name=pairs.get("K8S_POD_NAME", ""),
        uid=pairs.get("K8S_POD_UID", ""),
    )
