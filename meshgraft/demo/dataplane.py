"""The node half of the demo: three pods on a pretended node, real packets, Envoy's own counters."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cni_plugin.backends import Backend, choose
from injector.annotations import REDIRECT_ANNOTATION, parse_redirect
from meshgraft.demo.report import Report
from meshgraft.lab.apps import APP_UID, get, serving_app
from meshgraft.lab.envoy import Envoy, running_envoy
from meshgraft.lab.lab import GATEWAY, Lab, LabPod, running_lab
from meshgraft.lab.process import unprivileged

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

    def touched(self, action: Callable[[], object]) -> Counter[str]:
        """Do something, and count what each proxy saw of it, by Envoy's own counters."""
        before = self._counters()
        action()
        after = self._counters()
        after.subtract(before)
        return Counter({name: value for name, value in after.items() if value})

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
    report.step("3. In the pods: the Envoy that the patch describes, and an application")
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
        f"compared by the {backend.name} backend: {differences[0] or differences[1] or 'equal'}",
    )
    report.prove(
        "the unmeshed pod has no rules",
        not backend.remove(plain.netns.fd),
        "there was nothing to remove",
    )


def _show_meshed(scene: Scene) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    seen = scene.touched(
        lambda: answers.extend(get(scene.client.netns, scene.server.ipv4, WEB, _REQUESTS))
    )
    good = [body for status, body in answers if status == 200 and body.get("pod") == "server"]
    scene.report.prove(
        "requests arrive",
        len(good) == _REQUESTS,
        f"{len(good)} of {_REQUESTS} answered 200 by server",
    )
    scene.report.prove(
        "both proxies carried each of them",
        seen["client's outbound requests"] == _REQUESTS == seen["server's inbound requests"],
        _words(seen),
    )


def _show_skipped(scene: Scene) -> None:
    """A port that the namespace's annotation skips outbound, and one skipped inbound by default:
    each bypasses the proxy on its side, and a port skipped on both sides bypasses both."""
    answers: list[tuple[int, dict[str, Any]]] = []
    seen = scene.touched(
        lambda: answers.extend(get(scene.client.netns, scene.server.ipv4, SKIPPED_OUT, _REQUESTS))
    )
    scene.report.prove(
        f"port {SKIPPED_OUT}, which the namespace skips outbound, bypasses the client's proxy",
        _all_good(answers)
        and seen
        == {
            "server's inbound connections": _REQUESTS,
            "server's inbound requests": _REQUESTS,
        },
        f"{len(answers)} answers; {_words(seen)}",
    )
    answers.clear()
    seen = scene.touched(
        lambda: answers.extend(get(scene.plain.netns, scene.server.ipv4, SKIPPED_IN, _REQUESTS))
    )
    scene.report.prove(
        f"port {SKIPPED_IN}, which is skipped inbound, bypasses the server's proxy",
        _all_good(answers) and not seen,
        f"{len(answers)} answers; {_words(seen)}",
    )


def _show_unmeshed(scene: Scene) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    seen = scene.touched(lambda: answers.extend(get(scene.plain.netns, GATEWAY, WEB, _REQUESTS)))
    scene.report.prove(
        "the unmeshed pod's traffic touches no proxy",
        _all_good(answers) and not seen,
        f"{len(answers)} answers from the node; {_words(seen)}",
    )
    answers.clear()
    seen = scene.touched(lambda: answers.extend(get(scene.client.netns, scene.plain.ipv4, WEB)))
    scene.report.prove(
        "a meshed pod reaches an unmeshed one",
        [status for status, _ in answers] == [200] and seen["client's outbound requests"] == 1,
        _words(seen),
    )


def _show_source(scene: Scene) -> None:
    ((_, body),) = get(scene.client.netns, scene.server.ipv4, WEB)
    rights = {int(value, 16) for value in body["capabilities"].values()}
    scene.report.prove(
        "the application has no capability, nor a way to get one",
        rights == {0} and body["uid"] == APP_UID,
        f"uid {body['uid']}, "
        + ", ".join(f"{name} {int(value, 16):x}" for name, value in body["capabilities"].items()),
    )
    log = scene.lab.agent.log.read_text()
    tried = subprocess.run(
        scene.server.netns.command(*unprivileged(APP_UID, "nft", "flush", "ruleset")),
        capture_output=True,
        text=True,
        check=False,
    )
    redirect = parse_redirect(scene.annotations[REDIRECT_ANNOTATION])
    still = scene.backend.difference(scene.server.netns.fd, redirect)
    scene.report.prove(
        "from within the pod nobody can change the rules",
        tried.returncode != 0 and still is None,
        f"nft flush ruleset, uid {APP_UID}: {' '.join(tried.stderr.split()) or 'done'}",
    )
    scene.report.prove(
        "the node's agent set them",
        all(f"lab/{pod.name}" in log for pod in (scene.client, scene.server)),
        f"the agent (pid {scene.lab.agent.pid}, outside the pods) logged both",
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


def _all_good(answers: list[tuple[int, dict[str, Any]]]) -> bool:
    return [status for status, _ in answers] == [200] * _REQUESTS


def _words(seen: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in seen.items()) or "no proxy saw any"
