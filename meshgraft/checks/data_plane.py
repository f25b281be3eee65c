"""Checks of the meshed pods (``--proxy``), and of identities with profile linkerd."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from injector.core.authorship import author_of
from injector.core.marks import WORKLOAD_NS_LABEL, all_marks
from injector.core.model import Object
from injector.core.pods import annotations_of
from injector.core.values import Values
from kubeapi import reading
from kubeapi.client import ApiServerError
from meshgraft.audit.model import labels_of, webhook_of
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot
from meshgraft.checks.parts import WEBHOOK as REGISTRATION
from meshgraft.checks.parts import config_map, deployment, settings
from meshgraft.installed import version_of
from vocabulary.annotations import INJECT, PREFIX
from vocabulary.annotations.redirect import CREATED_BY, WEBHOOK
from vocabulary.version import __version__

_LABELS_OF_OURS = frozenset(("config.linkerd.io/admission-webhooks",))
_TRUST_ROOT = "linkerd.io/trust-root-sha256"
_MOST = 20
"""Pods that are named; the rest is counted."""
_RESTART = "Restart the owners of these pods: meshgraft audit -A --restart"


def proxies(options: Options) -> Ref:
    """The meshed pods: each carries this label, whichever the profile."""
    return Ref(reading.PODS, "", options.namespace, WORKLOAD_NS_LABEL, keep=slim)


def labelled(options: Options) -> Ref:
    """Pods with a label where an annotation may be meant, meshed or not."""
    return Ref(reading.PODS, "", options.namespace, INJECT, keep=slim)


def _namespace(options: Options) -> Ref:
    return Ref(reading.NAMESPACES, options.namespace)


def slim(pod: Object) -> Object:
    """What these checks look at, of a pod that may be one of ten thousand."""
    status = pod.get("status") or {}
    meta = pod["metadata"]
    return {
        "metadata": {
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "labels": labels_of(pod),
            "annotations": {
                key: text
                for key, text in annotations_of(pod).items()
                if key in (CREATED_BY, _TRUST_ROOT)
            },
        },
        "phase": status.get("phase"),
        "ready": [
            bool(container.get("ready"))
            for name in ("initContainerStatuses", "containerStatuses")
            for container in status.get(name) or ()
            if container.get("name") in all_marks().proxies
        ],
    }


def _running(snapshot: Snapshot) -> list[Object]:
    found = snapshot.all(proxies(snapshot.options))
    return [pod for pod in found if pod["phase"] not in ("Succeeded", "Failed")]


def _listed(lead: str, names: Iterable[str]) -> str | None:
    """A line for each pod, in Linkerd's form; None where there is none."""
    lines = sorted(names)
    if not lines:
        return None
    more = [f"\t* and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return "\n".join([lead, *(f"\t* {line}" for line in lines[:_MOST]), *more])


def _name(pod: Object) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _namespace_exists(snapshot: Snapshot) -> str | None:
    options = snapshot.options
    if not options.namespace:
        raise Skip
    if snapshot.find(_namespace(options)):
        return None
    return f'The "{options.namespace}" namespace does not exist'


def _are_there(snapshot: Snapshot) -> str | None:
    if _running(snapshot):
        return None
    where = snapshot.options.namespace
    return f'no proxies found in namespace "{where}"' if where else "no proxies found"


def _are_ready(snapshot: Snapshot) -> str | None:
    # Profile node gives pods no proxy of their own.
    waiting = [pod for pod in _running(snapshot) if pod["ready"] and not all(pod["ready"])]
    waiting += [pod for pod in _running(snapshot) if not pod["ready"] and pod["phase"] == "Pending"]
    return _listed("Some data plane pods are not ready:", map(_name, waiting))


def _version(pod: Object) -> str:
    by = author_of(pod)
    return by.removeprefix(WEBHOOK).strip() if by.startswith(WEBHOOK + " ") else ""


def _are_of(snapshot: Snapshot, wanted: str) -> str | None:
    if not wanted:
        raise Skip
    others = {_name(pod): _version(pod) for pod in _running(snapshot)}
    return _listed(
        "Some data plane pods are not running the current version:",
        (f"{name} ({found})" for name, found in others.items() if found not in ("", wanted)),
    )


def _are_current(snapshot: Snapshot) -> str | None:
    return _are_of(snapshot, version_of(snapshot.need(deployment(snapshot.options))))


def _match_cli(snapshot: Snapshot) -> str | None:
    return _are_of(snapshot, __version__)


def _labels_are_right(snapshot: Snapshot) -> str | None:
    by_label = webhook_of(snapshot.find(REGISTRATION) or {}).by_label
    options = snapshot.options
    lines: dict[str, None] = {}
    for pod in (*snapshot.all(proxies(options)), *snapshot.all(labelled(options))):
        for key in labels_of(pod):
            is_setting = key.startswith(PREFIX) and key not in _LABELS_OF_OURS
            if is_setting or (key == INJECT and not by_label):
                lines[f"{_name(pod)}\n\t\t{key}"] = None
    return _listed("Some labels on data plane pods should be annotations:", lines)


MESHGRAFT_DATA_PLANE = Category(
    name="meshgraft-data-plane",
    applies=lambda options: options.proxy and not options.pre,
    objects=lambda options: (
        deployment(options),
        REGISTRATION,
        *((_namespace(options),) if options.namespace else ()),
    ),
    lists=lambda options: (proxies(options), labelled(options)),
    checks=(
        Check(
            id="l5d-data-plane-exists",
            text="data plane namespace exists",
            run=_namespace_exists,
            fix="Name a namespace that is there with -n.",
            why="There is no such namespace.",
            fatal=True,
        ),
        Check(
            id="meshgraft-data-plane-proxies",
            text="data plane proxies exist",
            run=_are_there,
            fix="Annotate a namespace with linkerd.io/inject: enabled and restart its workloads;"
            " meshgraft audit says what is in the way.",
            why="No pod is meshed.",
            retriable=True,
        ),
        Check(
            id="l5d-data-plane-ready",
            text="data plane proxies are ready",
            run=_are_ready,
            fix="Look at the pod's proxy: kubectl logs POD -c envoy-proxy, or linkerd-proxy.",
            why="A pod whose proxy is not ready gets no traffic.",
            retriable=True,
        ),
        Check(
            id="l5d-data-plane-version",
            text="data plane is up-to-date",
            run=_are_current,
            fix=_RESTART,
            why="These pods were injected by another version than the one that is installed.",
            warning=True,
        ),
        Check(
            id="l5d-data-plane-cli-version",
            text="data plane and cli versions match",
            run=_match_cli,
            fix="Use the meshgraft of that version, or restart the owners of these pods.",
            why="This command is of another version than what injected these pods.",
            warning=True,
        ),
        Check(
            id="l5d-data-plane-pod-labels",
            text="data plane pod labels are configured correctly",
            run=_labels_are_right,
            fix="Write them among the annotations of the pod template.",
            why="What configures the proxy counts as an annotation only; as a label it has no"
            " effect.",
            warning=True,
        ),
    ),
)


def _linkerd(snapshot: Snapshot) -> Values:
    """The settings, where pods get Linkerd's proxy.

    Raises:
        Skip: they do not.
        ApiServerError: the settings are not known.
    """
    values = settings(snapshot)
    if values.meshgraft.profile != "linkerd":
        raise Skip
    return values


def _trust_roots(values: Values) -> Ref:
    """Linkerd's own trust anchors."""
    return Ref(reading.CONFIG_MAPS, "linkerd-identity-trust-roots", values.linkerd_namespace)


def _needed_later(snapshot: Snapshot) -> tuple[Ref, ...]:
    try:
        return (_trust_roots(_linkerd(snapshot)),)
    except (ApiServerError, Skip):
        return ()


def _anchors_match(snapshot: Snapshot) -> str | None:
    values = _linkerd(snapshot)
    ref = _trust_roots(values)
    found = snapshot.find(ref)
    if found is None:
        return f'configmaps "{ref.name}" not found in namespace {ref.namespace}'
    theirs = (found.get("data") or {}).get("ca-bundle.crt") or ""
    ours = values.identity_trust_anchors_pem
    if _certificates(ours) == _certificates(theirs) and ours.strip():
        return None
    return (
        f"identityTrustAnchorsPEM of the settings is not ca-bundle.crt of {ref}"
        if ours.strip()
        else "identityTrustAnchorsPEM of the settings is empty"
    )


def _certificates(pem: str) -> frozenset[str]:
    """The certificates of a bundle, whatever their order and the space around them."""
    parts = pem.split("-----BEGIN CERTIFICATE-----")[1:]
    return frozenset("".join(part.partition("-----END")[0].split()) for part in parts)


def _proxies_trust(snapshot: Snapshot) -> str | None:
    if not snapshot.options.proxy:
        raise Skip
    wanted = hashlib.sha256(_linkerd(snapshot).identity_trust_anchors_pem.encode()).hexdigest()
    others = [
        pod for pod in _running(snapshot) if annotations_of(pod).get(_TRUST_ROOT, wanted) != wanted
    ]
    lead = "Some pods do not have the current trust bundle and must be restarted:"
    return _listed(lead, map(_name, others))


LINKERD_IDENTITY = Category(
    name="linkerd-identity",
    applies=lambda options: not options.pre,
    objects=lambda options: (config_map(options),),
    later=_needed_later,
    lists=lambda options: (proxies(options),) if options.proxy else (),
    checks=(
        Check(
            id="meshgraft-identity-trust-anchors",
            text="trust anchors are those of Linkerd's control plane",
            run=_anchors_match,
            fix="Install again: meshgraft install --profile linkerd takes the cluster's anchors",
            why="Proxies of profile linkerd that trust other anchors get no identity, and talk to"
            " nobody.",
        ),
        Check(
            id="l5d-identity-data-plane-proxies-certs-match-ca",
            text="data plane proxies certificate match CA",
            run=_proxies_trust,
            fix=_RESTART,
            why="A proxy has its trust anchors from when its pod was created.",
            warning=True,
        ),
    ),
)
