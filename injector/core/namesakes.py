"""Settles what happens where the pod has something of the name of what is to be added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from injector.core.model import Additions, Object
from injector.core.pods import containers
from injector.core.skips import SkipReason
from vocabulary.annotations import PREFIX


@dataclass(frozen=True, slots=True)
class Settled:
    """What can be added, what to tell of the rest, and why there can be no proxy at all, in words
    and as a reason; empty where there can."""

    additions: Additions
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    reason: SkipReason = SkipReason.CONFLICT


def settle(pod: Object, additions: Additions) -> Settled:
    """The pod's own containers and volumes stay, always. One that is just what would be added
    serves as it is; beside another, what is added for convenience is left out, and of what the
    proxy needs there can only be one: the pod gets none.
    """
    own_containers = {each.get("name", ""): each for each in containers(pod)}
    own_volumes = {each.get("name", ""): each for each in pod["spec"].get("volumes") or ()}
    proxy = (additions.proxy,) if additions.proxy else ()
    needed = [
        *(("container", each) for each in proxy if each["name"] in own_containers),
        *(("container", each) for each in _differing(additions.init_containers, own_containers)),
        *(("volume", each) for each in _differing(additions.volumes, own_volumes)),
    ]
    if needed:
        kind, item = needed[0]
        refusal = _refusal(kind, item["name"], item in proxy)
        reason = SkipReason.SIDECAR_EXISTS if item in proxy else SkipReason.CONFLICT
        return Settled(additions, refusal=refusal, reason=reason)
    left_out = [each["name"] for each in _differing(additions.containers, own_containers)]
    return Settled(
        replace(
            additions,
            init_containers=_missing(additions.init_containers, own_containers),
            containers=_missing(additions.containers, own_containers),
            volumes=_missing(additions.volumes, own_volumes),
        ),
        tuple(
            f'container "{name}" is the pod\'s own: the debug sidecar of that name is not added. '
            f"Rename it, or drop {PREFIX}enable-debug-sidecar"
            for name in left_out
        ),
    )


def _differing(added: Iterable[Object], own: dict[str, Object]) -> list[Object]:
    return [each for each in added if own.get(each["name"], each) != each]


def _missing(added: Iterable[Object], own: dict[str, Object]) -> tuple[Object, ...]:
    return tuple(each for each in added if each["name"] not in own)


def _refusal(kind: str, name: str, is_proxy: bool) -> str:
    would_be = "the proxy" if is_proxy else f"a {kind} that the proxy needs"
    return f'the pod gets no proxy: a {kind} is called "{name}", as {would_be} would be; rename it'
