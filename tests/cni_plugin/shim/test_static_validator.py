"""The static validator passes healthy pods alone, and hands all others to the full one."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni_plugin.dataplane.inbound_word import tell
from cni_plugin.dataplane.nft import NftBackend
from meshgraft.lab.netns import Netns
from tests.cni_plugin.init.test_network_validator import IPV4, IPV6, linked, routed
from tests.cni_plugin.shim_support import ROOT
from vocabulary.annotations.redirect import Redirect

RULES = Redirect(inbound_port=4143, outbound_port=4140)
RULES6 = Redirect(inbound_port=4143, outbound_port=4140, ipv6=True)


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """The static program, with a stand-in for ``meshgraft`` beside it, where nobody may run it."""
    with tempfile.TemporaryDirectory(prefix="validator-") as folder:
        Path(folder).chmod(0o755)
        output = Path(folder) / "validator"
        build: list[str | Path] = [
            ROOT / "scripts/build-cni",
            output,
            "meshgraft-network-validator",
        ]
        subprocess.run(build, check=True, timeout=60)
        other = output.with_name("meshgraft")
        other.write_text('#!/bin/sh\necho "full: $*"\nexit 7\n')
        other.chmod(0o755)
        yield output


def flags(rules: Redirect, **changed: str) -> list[str]:
    """The arguments as profile ``envoy`` writes them; keys with underscores for dashes."""
    values = {
        "connect_addr": "[fd00::1]:20001" if rules.ipv6 else "1.1.1.1:20001",
        "listen_addr": "[::]:4140" if rules.ipv6 else "0.0.0.0:4140",
        "timeout": "10s",
        "redirect": rules.to_annotation(),
        "inbound_wait": "0",
        **changed,
    }
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in values.items()]
    return [word for pair in pairs for word in pair]


def ran(program: Path, netns: Netns, *argv: str) -> tuple[int, str, str]:
    line = netns.command(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all", "--", str(program), *argv,
    )  # fmt: skip
    env = {"PATH": f"{program.parent}:/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.root
@pytest.mark.parametrize("redirect", [RULES, RULES6], ids=["ipv4", "both"])
def test_a_redirected_pod_validates(program: Path, netns: Netns, redirect: Redirect) -> None:
    NftBackend().apply(routed(netns).fd, redirect)
    assert ran(program, netns, *flags(redirect)) == (0, "Validated\n", "")


@pytest.mark.root
@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_a_pod_of_one_family_validates_by_it(
    program: Path, netns: Netns, family: tuple[str, ...]
) -> None:
    NftBackend().apply(linked(netns, *family, *_way_out(family)).fd, RULES6)
    assert ran(program, netns, *flags(RULES6)) == (0, "Validated\n", "")


def _way_out(family: tuple[str, ...]) -> tuple[str, ...]:
    six = family is IPV6
    return ("-6 route add default via fd77::fe",) if six else ("route add default via 10.77.0.254",)


@pytest.mark.root
@pytest.mark.parametrize(
    ("applied", "wanted"), [(None, RULES), (RULES, RULES6)], ids=["no rules", "one family alone"]
)
def test_a_pod_that_is_not_redirected_is_left_to_the_full_one(
    program: Path, netns: Netns, applied: Redirect | None, wanted: Redirect
) -> None:
    routed(netns)
    if applied:
        NftBackend().apply(netns.fd, applied)
    argv = flags(wanted)
    assert ran(program, netns, *argv) == (7, f"full: network-validator {' '.join(argv)}\n", "")


@pytest.mark.root
@pytest.mark.parametrize(
    "argv",
    [
        [],
        [*flags(RULES), "--log-level", "off"],
        [*flags(RULES), "--require-inbound"],
        flags(RULES, timeout="10"),
        flags(RULES, timeout="1.5s"),
        flags(RULES, inbound_wait="-1s"),
        flags(RULES, listen_addr="10.77.0.1:4140"),
        flags(RULES, listen_addr="0.0.0.0:70000"),
        flags(RULES, listen_addr="0.0.0.0"),
        flags(RULES, connect_addr="nowhere:1"),
        flags(RULES, connect_addr="[1.1.1.1]:1"),
        flags(RULES, redirect="{}"),
        flags(RULES, redirect='{"version":1,"skipOutboundSubnets":["1.1.1.0/24"]}'),
    ],
    ids=lambda argv: " ".join(argv)[-40:] or "none",
)
def test_what_it_does_not_know_is_left_to_the_full_one(
    program: Path, netns: Netns, argv: list[str]
) -> None:
    NftBackend().apply(routed(netns).fd, RULES)
    assert ran(program, netns, *argv)[:2] == (
        7,
        f"full: network-validator {' '.join(argv)}".rstrip() + "\n",
    )


@contextmanager
def agent(netns: Netns, word: str | None) -> Iterator[None]:
    """Gives a validator that listens the word, as the node's agent does."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set() and tell(netns.fd, lambda: word) == "nothing":
            time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@pytest.mark.root
def test_the_agents_word_counts(program: Path, netns: Netns) -> None:
    NftBackend().apply(routed(netns).fd, RULES)
    argv = flags(RULES, inbound_wait="10s")
    with agent(netns, None):
        assert ran(program, netns, *argv) == (0, "Validated\n", "")
    with agent(netns, "the inbound chain is absent"):
        assert ran(program, netns, *argv)[0] == 7


@pytest.mark.root
def test_an_agent_that_is_silent_is_noted(program: Path, netns: Netns) -> None:
    NftBackend().apply(routed(netns).fd, RULES)
    code, printed, noted = ran(program, netns, *flags(RULES, inbound_wait="50ms"))
    assert (code, printed) == (0, "Validated\n")
    assert noted.startswith("Note: inbound: this node's linkerd-cni agent did not say")


@pytest.mark.root
def test_an_absent_full_one_is_told(program: Path, netns: Netns) -> None:
    line = netns.command("env", "PATH=/nowhere", str(program), *flags(RULES))
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 95
    assert "meshgraft, which would try again, cannot be run" in done.stderr
