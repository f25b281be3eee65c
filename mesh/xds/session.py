"""One stream at the server: requests and changes go in, responses come out. No I/O.

What it keeps to, and why (each was learned from a proxy that hung or dropped traffic):

- what a client has to get again with a resource follows it, also where nothing changed;
- one response of a type is under way at a time, and what changes meanwhile is merged into the next;
- after a reconnect what the client says that it holds is believed, and nothing is taken away;
- what nobody knows is not answered as missing: the client waits, as long as it cares to;
- a response that is refused is taken apart, so that one bad resource holds up no other.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "Incremental xDS".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mesh.xds.messages import Key, Request, Resource, Response
from mesh.xds.store import Source

WILDCARD = "*"
MAX_BYTES = 1 << 20
"""Of resources in one response; a single one may be longer."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A resource that a client would not take."""

    resource: Resource
    why: str


@dataclass(slots=True)
class _InFlight:
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(slots=True)
class _Type:
    """What the client has, and has yet to get, of one type."""

    subscribed: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    """The version by name, of what the client holds or is about to."""
    due: dict[str, bool] = field(default_factory=dict)
    """What to look at next, in order; True: to be sent whatever its version."""
    alone: set[str] = field(default_factory=set)
    """Was in a response that was refused: to be sent on its own, to find the one at fault."""
    refused: dict[str, str] = field(default_factory=dict)
    """The version by name; it is not sent again."""
    in_flight: _InFlight | None = None
    greet: bool = False
    """An empty response is owed: the client waits for one before it goes on."""


class Session:
    """The state of one stream."""

    def __init__(
        self,
        source: Source,
        *,
        on_refused: Callable[[Refusal], None] = lambda _: None,
        wake: Callable[[], None] = lambda: None,
        whole: bool = False,
    ) -> None:
        """``wake`` is called when there may be something to send; ``whole`` is for a relay."""
        self._whole = whole
        self._source = source
        self._on_refused = on_refused
        self.wake = wake
        self._types: dict[str, _Type] = {}
        self._count = 0

    def receive(self, request: Request) -> None:
        """What the client says."""
        state = self._types.get(request.type_url)
        first = state is None
        if state is None:
            state = self._types[request.type_url] = _Type()
            # Without a name it asks for everything: here that is nothing, but it waits to hear so.
            state.greet = not request.subscribe
            state.sent.update(request.versions)
        if request.nonce and state.in_flight and request.nonce == state.in_flight.nonce:
            self._answered(state, state.in_flight, request.error)
        for name in request.subscribe:
            self._subscribe(request.type_url, state, name, first=first)
        for name in request.unsubscribe:
            self._unsubscribe(request.type_url, state, name)
        self.wake()

    def notify(self, key: Key) -> None:
        """As `mesh.xds.store.Watcher`: what the client has subscribed to has changed."""
        self._types[key.type_url].due.setdefault(key.name, False)
        self.wake()

    def responses(self) -> Iterator[Response]:
        """What may be sent now: at most one response of each type."""
        for type_url, state in tuple(self._types.items()):
            if state.in_flight is None and (state.due or state.greet):
                response = self._next(type_url, state)
                if response is not None:
                    yield response

    def close(self) -> None:
        """The stream has ended."""
        for type_url, state in self._types.items():
            for name in state.subscribed:
                self._source.unsubscribe(Key(type_url, name), self)
        self._types.clear()

    # What the client says

    def _subscribe(self, type_url: str, state: _Type, name: str, *, first: bool) -> None:
        if name == WILDCARD:
            state.greet = True
            return
        key = Key(type_url, name)
        if name not in state.subscribed:
            state.subscribed.add(name)
            self._source.subscribe(key, self)
        if self._source.get(key) is None:
            return  # Not known yet, which is not to say that it is gone: there will be word of it.
        # Whoever subscribes again in the course of a stream has lost it and wants it back.
        state.due[name] = not (first and name in state.sent)

    def _unsubscribe(self, type_url: str, state: _Type, name: str) -> None:
        state.subscribed.discard(name)
        for held in (state.sent, state.due, state.refused):
            held.pop(name, None)
        state.alone.discard(name)
        self._source.unsubscribe(Key(type_url, name), self)

    def _answered(self, state: _Type, sent: _InFlight, error: str | None) -> None:
        state.in_flight = None
        if error is None:
            for resource in sent.resources:
                state.alone.discard(resource.key.name)
                state.refused.pop(resource.key.name, None)
            return
        for resource in sent.resources:
            name = resource.key.name
            if name not in state.subscribed:
                continue
            state.sent.pop(name, None)
            if len(sent.resources) > 1:
                state.alone.add(name)
                state.due[name] = True
            else:
                state.refused[name] = resource.version
        if len(sent.resources) == 1:
            self._on_refused(Refusal(sent.resources[0], error))

    # What it gets

    def _next(self, type_url: str, state: _Type) -> Response | None:
        resources: list[Resource] = []
        removed: list[str] = []
        size = 0
        for name in tuple(state.due):
            if resources and (name in state.alone or resources[-1].key.name in state.alone):
                break
            resource = self._source.get(Key(type_url, name))
            if resource is None:
                del state.due[name]
                # What it never got is not missing: it may come yet.
                if state.sent.pop(name, None) is not None:
                    removed.append(name)
            elif self._is_news(state, resource):
                if resources and size + len(resource.encoded) > MAX_BYTES:
                    break
                del state.due[name]
                resources.append(resource)
                size += len(resource.encoded)
            else:
                del state.due[name]
        if not (resources or removed or state.greet):
            return None
        state.greet = False
        return self._sent(type_url, state, tuple(resources), tuple(removed))

    def _is_news(self, state: _Type, resource: Resource) -> bool:
        name, version = resource.key.name, resource.version
        if state.refused.get(name) == version and not state.due[name]:
            return False
        return state.due[name] or state.sent.get(name) != version

    def _sent(
        self,
        type_url: str,
        state: _Type,
        resources: tuple[Resource, ...],
        removed: tuple[str, ...],
    ) -> Response:
        self._count += 1
        nonce = str(self._count)
        state.in_flight = _InFlight(nonce, resources)
        for resource in resources:
            state.sent[resource.key.name] = resource.version
            for key in resource.follows:
                other = self._types.get(key.type_url)
                if other is not None and key.name in other.subscribed:
                    other.due[key.name] = True
        return Response(
            type_url=type_url,
            nonce=nonce,
            resources=resources,
            removed=removed,
            whole=self._whole,
        )
