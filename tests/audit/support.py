"""Pods as a cluster holds them, and short ways to judge them."""

from __future__ import annotations

import copy
from typing import Any

from injector.core.model import Namespace, Object, Owner
from injector.core.mutate import mutate
from injector.core.values import Values, decode_values
from injector.profiles import get_profile
from meshgraft.audit.judge import ORIGIN, Judgement, judge
from meshgraft.audit.model import Finding, Mesh, Selectors, Subject, Webhook, Where, moment

ENABLED = {"linkerd.io/inject": "enabled"}
WEBHOOK = Webhook(
    created_at=moment("2026-01-01T00:00:00Z"),
    failure_policy="Ignore",
    selectors=(
        Selectors(
            {
                "matchExpressions": [
                    {
                        "key": "config.linkerd.io/admission-webhooks",
                        "operator": "NotIn",
                        "values": ["disabled"],
                    }
                ]
            },
            {
                "matchExpressions": [
                    {"key": "linkerd.io/control-plane-component", "operator": "DoesNotExist"}
                ]
            },
        ),
    ),
)
OWNER = Owner("deployment", "web", "apps/v1", "1", "Deployment")


def pod(annotations: dict[str, str] | None = None, **more: Any) -> Object:
    """A running pod of ReplicaSet web-1; ``labels`` and ``created`` are options."""
    spec = {"containers": [{"name": "app", "image": "app:1"}], **more.pop("spec", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-1-x",
            "namespace": "shop",
            "annotations": annotations or {},
            "labels": more.pop("labels", {"app": "web"}),
            "creationTimestamp": more.pop("created", "2026-06-01T00:00:00Z"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1"}],
        },
        "spec": spec,
    }


def mesh(webhook: Webhook | None = WEBHOOK, **tree: Any) -> Mesh:
    """What is in force: settings from a tree shaped like the values file."""
    return Mesh(values=values(**tree), webhook=webhook, source="the test")


def values(**tree: Any) -> Values:
    return decode_values({"linkerdVersion": "v1", **tree})


def where(
    annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **more: Any
) -> Where:
    """Namespace shop; in the mesh, unless said otherwise."""
    found = ENABLED if annotations is None else annotations
    return Where(Namespace("shop", found, labels or {}), **more)


def subject(obj: Object, place: Where | None = None, **more: Any) -> Subject:
    return Subject(pod=obj, where=place or where(), owner=more.pop("owner", OWNER), **more)


def injected(obj: Object, place: Where | None = None, owner: Owner = OWNER, **tree: Any) -> Object:
    """The pod as the webhook made it, and as the API server keeps it."""
    settings = values(**tree)
    profile = get_profile(settings.meshgraft.profile)
    outcome = mutate(obj, (place or where()).namespace, owner, settings, profile, ORIGIN)
    assert outcome.injected
    return admitted(outcome.patched)


def admitted(obj: Object) -> Object:
    """Defaults filled in, zero values left out, amounts in their canonical form, and the API
    server's own admission plugins were at the containers."""
    obj = copy.deepcopy(obj)
    for one in (*obj["spec"].get("initContainers", ()), *obj["spec"]["containers"]):
        one["terminationMessagePath"] = "/dev/termination-log"
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            if name in one:
                probe = {"successThreshold": 1, "periodSeconds": 10, **one[name]}
                if "httpGet" in probe:
                    probe["httpGet"] = {**probe["httpGet"], "scheme": "HTTP"}
                one[name] = {key: value for key, value in probe.items() if value != 0}
        for variable in one.get("env", ()):
            if "fieldRef" in variable.get("valueFrom", {}):
                variable["valueFrom"]["fieldRef"]["apiVersion"] = "v1"
            if variable.get("value") == "":
                del variable["value"]
        for port in one.get("ports", ()):
            port.setdefault("protocol", "TCP")
        resources = one.setdefault("resources", {}) or {}
        one["resources"] = _canonical({"requests": resources.get("limits", {}), **resources})
        token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/x", "readOnly": True}
        one.setdefault("volumeMounts", []).append(token)
    obj["spec"].setdefault("volumes", []).append({"name": "kube-api-access-x", "projected": {}})
    for volume in obj["spec"]["volumes"]:
        for source in volume.values():
            if isinstance(source, dict) and "sources" in source:
                source.setdefault("defaultMode", 420)
    return obj


def _canonical(resources: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    spelled = {"1000m": "1", "1024Mi": "1Gi"}
    return {
        verb: {name: spelled.get(amount, amount) for name, amount in amounts.items()}
        for verb, amounts in resources.items()
    }


def judged(obj: Object, place: Where | None = None, **more: Any) -> Judgement:
    settings = more.pop("mesh", None) or mesh()
    before = copy.deepcopy(obj)
    found = judge(subject(obj, place, **more), settings)
    assert obj == before, "the judge changed its input"
    return found


def finding(obj: Object, place: Where | None = None, **more: Any) -> Finding | None:
    return judged(obj, place, **more).finding
