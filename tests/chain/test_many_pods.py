"""Many pods at once, the agent killed among them, and pods of a user namespace."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni_plugin.dataplane.netns import entered
from cni_plugin.dataplane.rules import Family, commands, families
from cni_plugin.spec import Code
from tests.chain.agent import REDIRECT, running_agent
from tests.chain.pods import Calls, ManyPod, call_all, many_pods
from tests.cni_plugin.shim_support import wait_until
from vocabulary.annotations import PortRange, Redirect

pytestmark = pytest.mark.root

SAVE: dict[Family, str] = {"ipv4": "iptables-legacy-save", "ipv6": "ip6tables-legacy-save"}
MODES = pytest.mark.parametrize(("mode", "count"), [("nft", 200), ("legacy", 60)])


def numbered(number: int) -> Redirect:
    """Rules that no other pod has: each number in them tells whose they are."""
    return Redirect(
        inbound_port=10000 + number,
        outbound_port=20000 + number,
        proxy_uid=2102,
        skip_inbound_ports=(PortRange(30000 + number, 30000 + number),),
        ipv6=True,
    )


def legacy_tables(pod: ManyPod) -> str:
    """Both nat tables as ``iptables-save`` prints them, without what changes by itself."""
    text = "".join(pod.run(save, "-t", "nat") for save in SAVE.values())
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", text, flags=re.MULTILINE)


def nft_tables(pod: ManyPod) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", pod.run("nft", "list", "ruleset"))


def by_iptables(pod: ManyPod) -> str:
    """The legacy tables after Linkerd's proxy-init: one run of iptables for each rule."""
    for family in families(pod.redirect):
        for argv in commands(pod.redirect, family):
            assert pod.run(SAVE[family].removesuffix("-save"), *argv) == ""
    return legacy_tables(pod)


def all_tables(pods: list[ManyPod], mode: str) -> list[str]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(nft_tables if mode == "nft" else legacy_tables, pods))


def test_a_hundred_pods_at_once_get_each_its_own_legacy_rules(
    tmp_path: Path,
) -> None:
    with running_agent(tmp_path, "legacy") as agent, many_pods([numbered(0)]) as (model,):
        expected = by_iptables(model)
        assert "--to-ports 10000" in expected
        with many_pods([numbered(number) for number in range(100)]) as pods:
            done = call_all("ADD", pods, agent.environment)
            assert Counter(outcome.code for outcome in done) == {0: 100}
            done = call_all("CHECK", pods, agent.environment)
            assert Counter(outcome.code for outcome in done) == {0: 100}
            for number, text in enumerate(all_tables(pods, "legacy")):
                assert text == re.sub(r"\b([123])0000\b", rf"\g<1>00{number:02}", expected)


@MODES
def test_a_killed_agent_leaves_no_pod_half_done(tmp_path: Path, mode: str, count: int) -> None:
    with running_agent(tmp_path, mode) as agent, many_pods([numbered(0)] * (count + 2)) as pods:
        model, untouched, *pods = pods
        (outcome,) = call_all("ADD", [model], agent.environment)
        assert outcome.code == 0, outcome.output
        (full,), (nothing,) = all_tables([model], mode), all_tables([untouched], mode)
        assert "30000" in full
        assert "30000" not in nothing

        calls = Calls("ADD", pods, {**agent.environment, "LINKERD_CNI_TIMEOUT_MS": "1500"})
        calls.release()
        wait_until(lambda: calls.ended() >= count // 10)
        agent.kill()
        done = calls.outcomes()
        agent.start()

        # The kill came in the middle: some were answered before, some after not any more.
        assert {outcome.code for outcome in done} == {0, Code.TRY_AGAIN_LATER}
        for pod, outcome, text in zip(pods, done, all_tables(pods, mode), strict=True):
            # Where the answer was lost the rules may be there; the runtime tries again anyway.
            allowed = [full] if outcome.code == 0 else [full, nothing]
            assert text in allowed, f"{pod.name}: {outcome}"

        refused = [pod for pod, outcome in zip(pods, done, strict=True) if outcome.code]
        again = call_all("ADD", refused, agent.environment)
        assert Counter(outcome.code for outcome in again) == {0: len(refused)}
        assert set(all_tables(pods, mode)) == {full}


@MODES
def test_an_agent_that_is_killed_and_comes_back_fails_no_pod(
    tmp_path: Path, mode: str, count: int
) -> None:
    with running_agent(tmp_path, mode) as agent, many_pods([numbered(0)] * count) as pods:
        calls = Calls("ADD", pods, agent.environment)
        calls.release()
        wait_until(lambda: calls.ended() >= count // 10)
        agent.kill()
        agent.start()
        assert Counter(outcome.code for outcome in calls.outcomes()) == {0: count}
        (full,) = set(all_tables(pods, mode))
        assert "30000" in full


def test_a_pod_of_a_user_namespace_gets_its_rules(tmp_path: Path) -> None:
    """``hostUsers: false``; the proxy's uid in a rule is that inside of the pod."""
    with (
        running_agent(tmp_path) as agent,
        many_pods([REDIRECT, REDIRECT]) as (model, peer),
        in_user_namespace() as (pod, holder),
    ):
        done = call_all("ADD", [model, pod], agent.environment)
        assert [outcome.code for outcome in done] == [0, 0], done
        (outcome,) = call_all("CHECK", [pod], agent.environment)
        assert outcome.code == 0, outcome.output
        assert nft_tables(pod) == nft_tables(model)

        connect(pod, holder, peer)
        with listening(pod, 4140) as proxy, listening(peer, 9000) as server:
            assert reached(holder, 2102, proxy, server) is server
            assert reached(holder, 1000, proxy, server) is proxy


def test_where_legacy_iptables_cannot_do_that_it_says_why(tmp_path: Path) -> None:
    with running_agent(tmp_path, "legacy") as agent, in_user_namespace() as (pod, _):
        (outcome,) = call_all("ADD", [pod], agent.environment)
        assert outcome.code == Code.RULES_FAILED
        assert "pod shop/pod-user: the pod has a user namespace of its own" in outcome.output
        assert "--iptables-mode nft" in outcome.output
        assert "PROXY_INIT" not in legacy_tables(pod)


@contextlib.contextmanager
def in_user_namespace() -> Iterator[tuple[ManyPod, int]]:
    """A pod whose users are others outside, as the kubelet maps them, and its process."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--net", "--", "sh", "-c", "echo made; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"made\n":
            pytest.skip("user namespaces are not allowed here")
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text("0 131072 65536")
        with Path(f"/proc/{holder.pid}/ns/net").open("rb") as netns:
            yield ManyPod("pod-user", netns.fileno(), REDIRECT), holder.pid
    finally:
        holder.communicate()


def connect(pod: ManyPod, holder: int, peer: ManyPod) -> None:
    """A cable from the pod, 10.217.0.1, to another one, 10.217.0.2."""
    peer.run("ip", "link", "add", "v0", "type", "veth", "peer", "v0", "netns", str(holder))
    for number, one in enumerate((pod, peer), start=1):
        one.run("ip", "address", "add", f"10.217.0.{number}/24", "dev", "v0")
        for name in ("v0", "lo"):
            assert one.run("ip", "link", "set", name, "up") == ""


@contextlib.contextmanager
def listening(pod: ManyPod, port: int) -> Iterator[socket.socket]:
    with entered(pod.fd):
        sock = socket.create_server(("", port))
    with sock:
        yield sock


def reached(holder: int, uid: int, *listeners: socket.socket) -> socket.socket:
    """Where a connection to 10.217.0.2:9000 comes out that a user of the pod makes."""
    code = "import socket; socket.create_connection(('10.217.0.2', 9000), 5).close()"
    user = ["setpriv", f"--reuid={uid}", "--clear-groups", "--"]
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
    subprocess.run(
        ["nsenter", f"--target={holder}", "--user", "--net", "--", *user, python, "-Ic", code],
        check=True,
        timeout=30,
    )
    (found,), _, _ = select.select(listeners, [], [], 5)
    found.accept()[0].close()
    assert isinstance(found, socket.socket)
    return found
