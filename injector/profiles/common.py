"""What every profile needs: labels of the owner, the proxy's place, resources, and the
annotations that make a meshed pod easier to live with."""

from __future__ import annotations

from collections.abc import Iterable

from injector.core.marks import (
    CONTROL_PLANE_NS_LABEL,
    DEFAULT_CONTAINER,
    SAFE_TO_EVICT,
    WORKLOAD_NS_LABEL,
)
from injector.core.model import BuildInput, Object
from injector.core.pods import annotations_of, first_container
from injector.core.values import BadValues, Image, Values, proxy_position
from vocabulary.annotations import BadValue, Duration, parse_duration
from vocabulary.labels import label_value

_LABELLED_KINDS = frozenset(
    ("deployment", "replicationcontroller", "replicaset", "job", "daemonset", "statefulset")
)
_RESOURCES = (("cpu", "cpu"), ("memory", "memory"), ("ephemeral-storage", "ephemeral_storage"))


def trust_domain(values: Values) -> str:
    """Within which identities are unique: the cluster's domain, unless the settings say another."""
    return values.identity_trust_domain or values.cluster_domain


def owner_labels(given: BuildInput) -> dict[str, str]:
    """The three labels of a meshed pod; ``linkerd.io/proxy-<kind>`` for known workloads only.

    Like Linkerd's, the webhook never labels a CronJob's pods so, and the command does; and the
    pods of a ReplicaSet that belongs to something unknown (an Argo Rollout) name the ReplicaSet.
    """
    labels = {
        CONTROL_PLANE_NS_LABEL: given.values.linkerd_namespace,
        WORKLOAD_NS_LABEL: given.namespace.name,
    }
    kind, name = given.owner.kind, given.owner.name
    if kind not in _LABELLED_KINDS and (replica_set := _replica_set(given.pod)):
        kind, name = "replicaset", replica_set
    if kind in _LABELLED_KINDS or (kind == "cronjob" and given.origin.by_command):
        labels[f"linkerd.io/proxy-{kind}"] = label_value(name)
    return dict(sorted(labels.items()))


def _replica_set(pod: Object) -> str:
    """The name of the ReplicaSet that alone owns the pod."""
    references = (pod.get("metadata") or {}).get("ownerReferences") or ()
    names = [one["name"] for one in references if one.get("kind") == "ReplicaSet"]
    return names[0] if len(references) == len(names) == 1 else ""


def image(picture: Image, values: Values) -> str:
    """``name:version``; without a version of its own, an image follows the installed one, and
    without either it has no tag."""
    version = picture.version or values.linkerd_version
    return f"{picture.name}:{version}" if version else picture.name


def pull_policy(picture: Image, values: Values) -> str:
    """The image's own pull policy, else the one for all images."""
    return picture.pull_policy or values.image_pull_policy


def resources(values: Values) -> Object | None:
    """The proxy's ``resources``, None where nothing is set."""
    result: Object = {}
    for verb, section in (("limit", "limits"), ("request", "requests")):
        amounts = {
            name: amount
            for name, field in _RESOURCES
            if (amount := getattr(getattr(values.proxy.resources, field), verb))
        }
        if amounts:
            result[section] = amounts
    return result or None


def cores(values: Values) -> int:
    """How many worker threads the proxy gets: ``proxy.cores``, which a CPU limit sets, else the
    minimum."""
    return values.proxy.cores or values.proxy.runtime.workers.minimum


def convenience_annotations(given: BuildInput, volumes: Iterable[Object]) -> dict[str, str]:
    """Annotations that the webhook adds beside the proxy's own (none for the command).

    ``default-container`` where the proxy comes first, so that ``kubectl logs`` and ``exec`` go on
    to reach the application; ``safe-to-evict-local-volumes`` with the emptyDirs among
    ``volumes``, so that the cluster autoscaler can still drain the node.
    """
    if given.origin.by_command:
        return {}
    present = annotations_of(given.pod)
    result: dict[str, str] = {}
    if proxy_position(given.values) == "first" and DEFAULT_CONTAINER not in present:
        result[DEFAULT_CONTAINER] = first_container(given.pod).get("name", "")
    listed = [name for name in present.get(SAFE_TO_EVICT, "").split(",") if name]
    ours = [volume["name"] for volume in volumes if "emptyDir" in volume]
    if ours:
        result[SAFE_TO_EVICT] = ",".join(dict.fromkeys(listed + ours))
    return result


_TRACE_ATTRIBUTE = "resource.opentelemetry.io/"


def trace_attributes(pod: Object) -> dict[str, str]:
    """Attributes of a pod's traces: its ``resource.opentelemetry.io/*`` annotations, by name."""
    return {
        key.removeprefix(_TRACE_ATTRIBUTE): " ".join(value.split())
        for key, value in annotations_of(pod).items()
        if key.startswith(_TRACE_ATTRIBUTE)
    }


def pull_secrets(given: BuildInput) -> tuple[Object, ...]:
    """Secrets for the images that we add, where the settings name some; each must exist in the
    pod's namespace. The command adds none, as Linkerd's does not."""
    return () if given.origin.by_command else tuple(given.values.image_pull_secrets)


def resources_field(values: Values) -> Object:
    """The proxy's ``resources`` as a field of a container; nothing where nothing is set."""
    amounts = resources(values)
    return {"resources": amounts} if amounts else {}


def duration(name: str, text: str) -> Duration:
    """A duration of ``proxy`` in the settings; annotations were checked, the values file was not.

    Raises:
        BadValues: it is none.
    """
    try:
        return parse_duration(text)
    except BadValue as error:
        raise BadValues(f"values: proxy.{name}: {text!r}: expected {error}") from error
