"""The start: what is plain is read at once, and means what the command line makes of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from cyclopts import App
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.init.proxy_init import Flags
from meshgraft.commands import proxy_init as command
from meshgraft.start import plain_flags
from tests.injector.support import container, inject, pod, settings
from vocabulary.annotations.redirect import Redirect

REDIRECT = Redirect(inbound_port=4143, outbound_port=4140).to_annotation()


def by_command_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Flags:
    found: list[Flags] = []
    monkeypatch.setattr(command, "run", found.append)
    app = App(result_action="return_value")
    app.default(command.proxy_init)
    app(arguments, exit_on_error=False)
    return found[0]


_VALUES: dict[str, st.SearchStrategy[str]] = {
    "--redirect": st.just(REDIRECT),
    "--iptables-mode": st.sampled_from(["", "nft", "legacy", "plain", "x"]),
    "--timeout-close-wait-secs": st.integers(0, 9999).map(str),
    "--incoming-proxy-port": st.integers(0, 70000).map(str),
    "--outgoing-proxy-port": st.integers(0, 70000).map(str),
    "--proxy-uid": st.integers(0, 2**32).map(str),
    "--proxy-gid": st.integers(0, 2**32).map(str),
    "--ports-to-redirect": st.sampled_from(["80", "80,81", "80, 81,", ""]),
    "--inbound-ports-to-ignore": st.sampled_from(["80-90,4191", "22"]),
    "--outbound-ports-to-ignore": st.sampled_from(["80-90,4191", "22"]),
    "--subnets-to-ignore": st.sampled_from(["10.0.0.0/8", "10.0.0.0/8,fd00::/8"]),
    "--firewall-bin-path": st.sampled_from(["iptables-nft", "iptables-legacy"]),
    "--firewall-save-bin-path": st.just("iptables-nft-save"),
    "--log-format": st.sampled_from(["plain", "json"]),
    "--log-level": st.sampled_from(["info", "loud"]),
}


@st.composite
def _arguments(draw: Any) -> list[str]:
    words: list[str] = []
    for name in draw(st.lists(st.sampled_from(sorted(_VALUES)), unique=True)):
        value = draw(_VALUES[name])
        words += [f"{name}={value}"] if draw(st.booleans()) else [name, value]
    ipv6 = draw(st.sampled_from([None, "--ipv6=true", "--ipv6=false"]))
    return [*words, ipv6] if ipv6 else words


@given(_arguments())
def test_what_is_plain_means_what_the_command_line_makes_of_it(arguments: list[str]) -> None:
    flags = plain_flags(arguments)
    assert flags is not None
    with pytest.MonkeyPatch.context() as monkeypatch:
        wanted = by_command_line(arguments, monkeypatch)
    assert Flags(**flags) == wanted


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-p", "4143"],
        ["--simulate"],
        ["--netns", "/proc/1/ns/net"],
        ["--proxy-uid", "-1"],
        ["--proxy-uid", "x"],
        ["--proxy-uid", "1", "--proxy-uid", "2"],
        ["--ports-to-redirect", "1", "--ports-to-redirect", "2"],
        ["--ipv6"],
        ["--ipv6", "false"],
        ["--redirect"],
        ["80"],
    ],
)
def test_anything_else_is_left_to_the_command_line(arguments: list[str]) -> None:
    assert plain_flags(arguments) is None


@pytest.mark.parametrize("profile", ["envoy", "linkerd"])
def test_what_the_injector_writes_is_plain(profile: str) -> None:
    values = settings(
        meshgraft={"profile": profile},
        proxyInit={"closeWaitTimeoutSecs": 60, "skipSubnets": "10.0.0.0/8"},
    )
    patched = inject(pod(), values=values, profile=profile).patched
    names = {"envoy": "meshgraft-init", "linkerd": "linkerd-init"}
    assert plain_flags(container(patched, names[profile])["args"]) is not None


def test_nothing_that_reads_a_command_line_is_loaded() -> None:
    code = (
        "import sys; sys.argv = ['meshgraft', 'proxy-init', '--log-level', 'loud'];"
        "from meshgraft.start import main\n"
        "try: main()\n"
        "finally: print(sorted({'cyclopts', 'logging', 'iptc'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == 'Error: not a valid logrus Level: "loud"\n'
    assert ended.stdout == "[]\n"
