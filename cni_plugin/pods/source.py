"""Where the agent looks up a pod that did not bring its redirection along, and what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml

from vocabulary.errors import MeshgraftError

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
API_SERVER_PORTS = (443, 6443)
"""Of the Service default/kubernetes in most clusters; Linkerd's plugin falls back on them too."""


class PodsFileError(MeshgraftError, ValueError):
    """A file of objects cannot be used; the text names the file and what is wrong with it."""


class EnvVar(msgspec.Struct, frozen=True):
    """A variable of a container; no value where it is taken from elsewhere."""

    name: str = ""
    value: str | None = None


class SecurityContext(msgspec.Struct, frozen=True, rename="camel"):
    """As whom a container runs."""

    run_as_user: int | None = None
    run_as_group: int | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a container that tells a proxy, and how it runs."""

    name: str = ""
    env: list[EnvVar] | None = None
    security_context: SecurityContext | None = None


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a PodSpec that decides about traffic."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    host_network: bool = False


class _Owner(msgspec.Struct, frozen=True):
    controller: bool = False


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    owner_references: list[_Owner] | None = None


Time = str | None | msgspec.UnsetType
"""RFC 3339; null is the API server's for "not known", absent is in a list that somebody wrote."""


class Running(msgspec.Struct, frozen=True, rename="camel"):
    """A container that runs."""

    started_at: Time = msgspec.UNSET


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    """A container that has ended."""

    exit_code: int = 0
    started_at: Time = msgspec.UNSET


class ContainerState(msgspec.Struct, frozen=True):
    """``state`` or ``lastState``: at most one is set; neither means waiting."""

    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What the kubelet last reported about one container."""

    name: str = ""
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class _IP(msgspec.Struct, frozen=True):
    ip: str = ""


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A pod's condition; those that nobody here reads are not kept."""

    type: str = ""
    status: str = ""
    last_transition_time: Time = msgspec.UNSET


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a PodStatus that tells which network the pod has, and how far it came."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[_IP] | None = msgspec.field(default=None, name="podIPs")
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: list[_IP] | None = msgspec.field(default=None, name="hostIPs")
    conditions: list[Condition] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None


class Pod(msgspec.Struct, frozen=True):
    """The part of a Pod (core/v1) that decides about its traffic; decodes from the API's JSON."""

    metadata: _Metadata
    spec: Spec = Spec()
    status: Status = Status()

    @property
    def annotations(self) -> Mapping[str, str]:
        """``metadata.annotations``, empty where there are none."""
        return self.metadata.annotations or {}

    @property
    def labels(self) -> Mapping[str, str]:
        """``metadata.labels``, empty where there are none."""
        return self.metadata.labels or {}

    @property
    def container_names(self) -> frozenset[str]:
        """Names of the containers, without the init containers."""
        return frozenset(container.name for container in self.spec.containers or ())

    @property
    def init_container_names(self) -> frozenset[str]:
        """Names of the init containers, native sidecars among them."""
        return frozenset(container.name for container in self.spec.init_containers or ())

    def __str__(self) -> str:
        return f"{self.metadata.namespace or 'default'}/{self.metadata.name}"

    def has_uid(self, uid: str) -> bool:
        """Whether this is the pod that the runtime means, and not an earlier one of its name.

        A static pod's runtime uid is not the one of its mirror in the API: that carries it as
        an annotation.
        """
        return uid in ("", self.metadata.uid, self.annotations.get(MIRROR_ANNOTATION)) or (
            not self.metadata.uid
        )


class PodSourceError(MeshgraftError):
    """A pod could not be looked up, for now; the text says why, and what to look at."""


class PodSource(Protocol):
    """Knows pods. Called from many threads; an implementation bounds its own time."""

    @property
    def name(self) -> str:
        """What is looked through, for messages: "the file pods.yaml"."""

    def get(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod, or None where it is not known; an empty ``uid`` matches any.

        Raises:
            PodSourceError: it cannot be found out now.
        """

    def api_server_ports(self) -> Sequence[int]:
        """At which ports pods reach the API server; a good guess where it cannot be found out."""


class NodePods(PodSource, Protocol):
    """Knows which pods there are, too."""

    def known(self) -> Sequence[Pod]:
        """This node's pods, as far as they are known without asking anybody."""

    def problem(self) -> str | None:
        """Why they are not known, where they should be."""


class KnownPods:
    """A `PodSource` of pods that are known from the start; without any, it knows none."""

    def __init__(self, pods: Iterable[Pod] = (), name: str = "the pods given at the start") -> None:
        self._name = name
        self._pods = {(pod.metadata.namespace or "default", pod.metadata.name): pod for pod in pods}

    @property
    def name(self) -> str:
        """What is looked through, for messages."""
        return self._name

    def get(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod of that name, where it is the one with this uid too."""
        pod = self._pods.get((namespace, name))
        return pod if pod is not None and pod.has_uid(uid) else None

    def known(self) -> Sequence[Pod]:
        """All of them."""
        return tuple(self._pods.values())

    def problem(self) -> str | None:
        """Never any."""
        return None

    def api_server_ports(self) -> Sequence[int]:
        """Nobody is there to ask."""
        return API_SERVER_PORTS


def _objects(tree: Any) -> Iterator[Any]:
    """The single objects of a List, of lists in it, or of an object by itself."""
    if isinstance(tree, dict) and isinstance(tree.get("items"), list):
        for item in tree["items"]:
            yield from _objects(item)
    elif tree is not None:
        yield tree


def _is_pod(thing: Any) -> bool:
    if not isinstance(thing, dict):
        raise PodsFileError(f"expected Kubernetes objects, found {type(thing).__name__}")
    return thing.get("kind") in (None, "Pod") and thing.get("apiVersion") in (None, "v1")


def pods_from_file(path: Path) -> KnownPods:
    """The Pods among the objects of a kubectl List (YAML or JSON, several documents too).

    Raises:
        PodsFileError: not readable, not YAML, or an object that is no object or no valid Pod.
    """
    try:
        with path.open("rb") as file:
            documents = list(yaml.load_all(file, Loader=yaml.CSafeLoader))
        things = [thing for document in documents for thing in _objects(document)]
        pods = [msgspec.convert(thing, Pod) for thing in things if _is_pod(thing)]
    except OSError as error:
        raise PodsFileError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError, PodsFileError, RecursionError) as error:
        raise PodsFileError(f"{path}: {error}") from error
    return KnownPods(pods, name=f"the file {path}")
