"""One ADD as a whole process, beside what it is measured against: alone, 24 and 100 at once.

``/bin/true`` is the price of a process; eleven ``nsenter iptables-nft`` is how Linkerd's plugin
sets the same rules; one ``iptables-restore`` is the best that a program run per pod can do. The
rows of ``linkerd-cni`` from top to bottom each do one thing more, so that their differences say
what the time is spent on.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cni_memory import measure_memory
from benchmarks.machine import describe, milliseconds
from benchmarks.spawn import Command, Job, memory_file, path_of, run
from cni_plugin.dataplane.rules import commands
from meshgraft.lab.lab import missing_requirements
from tests.chain.agent import PROGRAM, AgentProcess, running_agent
from tests.chain.pods import ManyPod, many_pods
from vocabulary.annotations import PortRange, Redirect

REDIRECT = Redirect(
    inbound_port=4143,
    outbound_port=4140,
    proxy_uid=2102,
    skip_inbound_ports=(PortRange(4190, 4191), PortRange(4567, 4568)),
    skip_outbound_ports=(PortRange(4567, 4568),),
)
"""Linkerd's defaults."""

ELEVEN = "eleven nsenter iptables-nft"
WIDTHS = (24, 100)
ROUNDS = 3
Action = Callable[[ManyPod], Job]


@dataclass
class Times:
    """What was measured of one action, in seconds of a pod."""

    alone: list[float] = field(default_factory=list)
    parallel: dict[int, list[float]] = field(
        default_factory=lambda: {width: [] for width in WIDTHS}
    )


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100, help="pods for each figure")
    arguments = parser.parse_args()
    if missing := missing_requirements():
        sys.exit("missing: " + "; ".join(missing))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a namespace is a descriptor here
    console = Console(width=132)
    console.print(describe("meshgraft", "pyroute2", "python-iptables"))
    with ExitStack() as stack:
        nft, legacy = (_agent(stack, mode) for mode in ("nft", "legacy"))
        times = measure(actions(nft, legacy), arguments.pods)
        console.print(_table(times))
        console.print(_in_the_agent(nft))
    console.print(measure_memory())


def actions(nft: AgentProcess, legacy: AgentProcess) -> dict[str, Action]:
    """Everything that is compared, by its name in the table."""
    return {
        "/bin/true": lambda _: [Command(["/bin/true"])],
        "linkerd-cni VERSION: the process alone": _plugin(nft, "VERSION"),
        "- ADD, excluded namespace: reads stdin": _plugin(nft, "ADD", "kube-system"),
        "- STATUS: to the agent and back": _plugin(nft, "STATUS"),
        "- ADD, not meshed: decided there": _plugin(nft, "ADD", meshed=False),
        "linkerd-cni ADD, nft": _plugin(nft, "ADD"),
        "linkerd-cni ADD, legacy": _plugin(legacy, "ADD"),
        ELEVEN: _eleven,
        "one nsenter iptables-nft-restore": _restore("iptables-nft-restore"),
        "one nsenter iptables-legacy-restore": _restore("iptables-legacy-restore"),
    }


def measure(actions: Mapping[str, Action], pods: int) -> dict[str, Times]:
    """Each action on fresh namespaces: one at a time in turns, and so many at once."""
    times = {name: Times() for name in actions}
    with many_pods([REDIRECT] * pods * len(actions)) as fresh:
        for number in range(pods):
            for name, action in actions.items():
                times[name].alone += run([action(fresh.pop())], 1)
            _progress(f"alone {number + 1}/{pods}")
    for width, round_, name in itertools.product(WIDTHS, range(ROUNDS), actions):
        _progress(f"{width} in parallel, round {round_ + 1}/{ROUNDS}: {name}")
        with many_pods([REDIRECT] * max(pods // ROUNDS, width)) as fresh:
            jobs = [actions[name](pod) for pod in fresh]
            times[name].parallel[width] += run(jobs, width)
    return times


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)


def _agent(stack: ExitStack, mode: str) -> AgentProcess:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshgraft-bench-"))
    return stack.enter_context(running_agent(Path(folder), mode))


def _plugin(
    agent: AgentProcess, command: str, namespace: str = "shop", *, meshed: bool = True
) -> Action:
    def job(pod: ManyPod) -> Job:
        environment = {**pod.environment(command, namespace), **agent.environment}
        content = memory_file(pod.stdin(meshed=meshed))
        return [Command([str(PROGRAM)], environment, path_of(content))]

    return job


def _eleven(pod: ManyPod) -> Job:
    """The two reads and nine changes of Linkerd's plugin, each a process in the pod's netns."""
    save = _inside(pod, "iptables-nft-save", "-t", "nat")
    changes = [_inside(pod, "iptables-nft", *argv) for argv in commands(REDIRECT, "ipv4")]
    return [save, *changes, save]


def _restore(program: str) -> Action:
    """The same rules in one go."""
    lines = ["*nat", *(" ".join(argv[2:]) for argv in commands(REDIRECT, "ipv4")), "COMMIT", ""]

    def job(pod: ManyPod) -> Job:
        content = path_of(memory_file("\n".join(lines).encode()))
        return [_inside(pod, program, "--noflush", "--wait", stdin=content)]

    return job


def _inside(pod: ManyPod, *argv: str, stdin: str = "/dev/null") -> Command:
    nsenter = shutil.which("nsenter") or "nsenter"
    path = {"PATH": os.environ["PATH"]}
    return Command([nsenter, f"--net={pod.path}", "--", *argv], path, stdin)


def _table(times: Mapping[str, Times]) -> Table:
    columns = [name for width in WIDTHS for name in (f"{width} at once, ms", "eleven / this")]
    table = Table("what", "alone, ms", "p90", "true = 1", *columns)
    base = statistics.median(times["/bin/true"].alone)
    eleven = times[ELEVEN].parallel
    for name, measured in times.items():
        alone = sorted(measured.alone)
        parallel: list[str] = []
        for width in WIDTHS:
            median = statistics.median(measured.parallel[width])
            ratio = statistics.median(eleven[width]) / median
            parallel += [milliseconds(median), f"{ratio:.0f}"]
        table.add_row(
            name,
            milliseconds(statistics.median(alone)),
            milliseconds(alone[int(len(alone) * 0.9)]),
            f"{statistics.median(alone) / base:.2f}",
            *parallel,
        )
    return table


def _in_the_agent(agent: AgentProcess) -> str:
    calls = [call for call in agent.calls() if call["decision"] == "redirected"]
    whole = statistics.median(call["ms"] for call in calls)
    rules = statistics.median(call["rulesMs"] for call in calls)
    return f"as the agent saw its ADDs, nft, all widths: {whole:.2f} ms, of which {rules:.2f} rules"


if __name__ == "__main__":
    main()
