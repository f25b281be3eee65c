"""Checks of the mesh behind Envoy's proxies: control, identity, roots, relays."""

from __future__ import annotations

from functools import partial

from cryptography import x509

from injector.core.model import Object
from kubeapi import reading
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot
from meshgraft.checks.parts import config_map, settings
from meshgraft.installed import CNI

_FIX = "Install the injector again: meshgraft install | kubectl apply -f -"
_CNI_FIX = "Install the plugin with relays: meshgraft install-cni --mesh | kubectl apply -f -"
_ROOTS = "meshgraft-trust-roots"
_FILE = "ca-bundle.crt"


def _deployment(part: str, options: Options) -> Ref:
    return Ref(reading.DEPLOYMENTS, f"meshgraft-{part}", options.mesh_namespace)


def _daemon_set(options: Options) -> Ref:
    return Ref(reading.DAEMON_SETS, CNI, options.cni_namespace)


def _roots(namespace: str) -> Ref:
    return Ref(reading.CONFIG_MAPS, _ROOTS, namespace)


def _see(snapshot: Snapshot) -> None:
    """Raises Skip where the settings have no mesh."""
    if not settings(snapshot).meshgraft.mesh.enabled:
        raise Skip


def _is_ready(part: str, snapshot: Snapshot) -> str | None:
    _see(snapshot)
    ref = _deployment(part, snapshot.options)
    found = snapshot.find(ref)
    if found is None:
        return f"missing Deployment: {ref.name}"
    wanted = (found.get("spec") or {}).get("replicas", 1)
    ready = (found.get("status") or {}).get("readyReplicas", 0)
    return None if ready >= max(wanted, 1) else f"{ready} of {wanted} replicas are ready"


def _certificates(found: Object | None, ref: Ref) -> tuple[list[x509.Certificate], str]:
    text = ((found or {}).get("data") or {}).get(_FILE) or ""
    if not text.strip():
        return [], f'{ref}: there is no root under data key "{_FILE}"'
    try:
        return x509.load_pem_x509_certificates(text.encode()), ""
    except ValueError as error:
        return [], f"{ref}: not PEM certificates: {error}"


def _are_published(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    options = snapshot.options
    refs = [_roots(options.mesh_namespace), _roots(options.cni_namespace)]
    held = []
    for ref in refs:
        roots, problem = _certificates(snapshot.find(ref), ref)
        if problem:
            return problem
        held.append(set(roots))
    if held[0] != held[1]:
        return f"{refs[1]} holds other roots than {refs[0]}"
    return None


def _hold(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    ref = _roots(snapshot.options.mesh_namespace)
    roots, problem = _certificates(snapshot.need(ref), ref)
    if problem:
        raise Skip
    if any(root.not_valid_before_utc <= snapshot.now < root.not_valid_after_utc for root in roots):
        return None
    return f"no root in {ref} holds now"


def _is_there(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    spec = snapshot.need(_daemon_set(snapshot.options)).get("spec") or {}
    containers = (spec.get("template") or {}).get("spec", {}).get("containers") or ()
    if any(one.get("name") == "relay" for one in containers):
        return None
    return f"DaemonSet {CNI} has no container relay"


MESHGRAFT_MESH = Category(
    name="meshgraft-mesh",
    applies=lambda options: not options.pre,
    objects=lambda options: (
        config_map(options),
        _deployment("control", options),
        _deployment("identity", options),
        _daemon_set(options),
        _roots(options.mesh_namespace),
        _roots(options.cni_namespace),
    ),
    checks=(
        Check(
            id="meshgraft-mesh-identity",
            text="the mesh's identity is ready",
            run=partial(_is_ready, "identity"),
            fix="See why: kubectl -n meshgraft logs deployment/meshgraft-identity",
            why="New pods of the mesh wait for their certificate. Those that run go on for hours.",
            retriable=True,
        ),
        Check(
            id="meshgraft-mesh-control",
            text="the mesh's control is ready",
            run=partial(_is_ready, "control"),
            fix="See why: kubectl -n meshgraft logs deployment/meshgraft-control",
            why="Proxies go on with what their node knows; what is new to a node is answered 503.",
            retriable=True,
        ),
        Check(
            id="meshgraft-mesh-roots",
            text="the mesh's roots are published",
            run=_are_published,
            fix=_FIX,
            why="Relays or control trust nobody, or others than pods do. Identity writes both"
            " ConfigMaps; its log says what keeps it from that.",
            retriable=True,
        ),
        Check(
            id="meshgraft-mesh-roots-valid",
            text="a root of the mesh holds now",
            run=_hold,
            fix="Look at the clock of your nodes, and at identity's log",
            why="No connection of the mesh is accepted.",
        ),
        Check(
            id="meshgraft-mesh-relay",
            text="each node's agent has a relay beside it",
            run=_is_there,
            fix=_CNI_FIX,
            why="Pods of the mesh do not become ready: their proxies reach nobody.",
        ),
    ),
)
