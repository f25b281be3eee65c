"""Makes settings fit the pod they go into: what would break that pod is not applied, and said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from injector.core.model import Namespace, Object
from injector.core.pods import annotations_of, containers
from injector.core.values import Resource, Resources, Values
from vocabulary.annotations import PREFIX
from vocabulary.annotations.parse import BadValue, parse_quantity

_ENFORCED = "pod-security.kubernetes.io/enforce"
_UID_RANGES, _UIDS_OF_A_RANGE = 1_000_000_000, 10_000
"""Where OpenShift's ranges of uids for namespaces begin, and how many each has by default."""
_MOST_ANNOTATED = 256 * 1024
"""Kubernetes' TotalAnnotationSizeLimitB: bytes of keys and values."""
_RESOURCES = (("cpu", "cpu"), ("memory", "memory"))
"""Of those that a pod itself may have (KEP-2837), the ones that settings give to the proxy."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Settings that the pod can bear, and what to tell of the others."""

    values: Values
    warnings: tuple[str, ...] = ()


def fit(pod: Object, values: Values, namespace: Namespace) -> Fitted:
    """The settings without what would break this pod. Pure."""
    warnings: list[str] = []
    values = _with_resources(values, _resources(pod, values, warnings))
    values = _with_validator_user(values)
    if values.enable_debug_sidecar and (why := _no_debug(values, namespace)):
        warnings.append(why)
        values = msgspec.structs.replace(values, enable_debug_sidecar=False)
    return Fitted(values, tuple(warnings))


def oversize(patched: Object) -> str:
    """What to tell of a pod whose annotations the API server would refuse; empty for others."""
    annotations = annotations_of(patched)
    if sum(map(len, annotations.values())) < _MOST_ANNOTATED // 8:
        return ""
    size = sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items())
    if size <= _MOST_ANNOTATED:
        return ""
    return (
        f"the pod gets no proxy: its annotations would be {size} bytes with what the proxy needs, "
        f"of which the API server takes {_MOST_ANNOTATED}"
    )


def _no_debug(values: Values, namespace: Namespace) -> str:
    """Why there can be no debug sidecar; empty where there can."""
    if not (values.debug_container.image.version or values.linkerd_version):
        return (
            "the debug sidecar is not added: its image has no tag. Set "
            f"{PREFIX}debug-image-version, or debugContainer.image.version in the values"
        )
    if namespace.labels.get(_ENFORCED) == "restricted":
        return (
            "the debug sidecar is not added: it runs as root, which the namespace's label "
            f"{_ENFORCED}: restricted forbids; use kubectl debug"
        )
    return ""


def _with_validator_user(values: Values) -> Values:
    """The validator must not be the proxy's user, whose traffic no rule catches; and in one of
    OpenShift's ranges, where a proxy of such a uid must be, it has to be too."""
    context, proxy = values.network_validator.security_context, values.proxy.uid
    own = context.get("runAsUser")
    if proxy >= _UID_RANGES:
        first = proxy - proxy % _UIDS_OF_A_RANGE
        wanted = first if first != proxy else first + 1
        if isinstance(own, int) and first <= own < first + _UIDS_OF_A_RANGE and own != proxy:
            wanted = own
    elif own == proxy:
        wanted = proxy - 1 if proxy > 1 else proxy + 1
    else:
        return values
    if own is None or own == wanted:
        return values
    validator = msgspec.structs.replace(
        values.network_validator, security_context={**context, "runAsUser": wanted}
    )
    return msgspec.structs.replace(values, network_validator=validator)


def _with_resources(values: Values, resources: Resources) -> Values:
    if resources is values.proxy.resources:
        return values
    proxy = msgspec.structs.replace(values.proxy, resources=resources)
    return msgspec.structs.replace(values, proxy=proxy)


def _resources(pod: Object, values: Values, warnings: list[str]) -> Resources:
    """What of the proxy's resources fits the pod's own: the same object where all of it does."""
    resources = values.proxy.resources
    whole = pod["spec"].get("resources")
    if not isinstance(whole, dict):
        return resources
    for name, field in _RESOURCES:
        asked: Resource = getattr(resources, field)
        fitting = _fitting(name, asked, whole, pod)
        if fitting != asked:
            resources = msgspec.structs.replace(resources, **{field: fitting})
            warnings.append(
                f"the pod's own resources leave no room for the proxy's {name} "
                f"({_shown(asked)}): left out. Raise spec.resources, or lower "
                f"{PREFIX}proxy-{name}-request and -limit"
            )
    return resources


def _shown(asked: Resource) -> str:
    pairs = (("request", asked.request), ("limit", asked.limit))
    return ", ".join(f"{verb} {amount}" for verb, amount in pairs if amount)


def _fitting(name: str, asked: Resource, whole: Mapping[str, object], pod: Object) -> Resource:
    """Validation of pod-level resources: requests of all containers within the pod's, and each
    limit within the pod's. A container's limit is its request where it names none."""
    limit = _amount(whole, "limits", name)
    request = _amount(whole, "requests", name)
    request = limit if request is None else request
    needed = _parsed(asked.request or asked.limit)
    if needed is not None and request is not None and sum(_requests(pod, name)) + needed > request:
        return Resource()
    most = _parsed(asked.limit)
    if most is not None and limit is not None and most > limit:
        return Resource(request=asked.request)
    return asked


def _requests(pod: Object, name: str) -> Iterator[int]:
    before = len(pod["spec"].get("initContainers") or ())
    for number, container in enumerate(containers(pod)):
        if number < before and container.get("restartPolicy") != "Always":
            continue
        own = container.get("resources")
        if isinstance(own, dict):
            found = _amount(own, "requests", name)
            found = _amount(own, "limits", name) if found is None else found
            if found is not None:
                yield found


def _amount(resources: Mapping[str, object], part: str, name: str) -> int | None:
    amounts = resources.get(part)
    return _parsed(amounts.get(name)) if isinstance(amounts, dict) else None


def _parsed(amount: object) -> int | None:
    """In billionths; None for what is none, and for what the API server is going to refuse."""
    if amount is None or amount == "":
        return None
    try:
        return parse_quantity(str(amount)).nano
    except BadValue:
        return None
