"""How many connections are open at once, and whose ends when there are too many."""

from __future__ import annotations

import enum
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field

GRACE_SECONDS = 1.0
"""A client's own younger connections are not ended for its next one: in a burst of reviews they
are as good as that. For another client's they are."""
REFUSAL_SECONDS = 10.0
"""For this long a refusal counts against readiness."""


class Stage(enum.IntEnum):
    """What a connection is at, from the one that is missed least to the one that is missed most."""

    HANDSHAKE = 0
    IDLE = 1
    RECEIVING = 2
    """A request has begun and is not whole."""
    ANSWERING = 3
    """The request is here, and the answer is being made: never ended for another one."""


def peer_of(host: str) -> str:
    """Who is counted as one client: an IPv4 address, or a /64 of IPv6 addresses, which one machine
    may have all for itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)


@dataclass(eq=False, slots=True)
class Place:
    """One connection's place among those that are open."""

    peer: str
    end: Callable[[], None]
    """Ends the connection at once."""
    stage: Stage = Stage.HANDSHAKE
    since: float = 0.0


@dataclass(slots=True)
class ConnectionLimit:
    """At most so many connections; who has most of them loses one to whoever has fewer.

    So a client that opens all that there are, idle, half a handshake or byte by byte, does not keep
    out an API server, which has few. From as many addresses as there are places nothing but client
    certificates helps (``--client-ca``).
    """

    most: int
    ended: Callable[[str], None] = lambda _: None
    """Hears of each connection that was not to be: ``evicted`` or ``refused``."""
    clock: Callable[[], float] = time.monotonic
    _peers: dict[str, dict[Place, None]] = field(default_factory=dict)
    _count: int = 0
    _refused_at: float = float("-inf")

    def __len__(self) -> int:
        return self._count

    def counts(self) -> dict[Stage, int]:
        """How many are at which stage."""
        counts = dict.fromkeys(Stage, 0)
        for places in self._peers.values():
            for place in places:
                counts[place.stage] += 1
        return counts

    def admit(self, host: str, end: Callable[[], None]) -> Place | None:
        """A place for a new connection, if need be by ending another; None where it has to go."""
        peer = peer_of(host)
        if self._count >= self.most:
            victim = self._victim(peer)
            if victim is None:
                if any(len(places) > self._size(peer) for places in self._peers.values()):
                    self._refused_at = self.clock()
                self.ended("refused")
                return None
            self.leave(victim)
            self.ended("evicted")
            victim.end()
        place = Place(peer, end, since=self.clock())
        self._peers.setdefault(peer, {})[place] = None
        self._count += 1
        return place

    def move(self, place: Place, stage: Stage) -> None:
        """The connection has come to this stage."""
        place.stage, place.since = stage, self.clock()

    def leave(self, place: Place) -> None:
        """The connection has ended; nothing happens where it had no place any more."""
        places = self._peers.get(place.peer, {})
        if place not in places:
            return
        del places[place]
        self._count -= 1
        if not places:
            del self._peers[place.peer]

    def problem(self) -> str | None:
        """Why clients are turned away, if one was in the last seconds: all places are taken by
        reviews that are being answered. Whoever has most connections is turned away without
        that: else one stranger could take a replica out of service.
        """
        if self.clock() - self._refused_at > REFUSAL_SECONDS:
            return None
        return f"connections are refused: all {self.most} are in use"

    def _size(self, peer: str) -> int:
        return len(self._peers.get(peer, ()))

    def _victim(self, newcomer: str) -> Place | None:
        own = self._size(newcomer)
        young = self.clock() - GRACE_SECONDS
        by_size = sorted(self._peers.items(), key=lambda item: (-len(item[1]), item[0] == newcomer))
        for peer, places in by_size:
            if len(places) < own or (peer != newcomer and len(places) <= 1):
                break
            candidates = [
                place
                for place in places
                if place.stage < Stage.ANSWERING and (peer != newcomer or place.since < young)
            ]
            if candidates:
                return min(candidates, key=lambda place: (place.stage, place.since))
        return None
