"""Decides whether a pod gets a proxy, and collects every reason against it.

The rules and their order are those of Linkerd's proxy injector 2.20, the reason codes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from injector.core.marks import PROFILE, all_marks, marks_of, untold_marks
from injector.core.model import Namespace, Object, Origin
from injector.core.pods import annotations_of, containers, service_account_mount
from injector.core.skips import SkipReason
from injector.core.values import Values
from vocabulary.annotations import INJECT

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
AnnotationAt = Literal["namespace", "workload", ""]

_VALID = frozenset(("enabled", "ingress", "disabled", ""))
_WANTED = frozenset(("enabled", "ingress"))
_PROXY_NAMES = frozenset(("istio-proxy", "kuma-sidecar", "consul-dataplane"))
_PROXY_IMAGES = ("cr.l5d.io/linkerd/proxy:", "gcr.io/istio-release/proxyv2:")
_INIT_NAMES = frozenset(
    (
        *("istio-init", "istio-validation", "kuma-init", "kuma-validation"),
        *("consul-connect-inject-init", "osm-init"),
    )
)
_INIT_IMAGES = ("cr.l5d.io/linkerd/proxy-init:", "gcr.io/istio-release/proxy_init:")


@dataclass(frozen=True, slots=True)
class Decision:
    """No reasons: inject. ``annotation_at`` says which annotation decided."""

    reasons: tuple[SkipReason, ...] = ()
    annotation_at: AnnotationAt = ""


_MESH_REPOSITORIES = frozenset(
    (
        *("proxyv2", "kuma-dp", "kuma-init", "consul-dataplane", "osm-sidecar-init"),
        *("aws-appmesh-envoy", "aws-appmesh-proxy-route-manager"),
    )
)
"""Of other meshes' images, from whichever registry: they bear their names nowhere else."""
_AMBIENT_LABEL, _AMBIENT_ANNOTATION = "istio.io/dataplane-mode", "ambient.istio.io/redirection"
_OS_LABELS = frozenset(("kubernetes.io/os", "beta.kubernetes.io/os"))


def is_windows(pod: Object) -> bool:
    """Whether the pod can only run on Windows: by ``os``, node selector, required node affinity, or
    security options that nothing else has."""
    spec = pod["spec"]
    named = _part(spec, "os").get("name")
    if named:
        return bool(named == "windows")
    selector = _part(spec, "nodeSelector")
    if any(selector.get(label) == "windows" for label in _OS_LABELS):
        return True
    if any(_part(one, "securityContext").get("windowsOptions") for one in (spec, *containers(pod))):
        return True
    affinity = _part(_part(spec, "affinity"), "nodeAffinity")
    required = _part(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    terms = _parts(required, "nodeSelectorTerms")
    # Terms are alternatives; the expressions of one must all hold.
    return bool(terms) and all(
        any(_wants_windows(each) for each in _parts(term, "matchExpressions")) for term in terms
    )


def _part(obj: Object, name: str) -> Object:
    found = obj.get(name)
    return found if isinstance(found, dict) else {}


def _parts(obj: Object, name: str) -> list[Object]:
    found = obj.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _wants_windows(expression: Object) -> bool:
    if expression.get("key") not in _OS_LABELS:
        return False
    named = expression.get("values") or ()
    if expression.get("operator") == "In":
        return bool(named) and all(name == "windows" for name in named)
    return expression.get("operator") == "NotIn" and "linux" in named


def _is_of_another_mesh(pod: Object) -> bool:
    """Istio's ambient mode, which has no container in the pod; or a container whose image is one of
    a mesh's, whatever its name."""
    if _part(_part(pod, "metadata"), "labels").get(_AMBIENT_LABEL) == "ambient":
        return True
    if annotations_of(pod).get(_AMBIENT_ANNOTATION) == "enabled":
        return True
    images = (str(one.get("image") or "") for one in containers(pod))
    return any(_repository(image) in _MESH_REPOSITORIES for image in images)


def _repository(image: str) -> str:
    """The last part of an image's name, without tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def has_sidecar(pod: Object) -> bool:
    """Whether a proxy, or its init container, of ours or of another mesh is there already."""
    init_containers = pod["spec"].get("initContainers") or ()
    if _is_of_another_mesh(pod):
        return True
    if init_containers and any(
        _matches(one, _INIT_NAMES | _our_inits(), _INIT_IMAGES) for one in init_containers
    ):
        return True
    # A container of the name that a profile's proxy has may well be an application's own, except
    # where the pod says that it is ours.
    told = marks_of(annotations_of(pod).get(PROFILE, "")).proxies
    proxies = _PROXY_NAMES | untold_marks().proxies | told
    return any(_matches(one, proxies, _PROXY_IMAGES) for one in containers(pod))


def _our_inits() -> frozenset[str]:
    ours = all_marks()
    return ours.inits | (ours.validators - untold_marks().validators)


def _matches(container: Object, names: frozenset[str], images: tuple[str, ...]) -> bool:
    return container.get("name") in names or container.get("image", "").startswith(images)


def decide(obj: Object, namespace: Namespace, values: Values, origin: Origin) -> Decision:
    """Whether to inject the object, a Pod or anything else that was admitted.

    Both come as asked for (`injector.core.opt_in`). All reasons are collected, not only the
    first, so that whoever fixes one sees the next at once.
    """
    if obj.get("kind") != "Pod" or not isinstance(obj.get("spec"), dict):
        return Decision((SkipReason.UNSUPPORTED_RESOURCE,))
    if MIRROR_ANNOTATION in annotations_of(obj):
        return Decision((SkipReason.MIRROR_POD,))
    by_annotation, annotation_at = _by_annotation(obj, namespace, origin)
    reasons = (*_by_spec(obj), by_annotation, _by_token(obj, values, origin))
    return Decision(tuple(reason for reason in reasons if reason), annotation_at)


def _by_spec(pod: Object) -> Iterator[SkipReason]:
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        yield SkipReason.HOST_NETWORK
    if is_windows(pod):
        yield SkipReason.WINDOWS
    if has_sidecar(pod):
        yield SkipReason.SIDECAR_EXISTS


def _by_annotation(
    pod: Object, namespace: Namespace, origin: Origin
) -> tuple[SkipReason | None, AnnotationAt]:
    """Linkerd's truth table of ``linkerd.io/inject``."""
    at_pod = annotations_of(pod).get(INJECT, "")
    if origin.by_command:
        # Who runs the command wants the proxy: only an explicit no counts.
        return (SkipReason.DISABLED if at_pod == "disabled" else None), "workload"
    at_namespace = namespace.annotations.get(INJECT, "")
    if at_namespace not in _VALID:
        return SkipReason.INVALID_AT_NAMESPACE, ""
    if at_pod not in _VALID:
        return SkipReason.INVALID_AT_WORKLOAD, ""
    if at_namespace in _WANTED:
        return (SkipReason.DISABLED, "workload") if at_pod == "disabled" else (None, "namespace")
    return (None, "workload") if at_pod in _WANTED else (SkipReason.ENABLE_ABSENT, "")


def _by_token(pod: Object, values: Values, origin: Origin) -> SkipReason | None:
    """Without a projected token the proxy's identity needs the pod's own."""
    if values.identity.service_account_token_projection:
        return None
    unmounted = not origin.by_command and service_account_mount(pod) is None
    if pod["spec"].get("automountServiceAccountToken") is False or unmounted:
        return SkipReason.NO_SERVICE_ACCOUNT_TOKEN
    return None
