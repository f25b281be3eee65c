"""Tells at the agent's end whether the plugin is being uninstalled, or only the agent restarted.

An upgrade, a drain or a reboot must leave the node as it is, or pods would start unmeshed
meanwhile; an uninstallation must not, or pods would wait for an agent that never comes. The
difference is in the agent's own DaemonSet. Source: Istio's install-cni asks for it too; the order
in which things vanish is that of ``helm uninstall`` and ``kubectl delete -f``.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

import msgspec
import structlog

from cni_plugin.pods.api_thread import ApiThread
from kubeapi.client import METADATA, ApiServerError

LOOK_SECONDS = 60.0
"""How often it is seen that the DaemonSet can be read."""
DENIED_WITHIN_SECONDS = 300.0
"""A right to read that went this recently went with the DaemonSet."""
_ANSWER_SECONDS = 2.0
_DENIED_AGAIN_SECONDS = 1.0

_log = structlog.get_logger("cni_plugin.install.leaving")

State = Literal["there", "going", "absent", "denied", "unknown"]


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    deletion_timestamp: str | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


@dataclass(frozen=True, slots=True)
class Look:
    """What the API server says of the DaemonSet, and in which words."""

    state: State
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to clean the node, and why, for the log."""

    uninstall: bool
    reason: str


def judge(look: Look, seen_seconds_ago: float | None) -> Verdict:
    """Whether the plugin is being uninstalled.

    ``seen_seconds_ago`` is when this agent last read its DaemonSet; None: never, so that a wrong
    name or a right that was never given takes nothing out.
    """
    if look.state == "going":
        return Verdict(True, look.why)
    if seen_seconds_ago is None:
        return Verdict(False, f"{look.why}; this agent never saw its own DaemonSet")
    if look.state == "absent":
        return Verdict(True, look.why)
    if look.state == "denied" and seen_seconds_ago <= DENIED_WITHIN_SECONDS:
        hint = f"allowed {seen_seconds_ago:.0f} s ago, so the agent's rights are being removed"
        return Verdict(True, f"{look.why}; {hint}")
    return Verdict(False, look.why)


class OwnDaemonSet:
    """The agent's own DaemonSet; `run` keeps knowing it, `verdict` is for the end."""

    def __init__(self, api: ApiThread, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._seen: float | None = None
        """When it was last read, by the monotonic clock."""
        self._told = ""

    def run(self, stop: threading.Event) -> None:
        """Read it from time to time; say so when it cannot be."""
        while not stop.is_set():
            look = self._look()
            if look.state != self._told and look.state not in ("there", "going"):
                _log.warning(
                    "cannot read the agent's own DaemonSet; an agent that never could does not "
                    "clean its node when the plugin is uninstalled",
                    error=look.why,
                )
            self._told = look.state
            stop.wait(LOOK_SECONDS)

    def verdict(self) -> Verdict:
        """Ask once more, for some seconds at most, and judge."""
        before = self._seen
        look = self._look()
        if look.state == "denied":
            time.sleep(_DENIED_AGAIN_SECONDS)  # an upgrade may replace a role, in two steps
            look = self._look()
        return judge(look, None if before is None else time.monotonic() - before)

    def _look(self) -> Look:
        try:
            look = self._api.ask(self._ask(), seconds=2 * _ANSWER_SECONDS)
        except ApiServerError as error:
            return Look(_state_of(error), str(error))
        if look.state in ("there", "going"):
            self._seen = time.monotonic()
        return look

    async def _ask(self) -> Look:
        what = f"the DaemonSet {self._namespace}/{self._name}"
        path = f"apis/apps/v1/namespaces/{self._namespace}/daemonsets/{self._name}"
        if await self._is_going(path, self._name):
            return Look("going", f"{what} is being deleted")
        # A namespace that is deleted takes its pods and the DaemonSet away in any order.
        try:
            if await self._is_going(f"api/v1/namespaces/{self._namespace}", self._namespace):
                return Look("going", f"the namespace {self._namespace} is being deleted")
        except ApiServerError as error:
            _log.debug("cannot read the agent's own namespace", error=str(error))
        return Look("there", f"{what} is there")

    async def _is_going(self, path: str, name: str) -> bool:
        body = await self._api.api.get_within(path, accept=METADATA, seconds=_ANSWER_SECONDS)
        try:
            meta = msgspec.json.decode(body, type=_Object).metadata
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ApiServerError(f"the API server's answer is not understood: {error}") from error
        if meta.name != name:
            raise ApiServerError(f"the API server's answer is not understood: it is not {name!r}")
        return meta.deletion_timestamp is not None


def _state_of(error: ApiServerError) -> State:
    if error.status == 404:
        return "absent"
    return "denied" if error.cause == "denied" else "unknown"
