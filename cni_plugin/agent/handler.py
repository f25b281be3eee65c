"""Answers one call of the plugin: a request and a netns descriptor in, a response out.

What it touches is handed in: the backend that sets rules, the source of pods, the clock. The
answer also says in a few bounded words what was done, for the agent's own log and metrics.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from cni_plugin.agent.decide import Decision, NeedPod, PassThrough, Redirected, decide
from cni_plugin.agent.netconf import (
    NetConf,
    PodArgs,
    cni_version_of,
    decode_netconf,
    parse_cni_args,
)
from cni_plugin.agent.protocol import Request, Response
from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.pods.linkerd import wants_api_server
from cni_plugin.pods.source import Pod, PodSource, PodSourceError
from cni_plugin.spec import DEFAULT_CNI_VERSION, CniError, Code

NETNS_ERROR = "LINKERD_CNI_NETNS_ERROR"
"""Set by the plugin program where it could not open ``CNI_NETNS``; holds the reason."""

T = TypeVar("T")
_PLAIN = re.compile(r"[!#-\[\]-~]+")
"""What stands unquoted in a log line: printable ASCII without space, quote and backslash."""
_LEVELS = ("debug", "info", "warn")

Result = Literal["redirected", "simulated", "passed-through", "ok", "failed"]
Level = Literal["debug", "info", "warn"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and what the agent logs and counts about it."""

    response: Response
    command: str
    result: Result
    pod: str = ""
    uid: str = ""
    """Of the pod, where the runtime said it."""
    proxy_uid: int | None = None
    """The user of the pod's proxy, where that is to reach the mesh's relay; else None."""
    reason: str = ""
    """A `decide.Reason`, or ``code-N`` for an error."""
    error: str = ""
    warnings: tuple[str, ...] = ()
    rules_seconds: float | None = None
    """Time spent in the backend; None where it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Came:
    """What a command came to; with the call, that makes the answer."""

    result: Result
    response: Response = field(default_factory=Response)
    reason: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()
    proxy_uid: int | None = None


@dataclass(slots=True)
class _Call:
    """One request being answered: what is known so far, and the lines for stderr."""

    request: Request
    pod: PodArgs
    netns_fd: int | None
    backend: Backend
    pods: PodSource
    clock: Callable[[], float]
    refused: str = ""
    level: str = "warn"
    cni_version: str = DEFAULT_CNI_VERSION
    lines: list[str] = field(default_factory=list)
    rules_seconds: float | None = None

    def log(self, level: Level, msg: str, **values: object) -> None:
        """Keep a line for stderr, if the configuration's ``log_level`` lets it through."""
        if _LEVELS.index(level) >= _LEVELS.index(self.level):
            self.lines.append(log_line(msg, **values))


def log_line(msg: str, **values: object) -> str:
    """One line for the plugin's stderr: ``linkerd-cni: msg="..." key=value ...``.

    Values are quoted where a space or a quote would end them early; floats have two decimals.
    """
    words = [f"{key}={_value(value)}" for key, value in values.items()]
    return " ".join([f"linkerd-cni: msg={_quoted(msg)}", *words]) + "\n"


def _value(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(char if char.isprintable() else "?" for char in escaped)}"'


def handle(
    request: Request,
    netns_fd: int | None,
    backend: Backend,
    pods: PodSource,
    clock: Callable[[], float] = time.perf_counter,
    *,
    refused: str = "",
) -> Answer:
    """Answer ADD, CHECK or STATUS; an error becomes a CNI error result, never an exception.

    ``netns_fd`` is None where the plugin program could not open the pod's netns, or where the agent
    refused it, and ``refused`` says why; it stays open. ``clock`` gives seconds. Only what is a bug
    raises; see `internal_error`.
    """
    pod = parse_cni_args(request.env.get("CNI_ARGS", ""))
    call = _Call(request, pod, netns_fd, backend, pods, clock, refused)
    command = request.env.get("CNI_COMMAND", "")
    try:
        call.cni_version = cni_version_of(request.stdin)
        netconf = decode_netconf(request.stdin)
        call.level = netconf.log_level
        if command not in _COMMANDS:
            raise CniError(Code.BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
        came = _COMMANDS[command](call, netconf)
    except CniError as error:
        call.log("warn", "failed", pod=pod, code=int(error.code), error=error.msg)
        came = _failed(error, call.cni_version)
    return _answer(call, command, came)


def _answer(call: _Call, command: str, came: _Came) -> Answer:
    return Answer(
        response=replace(came.response, stderr="".join(call.lines).encode()),
        command=command,
        result=came.result,
        pod=str(call.pod),
        uid=call.pod.uid,
        proxy_uid=came.proxy_uid,
        reason=came.reason,
        error=came.error,
        warnings=came.warnings,
        rules_seconds=call.rules_seconds,
    )


def internal_error(request: Request) -> Answer:
    """The answer where answering itself broke: code 999; the agent's log has the traceback."""
    pod = parse_cni_args(request.env.get("CNI_ARGS", ""))
    error = CniError(
        Code.INTERNAL,
        f"pod {pod}: the linkerd-cni agent met an error that it did not expect; "
        "its log on this node has the traceback",
    )
    came = _failed(error, cni_version_of(request.stdin))
    line = log_line("failed", pod=pod, code=int(error.code), error=error.msg)
    return Answer(
        response=replace(came.response, stderr=line.encode()),
        command=request.env.get("CNI_COMMAND", ""),
        result=came.result,
        pod=str(pod),
        reason=came.reason,
        error=came.error,
    )


def _failed(error: CniError, cni_version: str) -> _Came:
    response = Response(1, error.to_json(cni_version))
    return _Came(
        result="failed", response=response, reason=f"code-{int(error.code)}", error=error.msg
    )


def _add(call: _Call, netconf: NetConf) -> _Came:
    decision = _decide(call, netconf)
    response = Response(stdout=netconf.result)
    if isinstance(decision, PassThrough):
        call.log("info", "passed through", pod=call.pod, reason=decision.reason)
        return _Came(result="passed-through", response=response, reason=decision.reason)
    for warning in decision.warnings:
        call.log("warn", "value left out", pod=call.pod, warning=warning)
    result, changed = _redirect(call, netconf, decision)
    call.log(
        "info",
        result,
        pod=call.pod,
        backend=call.backend.name,
        rulesMs=(call.rules_seconds or 0.0) * 1000,
        changed=str(changed).lower(),
        reason=decision.reason,
    )
    return _Came(
        result=result,
        response=response,
        reason=decision.reason,
        warnings=decision.warnings,
        proxy_uid=decision.redirect.proxy_uid if decision.in_mesh else None,
    )


def _redirect(call: _Call, netconf: NetConf, decision: Redirected) -> tuple[Result, bool]:
    call.log("debug", "rules wanted", pod=call.pod, redirect=decision.redirect.to_annotation())
    if netconf.linkerd.simulate:
        return "simulated", False
    changed = _in_netns(call, lambda netns_fd: call.backend.apply(netns_fd, decision.redirect))
    return "redirected", changed


def _check(call: _Call, netconf: NetConf) -> _Came:
    _needs_version(netconf, "CHECK", "0.4.0")
    decision = _decide(call, netconf)
    if isinstance(decision, PassThrough) or netconf.linkerd.simulate:
        return _Came(result="ok", reason=decision.reason)
    wanted = decision.redirect
    difference = _in_netns(call, lambda netns_fd: call.backend.difference(netns_fd, wanted))
    if difference is not None:
        raise CniError(
            Code.RULES_DIFFER,
            f"pod {call.pod}: the traffic rules are not as they should be: {difference}; "
            "delete the pod to have it made anew",
        )
    return _Came(result="ok", reason=decision.reason)


def _status(_call: _Call, netconf: NetConf) -> _Came:
    """That this runs is the answer: the backend was tried out before the agent took calls."""
    _needs_version(netconf, "STATUS", "1.1.0")
    return _Came(result="ok")


_COMMANDS: dict[str, Callable[[_Call, NetConf], _Came]] = {
    "ADD": _add,
    "CHECK": _check,
    "STATUS": _status,
}


def _needs_version(netconf: NetConf, command: str, version: str) -> None:
    if not netconf.at_least(version):
        raise CniError(Code.INCOMPATIBLE_VERSION, f"config version does not allow {command}")


def _decide(call: _Call, netconf: NetConf) -> Redirected | PassThrough:
    decision = decide(netconf, call.pod)
    if not isinstance(decision, NeedPod):
        return decision
    args = call.pod
    try:
        pod = call.pods.get(args.namespace, args.name, args.uid)
    except PodSourceError as error:
        raise CniError(Code.TRY_AGAIN_LATER, f"pod {args}: {error}") from error
    decision = NeedPod() if pod is None else _with_pod(call, netconf, pod)
    if isinstance(decision, NeedPod):
        raise CniError(
            Code.TRY_AGAIN_LATER,
            f"pod {args} (uid {args.uid or 'not given'}) is not known to this node's linkerd-cni "
            f"agent, which looked in {call.pods.name}, so it cannot tell whether the pod is meshed",
        )
    return decision


def _with_pod(call: _Call, netconf: NetConf, pod: Pod) -> Decision:
    if not wants_api_server(pod):
        return decide(netconf, call.pod, pod)
    return decide(netconf, call.pod, pod, call.pods.api_server_ports())


def _in_netns(call: _Call, work: Callable[[int], T]) -> T:
    """Run ``work`` on the pod's netns, timed.

    Raises:
        CniError: there is no netns to work on (code 4), or the rules could not be read or set.
    """
    if call.netns_fd is None:
        told = call.request.env.get(NETNS_ERROR, "the plugin program handed over no descriptor")
        problem = call.refused or told
        path = call.request.env.get("CNI_NETNS", "")
        raise CniError(
            Code.BAD_ENVIRONMENT, f"pod {call.pod}: CNI_NETNS {path!r} cannot be used: {problem}"
        )
    started = call.clock()
    try:
        return work(call.netns_fd)
    except DataplaneError as error:
        raise CniError(Code.RULES_FAILED, f"pod {call.pod}: {error}") from error
    finally:
        call.rules_seconds = call.clock() - started
