"""Generated workloads, and short ways to run inject and uninject on them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from injector.core.model import Object
from injector.core.values import Values
from injector.manifests.inject import How, inject_rule
from injector.manifests.objects import Report, uninject_rule
from injector.profiles import PROFILES
from tests.injector.support import settings

VALUES = settings(identityTrustAnchorsPEM="anchors\n")
WITH_CNI = settings(identityTrustAnchorsPEM="anchors\n", cniEnabled=True)
PATHS = {
    "Pod": (),
    "ReplicationController": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
GROUPS = {"Pod": "v1", "ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}


def how(profile: str = "linkerd", values: Values = VALUES, **rest: Any) -> How:
    """A way to inject, with annotations only unless ``manual`` is given."""
    return How(values=values, profile=PROFILES[profile], version="test", **rest)


def inject(obj: Object, given: How | None = None) -> tuple[Object, Report]:
    """Inject one object, which must come out untouched itself."""
    before = copy.deepcopy(obj)
    result = inject_rule(given or how())(obj)
    assert obj == before, "inject changed its input"
    return result


def uninject(obj: Object) -> Object:
    """Uninject one object, which must come out untouched itself."""
    before = copy.deepcopy(obj)
    after, _ = uninject_rule(obj)
    assert obj == before, "uninject changed its input"
    return after


def workload(kind: str, pod: Object, name: str = "web", namespace: str = "shop") -> Object:
    """An object of a kind with a pod (``metadata`` and ``spec``) at its place."""
    top: Object = {"apiVersion": GROUPS.get(kind, "apps/v1"), "kind": kind}
    metadata = {"name": name, "namespace": namespace}
    if kind == "Pod":
        own = pod.get("metadata", {})
        return {**top, "metadata": {**metadata, **own}, "spec": pod["spec"]}
    inner: Object = pod
    for part in reversed(PATHS[kind]):
        inner = {part: inner}
    return {**top, "metadata": metadata, **inner}


def pod_in(obj: Object) -> Object:
    """The pod or pod template of a workload."""
    for part in PATHS[obj["kind"]]:
        obj = obj[part]
    return obj


def _absent_or(fields: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields)


_NAMES = st.sampled_from(("app", "web", "envoy", "side-car", "linkerd-await"))
_VARIABLE: st.SearchStrategy[Object] = st.sampled_from(
    (
        {"name": "PORT", "value": "080"},
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "http_proxy", "value": "$(NODE_NAME):4140"},
        {"name": "no_proxy", "value": "example.com"},
    )
)
_VARIABLES = st.lists(_VARIABLE, min_size=1, max_size=3, unique_by=lambda one: str(one["name"]))
_PORTS = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.integers(1, 65535)},
        optional={"protocol": st.sampled_from(("TCP", "UDP")), "name": st.just("http")},
    ),
    min_size=1,
    max_size=2,
)
_CONTAINER = st.builds(
    lambda name, rest: {"name": name, "image": "app:1", **rest},
    _NAMES,
    _absent_or({"env": _VARIABLES, "ports": _PORTS}),
)
_CONTAINERS = st.lists(_CONTAINER, min_size=1, max_size=3, unique_by=lambda one: one["name"])
_ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        (
            "config.linkerd.io/skip-inbound-ports",
            "config.linkerd.io/opaque-ports",
            "config.linkerd.io/proxy-log-level",
            "linkerd.io/helm-release-version",
            "kubectl.kubernetes.io/default-container",
            "example.com/team",
        )
    ),
    st.sampled_from(("22", "22,8100-8102", "http", "")),
    min_size=1,
)
_LABELS = st.dictionaries(
    st.sampled_from(("app", "linkerd.io/extension", "tier")), st.just("x"), min_size=1
)
_METADATA = _absent_or({"annotations": _ANNOTATIONS, "labels": _LABELS}).filter(bool)
_SPEC = st.builds(
    lambda containers, rest: {"containers": containers, **rest},
    _CONTAINERS,
    _absent_or(
        {
            "initContainers": st.just([{"name": "migrate", "env": [{"name": "A", "value": "1"}]}]),
            "volumes": st.just([{"name": "data", "emptyDir": {}}]),
            "restartPolicy": st.just("OnFailure"),
        }
    ),
)
PODS = st.builds(
    lambda metadata, spec: {**metadata, "spec": spec}, _absent_or({"metadata": _METADATA}), _SPEC
)
WORKLOADS = st.builds(workload, st.sampled_from(tuple(PATHS)), PODS)
"""Workloads that nobody has injected yet."""
