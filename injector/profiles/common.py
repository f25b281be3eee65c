"""What every profile needs: labels of the owner, the proxy's place, resources, and the
annotations that make a meshed pod easier to live with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from injector.labels import label_value
from injector.model import BuildInput, Object
from injector.pods import annotations_of, first_container
from injector.values import Image, Values

CONTROL_PLANE_NS_LABEL = "linkerd.io/control-plane-ns"
WORKLOAD_NS_LABEL = "linkerd.io/workload-ns"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"

_LABELLED_KINDS = frozenset(
    ("deployment", "replicationcontroller", "replicaset", "job", "daemonset", "statefulset")
)
_RESOURCES = (("cpu", "cpu"), ("memory", "memory"), ("ephemeral-storage", "ephemeral_storage"))


def owner_labels(given: BuildInput) -> dict[str, str]:
    """The three labels of a meshed pod; ``linkerd.io/proxy-<kind>`` for known workloads only.

    Like Linkerd's, the webhook never labels a CronJob's pods so, and the command does.
    """
    labels = {
        CONTROL_PLANE_NS_LABEL: given.values.linkerd_namespace,
        WORKLOAD_NS_LABEL: given.namespace.name,
    }
    kind = given.owner.kind
    if kind in _LABELLED_KINDS or (kind == "cronjob" and given.origin.by_command):
        labels[f"linkerd.io/proxy-{kind}"] = label_value(given.owner.name)
    return dict(sorted(labels.items()))


def proxy_position(values: Values) -> Literal["native", "first", "last"]:
    """Native sidecar; else first, where the application waits for the proxy; else last."""
    if values.proxy.native_sidecar:
        return "native"
    return "first" if values.proxy.await_ else "last"


def image(picture: Image, values: Values) -> str:
    """``name:version``; without a version of its own, an image follows the installed one."""
    return f"{picture.name}:{picture.version or values.linkerd_version}"


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
