"""One ADD as a whole process, beside what it is measured against, alone and in parallel.

``/bin/true`` is the price of a process; eleven ``nsenter iptables-nft`` is how Linkerd's plugin
sets the same rules; one ``iptables-nft-restore`` is the best that a program run per pod can do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, milliseconds
from cni_plugin.rules import commands
from injector.annotations import REDIRECT_ANNOTATION, PortRange, Redirect
from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY, Attachment, Chain
from meshgraft.lab.lab import missing_requirements, running_lab
from meshgraft.lab.netns import Netns

REDIRECT = Redirect(
    inbound_port=4143,
    outbound_port=4140,
    proxy_uid=2102,
    skip_inbound_ports=(PortRange(4190, 4191), PortRange(4567, 4568)),
    skip_outbound_ports=(PortRange(4567, 4568),),
)
ANNOTATIONS = {REDIRECT_ANNOTATION: REDIRECT.to_annotation()}
Action = Callable[[Netns], None]
_names = itertools.count()


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=48, help="pods for each figure")
    arguments = parser.parse_args()
    if missing := missing_requirements():
        sys.exit("missing: " + "; ".join(missing))
    table = Table("what", "alone, ms", "p90", "24 in parallel, ms a pod", "/bin/true = 1")
    with running_lab("nft") as nft, running_lab("legacy") as legacy:
        actions: dict[str, Action] = {
            "/bin/true": lambda _: _run("/bin/true"),
            "linkerd-cni ADD, nft": adder(nft.chain),
            "linkerd-cni ADD, legacy": adder(legacy.chain),
            "eleven nsenter iptables-nft": eleven,
            "one nsenter iptables-nft-restore": restore,
        }
        alone = in_turns(actions, arguments.pods)
        base = statistics.median(alone["/bin/true"])
        for name, action in actions.items():
            times = sorted(alone[name])
            table.add_row(
                name,
                milliseconds(statistics.median(times)),
                milliseconds(times[int(len(times) * 0.9)]),
                milliseconds(in_parallel(action, arguments.pods)),
                f"{statistics.median(times) / base:.1f}",
            )
    console = Console(width=120)
    console.print(describe("meshgraft", "pyroute2", "python-iptables"))
    console.print(table)


def adder(chain: Chain) -> Action:
    """ADD of our plugin alone, after a ``prevResult`` of some plugin before it."""
    entry = {**chain.conflist["plugins"][-1], "prevResult": {"cniVersion": "1.0.0", "ips": []}}
    entry["capabilities"] = {ANNOTATIONS_CAPABILITY: True}
    ours = Chain({**chain.conflist, "plugins": [entry]}, chain.path, None, chain.environment)

    def add(netns: Netns) -> None:
        ours.add(Attachment(netns.name, netns.path, "bench", netns.name, ANNOTATIONS))

    return add


def eleven(netns: Netns) -> None:
    """The two reads and nine changes of Linkerd's plugin, each a process in the pod's netns."""
    _run(*netns.command("iptables-nft-save", "-t", "nat"))
    for argv in commands(REDIRECT, "ipv4"):
        _run(*netns.command("iptables-nft", *argv))
    _run(*netns.command("iptables-nft-save", "-t", "nat"))


def restore(netns: Netns) -> None:
    """The same rules in one go."""
    lines = ["*nat", *(" ".join(argv[2:]) for argv in commands(REDIRECT, "ipv4")), "COMMIT", ""]
    subprocess.run(
        netns.command("iptables-nft-restore", "--noflush"),
        input="\n".join(lines),
        text=True,
        check=True,
        capture_output=True,
    )


def in_turns(actions: dict[str, Action], pods: int) -> dict[str, list[float]]:
    """Each action on ``pods`` fresh namespaces of its own, one after the other, in turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(pods):
        for name, action in actions.items():
            with fresh() as netns:
                started = time.perf_counter()
                action(netns)
                times[name].append(time.perf_counter() - started)
    return times


def in_parallel(action: Action, pods: int, width: int = 24) -> float:
    """Seconds a pod takes, as it sees it, while 24 are started at once: the median."""

    def timed(netns: Netns) -> float:
        started = time.perf_counter()
        action(netns)
        return time.perf_counter() - started

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(width) as pool:
        namespaces = [stack.enter_context(fresh()) for _ in range(max(pods, width))]
        return statistics.median(pool.map(timed, namespaces))


@contextlib.contextmanager
def fresh() -> Iterator[Netns]:
    """A namespace of its own for one measurement."""
    netns = Netns(f"mglab-{os.getpid()}-bench{next(_names)}")
    try:
        yield netns
    finally:
        netns.close()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


if __name__ == "__main__":
    assert Path("/bin/true").exists()
    main()
