"""The values that flow through the injector's core: who asks, what was decided, what is added.

Flow: ``AdmissionReview -> decode -> decide -> profile.build -> splice -> diff -> AdmissionReview``.
Everything here is plain data; objects of Kubernetes are the dicts that the API server sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from injector.core.marks import Marks
from injector.core.skips import SkipReason
from injector.core.values import Values

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The request's namespace: the name, and the metadata that decides."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owner:
    """The workload that a pod belongs to, after following ReplicaSets and Jobs upwards.

    ``kind`` is lowercase, as Linkerd's labels and metrics have it; a pod without an owner is
    its own (``pod``). ``api_version`` and ``uid`` are empty then.
    """

    kind: str
    name: str
    api_version: str = ""
    uid: str = ""
    api_kind: str = field(default="", compare=False)
    """``kind`` as the API spells it, for Events; another spelling makes no other owner."""
    is_known: bool = field(default=False, compare=False)
    """Whether the API server said so, and not the one who sent the pod alone."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who injects. The command's ``--manual`` output is document for document Linkerd's; the
    webhook adds what makes a meshed pod easier to live with (docs/reference/compatibility.md)."""

    created_by: str
    additions: bool

    @property
    def by_command(self) -> bool:
        """Whether Linkerd's rules for its command hold, not those for its webhook: the namespace
        is not looked at, and only ``linkerd.io/inject: disabled`` keeps a pod out."""
        return not self.additions


@dataclass(frozen=True, slots=True)
class Additions:
    """What a profile adds to a pod, before it is spliced in.

    ``position`` says where the proxy goes: ``native`` among the init containers (restartPolicy
    Always, behind ``init_containers``), ``first`` or ``last`` among the containers.
    ``container_env`` goes to each of the pod's own containers that does not set the name itself.
    """

    proxy: Object | None = None
    position: Literal["native", "first", "last"] = "native"
    init_containers: tuple[Object, ...] = ()
    containers: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    container_env: tuple[Object, ...] = ()
    image_pull_secrets: tuple[Object, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildInput:
    """What a profile may look at: the pod as it came (with inherited annotations), its place in
    the cluster, the settings, and ``values``: the settings after the namespace's and the pod's
    annotations were laid over them."""

    pod: Object
    settings: Values
    values: Values
    namespace: Namespace
    owner: Owner
    origin: Origin


class Profile(Protocol):
    """A kind of proxy. A new one costs one module: this name and this one function."""

    @property
    def name(self) -> str:
        """The profile's name, as ``--profile`` takes it."""

    @property
    def ignores(self) -> frozenset[str]:
        """Keys of annotations that mean nothing to this kind of proxy: each gets a warning."""

    @property
    def marks(self) -> Marks:
        """What its containers, volumes and variables are called."""

    def build(self, given: BuildInput) -> Additions:
        """What to add to the pod. Pure; must not change ``given.pod``."""


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event to be put on the owner, best effort, never under dry run."""

    reason: Literal["Injected", "InjectionSkipped"]
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the core decided about one object.

    ``patched`` is the object as it should be (the one given, unchanged, where nothing is to be
    done). ``reasons`` is empty where the object was injected. ``conflicts`` are those of the
    ``warnings`` that are about the pod itself and what it gets.
    """

    patched: Object
    injected: bool
    reasons: tuple[SkipReason, ...] = ()
    warnings: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    annotation_at: Literal["namespace", "workload", ""] = ""
