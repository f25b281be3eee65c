"""One stream at the client: what it wants, what came, and what to say next. No I/O.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "Incremental xDS".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mesh.xds.messages import Key, Request, Resource, Response
from mesh.xds.store import Store


@dataclass(slots=True)
class _Type:
    wanted: dict[str, None] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    """Subscribed to on the stream that there is."""
    nonces: list[str] = field(default_factory=list)
    """Of responses that are yet to be acknowledged."""
    begun: bool = False
    """Whether anything was said about this type on the stream that there is."""


class Subscriptions:
    """What a client wants of a server, kept over streams; what comes goes into a store."""

    def __init__(self, store: Store, wake: Callable[[], None] = lambda: None) -> None:
        """``wake`` is called when there may be something to send."""
        self._store = store
        self.wake = wake
        self._types: dict[str, _Type] = {}

    def __len__(self) -> int:
        """How many resources are wanted."""
        return sum(len(state.wanted) for state in self._types.values())

    def want(self, key: Key) -> None:
        """Subscribe to it, now and on every stream to come."""
        self._types.setdefault(key.type_url, _Type()).wanted[key.name] = None
        self.wake()

    def drop(self, key: Key) -> None:
        """Want it no more."""
        state = self._types.get(key.type_url)
        if state is not None:
            state.wanted.pop(key.name, None)
            self.wake()

    def wants(self, key: Key) -> bool:
        """Whether it is wanted."""
        state = self._types.get(key.type_url)
        return state is not None and key.name in state.wanted

    def connected(self) -> None:
        """A new stream has begun: everything has to be said again."""
        for state in self._types.values():
            state.asked.clear()
            state.nonces.clear()
            state.begun = False
        self.wake()

    def receive(self, response: Response) -> None:
        """What the server says. It is taken as it is: whether it is any good, the proxies say."""
        state = self._types.setdefault(response.type_url, _Type())
        state.nonces.append(response.nonce)
        for resource in response.resources:
            # What was dropped meanwhile may still come once.
            if resource.key.name in state.wanted:
                self._store.put(resource)
        for name in response.removed:
            self._store.remove(Key(response.type_url, name))
        self.wake()

    def requests(self) -> Iterator[Request]:
        """What is to be said now."""
        for type_url, state in tuple(self._types.items()):
            new = tuple(name for name in state.wanted if name not in state.asked)
            old = tuple(name for name in state.asked if name not in state.wanted)
            if not (new or old or state.nonces):
                continue
            versions = {} if state.begun else self._held(type_url, new)
            nonces = state.nonces or [""]
            state.nonces = []
            state.begun = True
            state.asked = dict(state.wanted)
            yield Request(
                type_url=type_url,
                subscribe=new,
                unsubscribe=old,
                versions=versions,
                nonce=nonces[0],
            )
            for nonce in nonces[1:]:
                yield Request(type_url=type_url, nonce=nonce)

    def _held(self, type_url: str, names: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, Resource | None] = {
            name: self._store.get(Key(type_url, name)) for name in names
        }
        return {name: each.version for name, each in found.items() if each is not None}
