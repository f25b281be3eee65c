"""Removes the startup taint from this node once the agent is ready, and nothing else.

With such a taint, which whoever makes nodes puts on them, no pod is scheduled before its traffic
rules can be set. Source: Karpenter's and Cilium's startup taints; Kubernetes, "Taints and
Tolerations". Only the key counts, whatever the taint's value and effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec
import structlog

from cni_plugin.pods.api_thread import ApiThread
from kubeapi.client import JSON_PATCH, ApiServerError, is_name
from process.backoff import Backoff

AGAIN_SECONDS = 600.0
"""A node that was deleted and came back has the taint again."""
READY_SECONDS = 0.25
"""How often it is seen whether the agent is ready."""
_ANSWER_SECONDS = 5.0
_CONFLICT = (409, 422)
"""The node was changed meanwhile; 422 is a ``test`` that failed."""

_log = structlog.get_logger("cni_plugin.install.taint")

Result = Literal["removed", "failed"]


class Observer(Protocol):
    """Hears of each attempt, for metrics."""

    def untainted(self, result: Result) -> None:
        """The taint was removed, or could not be."""


class _Spec(msgspec.Struct, frozen=True):
    taints: list[dict[str, Any]] | None = None


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""


class _Node(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()
    spec: _Spec = _Spec()


def removal(taints: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The JSON patch that takes away the taints with this key; empty where there is none.

    Each is removed by its place, from the last to the first, and tested to be there still: where
    anybody changed the list meanwhile the whole patch fails, and nobody's taint is lost.
    """
    patch: list[dict[str, Any]] = []
    for place in reversed(range(len(taints))):
        if taints[place].get("key") == key:
            path = f"/spec/taints/{place}"
            patch.append({"op": "test", "path": path, "value": taints[place]})
            patch.append({"op": "remove", "path": path})
    return patch


class Untainter:
    """Takes one taint off one node."""

    def __init__(
        self, api: ApiThread, node: str, key: str, ready: Callable[[], bool], observer: Observer
    ) -> None:
        self._api = api
        self._path = f"api/v1/nodes/{node}"
        self._node = node
        self._key = key
        self._ready = ready
        self._observer = observer

    def run(self, stop: threading.Event) -> None:
        """Remove the taint as soon as the agent is ready, and whenever it is there again."""
        backoff = Backoff()
        while self._wait_until_ready(stop):
            try:
                self.remove()
            except ApiServerError as error:
                self._observer.untainted("failed")
                log = _log.info if error.status in _CONFLICT else _log.warning
                log(
                    "cannot remove the startup taint yet; trying again",
                    node=self._node,
                    taint=self._key,
                    error=str(error),
                )
                seconds = backoff.next(error.retry_after)
            else:
                backoff.reset()
                seconds = AGAIN_SECONDS
            stop.wait(seconds)

    def remove(self) -> bool:
        """Take the taint off, if it is there.

        Raises:
            ApiServerError: the node cannot be read or changed, or was changed by others meanwhile.
        """
        removed = self._api.ask(self._remove(), seconds=2 * _ANSWER_SECONDS)
        if removed:
            self._observer.untainted("removed")
            _log.info("removed the startup taint", node=self._node, taint=self._key)
        return removed

    def _wait_until_ready(self, stop: threading.Event) -> bool:
        """False where the end came first."""
        while not stop.is_set() and not self._ready():
            stop.wait(READY_SECONDS)
        return not stop.is_set()

    async def _remove(self) -> bool:
        if not is_name(self._node):
            raise ApiServerError(f"{self._node!r} cannot be a node's name")
        body = await self._api.api.get_within(
            self._path, accept="application/json", seconds=_ANSWER_SECONDS
        )
        patch = removal(_taints(body, self._node), self._key)
        if patch:
            await self._api.api.send("PATCH", self._path, patch, content_type=JSON_PATCH)
        return bool(patch)


def _taints(body: bytes, name: str) -> list[dict[str, Any]]:
    try:
        node = msgspec.json.decode(body, type=_Node)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiServerError(f"the API server's answer is not understood: {error}") from error
    if node.metadata.name != name:
        raise ApiServerError(f"the API server's answer is not understood: it is not {name!r}")
    return node.spec.taints or []
