"""The node half of the demo: three pods on a pretended node, real packets, Envoy's own counters."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from cni_plugin.dataplane.backends import Backend, choose
from meshgraft.demo.report import Report
from meshgraft.lab.apps import APP_UID, Answer, ClientError, get, serving_app
from meshgraft.lab.envoy import Envoy, container_of, running_envoy
from meshgraft.lab.lab import GATEWAY, Lab, LabPod, running_lab
from meshgraft.lab.netns import Netns
from meshgraft.lab.process import unprivileged
from vocabulary.annotations import REDIRECT_ANNOTATION, parse_redirect

T = TypeVar("T")

WEB, SKIPPED_OUT, SKIPPED_IN = 8080, 4222, 4567
_REQUESTS = 20
_TIMED_PODS = 10


@dataclass(frozen=True)
class Scene:
    """The pods, and the proxies of the two that are meshed."""

    report: Report
    lab: Lab
    backend: Backend
    annotations: Mapping[str, str]
    client: LabPod
    server: LabPod
    plain: LabPod
    client_envoy: Envoy
    server_envoy: Envoy

    def touched(self, action: Callable[[], T]) -> tuple[T, Counter[str]]:
        """Do something; its result, and what each proxy saw of it, by Envoy's own counters."""
        before = self._counters()
        result = action()
        after = self._counters()
        after.subtract(before)
        return result, Counter({name: value for name, value in after.items() if value})

    def _counters(self) -> Counter[str]:
        seen: Counter[str] = Counter()
        for name, envoy in (("client", self.client_envoy), ("server", self.server_envoy)):
            counters = envoy.counters()
            for way in ("inbound", "outbound"):
                seen[f"{name}'s {way} connections"] = counters[
                    f"listener.{way}.downstream_cx_total"
                ]
                seen[f"{name}'s {way} requests"] = counters[f"http.{way}.downstream_rq_total"]
        return seen


def show_dataplane(
    report: Report, patched: Mapping[str, Any], mode: Literal["auto", "nft", "legacy"]
) -> None:
    """Parts two to four: pods through a real chain, traffic through real proxies, proofs."""
    report.step("2. The node: bridge and host-local, then linkerd-cni, for three pods")
    with running_lab(mode) as lab, _scene(report, lab, patched, mode) as scene:
        report.step("4. Traffic: what each proxy saw of it")
        _show_meshed(scene)
        _show_skipped(scene)
        _show_unmeshed(scene)
        report.step("5. Who set the rules")
        _show_source(scene)
        _measure(scene)


@contextlib.contextmanager
def _scene(
    report: Report, lab: Lab, patched: Mapping[str, Any], mode: Literal["auto", "nft", "legacy"]
) -> Iterator[Scene]:
    annotations = patched["metadata"]["annotations"]
    client, server = (lab.pod(name, annotations) for name in ("client", "server"))
    plain = lab.pod("plain", {})
    backend = choose(mode)
    for pod in (client, server, plain):
        report.say(f"pod {pod.name} has {', '.join(pod.addresses)}")
        report.say(f"  {pod.cni_run.stderr.strip()}")
    _prove_rules(report, backend, annotations, (client, server), plain)
    report.step("3. In the pods: what the patch describes, and an application")
    _prove_validator(report, patched, (client, server))
    with contextlib.ExitStack() as stack:
        envoys = [
            stack.enter_context(running_envoy(patched, pod.netns, lab.log(f"envoy-{pod.name}")))
            for pod in (client, server)
        ]
        for envoy, pod in zip(envoys, (client, server), strict=True):
            report.say(f"envoy-proxy of {pod.name} is ready (pid {envoy.process.pid})")
        for netns, name in ((server.netns, "server"), (plain.netns, "plain"), (lab.node, "node")):
            app = serving_app(netns, name, lab.log(f"app-{name}"), WEB, SKIPPED_OUT, SKIPPED_IN)
            stack.enter_context(app)
        report.say(f"HTTP servers in server, plain and on the node, uid {APP_UID}, no capability")
        yield Scene(report, lab, backend, annotations, client, server, plain, *envoys)


def _prove_rules(
    report: Report,
    backend: Backend,
    annotations: Mapping[str, str],
    meshed: tuple[LabPod, LabPod],
    plain: LabPod,
) -> None:
    redirect = parse_redirect(annotations[REDIRECT_ANNOTATION])
    differences = [backend.difference(pod.netns.fd, redirect) for pod in meshed]
    report.prove(
        "before anything runs in a meshed pod, its rules are those the injector asked for",
        differences == [None, None],
        next(filter(None, differences), f"equal, by the {backend.name} backend"),
    )
    had_rules = backend.remove(plain.netns.fd)
    report.prove(
        "the unmeshed pod has no rules",
        not had_rules,
        "there were some" if had_rules else "there was nothing to remove",
    )


def _prove_validator(
    report: Report, patched: Mapping[str, Any], meshed: tuple[LabPod, LabPod]
) -> None:
    """The init container of the patch that goes before the proxy, as the kubelet would run it.

    Root here, because another user may not reach the virtual environment; but no capability.
    """
    container = container_of(patched, "meshgraft-network-validator")
    program, *rest = container["command"]
    argv = [str(Path(sys.executable).with_name(program)), *rest, *container["args"]]
    said = []
    for pod in meshed:
        done = subprocess.run(
            pod.netns.command(*unprivileged(0, *argv)),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said.append(f"{pod.name}: exit {done.returncode}")
        if done.returncode != 0:
            said.append(done.stderr.strip())
    report.prove(
        "the network validator of the patch finds the rules at work",
        said == [f"{pod.name}: exit 0" for pod in meshed],
        ", ".join(said),
    )


def _ask(scene: Scene, pod: Netns, host: str, port: int) -> list[Answer]:
    """Requests that ought to be answered; where they are not, the reason is shown."""
    try:
        return get(pod, host, port, _REQUESTS)
    except ClientError as error:
        scene.report.say(f"no answer {error}")
        return []


def _all_good(answers: list[Answer], server: str) -> bool:
    return [(a.status, a.body.get("pod")) for a in answers] == [(200, server)] * _REQUESTS


def _show_meshed(scene: Scene) -> None:
    answers, seen = scene.touched(lambda: _ask(scene, scene.client.netns, scene.server.ipv4, WEB))
    scene.report.prove(
        "requests from client to server arrive",
        _all_good(answers, "server"),
        f"{len(answers)} of {_REQUESTS} answered",
    )
    scene.report.prove(
        "both proxies carried each of them",
        seen["client's outbound requests"] == _REQUESTS == seen["server's inbound requests"],
        _words(seen),
    )


def _show_skipped(scene: Scene) -> None:
    """A port that the namespace's annotation skips outbound, one skipped inbound by default."""
    answers, seen = scene.touched(
        lambda: _ask(scene, scene.client.netns, scene.server.ipv4, SKIPPED_OUT)
    )
    scene.report.prove(
        f"port {SKIPPED_OUT}, which the namespace skips outbound, bypasses the client's proxy",
        _all_good(answers, "server")
        and seen
        == {
            "server's inbound connections": _REQUESTS,
            "server's inbound requests": _REQUESTS,
        },
        f"{len(answers)} answers; {_words(seen)}",
    )
    answers, seen = scene.touched(
        lambda: _ask(scene, scene.plain.netns, scene.server.ipv4, SKIPPED_IN)
    )
    scene.report.prove(
        f"port {SKIPPED_IN}, which is skipped inbound, bypasses the server's proxy",
        _all_good(answers, "server") and not seen,
        f"{len(answers)} answers; {_words(seen)}",
    )


def _show_unmeshed(scene: Scene) -> None:
    answers, seen = scene.touched(lambda: _ask(scene, scene.plain.netns, GATEWAY, WEB))
    scene.report.prove(
        "the unmeshed pod's traffic touches no proxy",
        _all_good(answers, "node") and not seen,
        f"{len(answers)} answers from the node; {_words(seen)}",
    )
    answers, seen = scene.touched(lambda: _ask(scene, scene.client.netns, scene.plain.ipv4, WEB))
    scene.report.prove(
        "a meshed pod reaches an unmeshed one",
        _all_good(answers, "plain") and seen["client's outbound requests"] == _REQUESTS,
        _words(seen),
    )


def _show_source(scene: Scene) -> None:
    answers = _ask(scene, scene.client.netns, scene.server.ipv4, WEB)
    held = {name: int(v, 16) for a in answers for name, v in a.body["capabilities"].items()}
    users = {a.body["uid"] for a in answers}
    scene.report.prove(
        "the application has no capability, nor a way to get one",
        users == {APP_UID} and set(held.values()) == {0},
        f"uid {users}, " + ", ".join(f"{name} {value:x}" for name, value in held.items()),
    )
    tried = subprocess.run(
        scene.server.netns.command(*unprivileged(APP_UID, "nft", "flush", "ruleset")),
        capture_output=True,
        text=True,
        check=False,
    )
    redirect = parse_redirect(scene.annotations[REDIRECT_ANNOTATION])
    still = scene.backend.difference(scene.server.netns.fd, redirect)
    said = " ".join(tried.stderr.split()) or f"exit {tried.returncode}"
    scene.report.prove(
        "from within the pod nobody can change the rules",
        tried.returncode != 0 and still is None,
        f"uid {APP_UID}, nft flush ruleset: {said}; the rules are {still or 'as before'}",
    )
    log = scene.lab.agent.log.read_text()
    logged = [pod.name for pod in (scene.client, scene.server) if f"lab/{pod.name}" in log]
    scene.report.prove(
        "the node's agent set them",
        logged == ["client", "server"],
        f"the agent (pid {scene.lab.agent.pid}, outside the pods) logged {', '.join(logged)}",
    )


def _measure(scene: Scene) -> None:
    """Times of a settled agent: fresh pods through the same chain."""
    runs = [
        scene.lab.pod(f"timed{number}", scene.annotations).cni_run for number in range(_TIMED_PODS)
    ]
    of = f"median of {_TIMED_PODS} pods"
    scene.report.time(
        "CNI ADD, linkerd-cni as a whole process",
        statistics.median(run.seconds for run in runs),
        of,
    )
    rules = [float(match[1]) for run in runs if (match := re.search(r"rulesMs=(\S+)", run.stderr))]
    if rules:
        scene.report.time(
            f"the rules alone, {scene.backend.name}", statistics.median(rules) / 1000, of
        )


def _words(seen: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in seen.items()) or "no proxy saw any"
