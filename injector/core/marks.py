"""Marks: the names by which it is known later what an injector put into a pod.

Each profile owns its own, and registers them; who takes an injection back asks for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONTROL_PLANE_NS_LABEL = "linkerd.io/control-plane-ns"
WORKLOAD_NS_LABEL = "linkerd.io/workload-ns"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
PROFILE = "meshgraft.io/profile"
"""Annotation with the profile's name, on pods whose names alone may be an application's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What one profile calls what it adds."""

    profile: str
    proxies: frozenset[str] = frozenset()
    inits: frozenset[str] = frozenset()
    validators: frozenset[str] = frozenset()
    conveniences: frozenset[str] = frozenset()
    """Containers that a proxy can do without, and that anybody may have."""
    volumes: frozenset[str] = frozenset()
    variables: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What each of the pod's own containers gets, by name."""
    images: tuple[str, ...] = ()
    """Where in the values its images are; one registry for all of them is laid over these."""
    are_told: bool = True
    """Whether `PROFILE` tells of them; else the names themselves are an injector's alone."""

    @property
    def containers(self) -> frozenset[str]:
        """All of them."""
        return self.proxies | self.inits | self.validators | self.conveniences


class _Registry:
    def __init__(self) -> None:
        self.by_profile: dict[str, Marks] = {}
        self.together = Marks(profile="")
        self.untold = Marks(profile="")

    def add(self, marks: Marks) -> None:
        self.by_profile[marks.profile] = marks
        everyone = self.by_profile.values()
        self.together = _united(*everyone)
        self.untold = _united(*(one for one in everyone if not one.are_told))


def _united(*marks: Marks) -> Marks:
    return Marks(
        profile="",
        proxies=frozenset().union(*(one.proxies for one in marks)),
        inits=frozenset().union(*(one.inits for one in marks)),
        validators=frozenset().union(*(one.validators for one in marks)),
        conveniences=frozenset().union(*(one.conveniences for one in marks)),
        volumes=frozenset().union(*(one.volumes for one in marks)),
        variables={name: each for one in marks for name, each in one.variables.items()},
    )


_registry = _Registry()


def register(marks: Marks) -> None:
    """Make a profile's marks known; again, to replace them."""
    _registry.add(marks)


def all_marks() -> Marks:
    """Those of all profiles."""
    return _registry.together


def untold_marks() -> Marks:
    """Those that are known by their names alone."""
    return _registry.untold


def marks_of(profile: str) -> Marks:
    """Those of one profile, by its name; none where nobody registered it."""
    return _registry.by_profile.get(profile, Marks(profile=profile))
