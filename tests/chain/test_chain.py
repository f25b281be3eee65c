"""Chains of the real reference plugins with ours, run as libcni runs them: in several orders and
versions, with neighbours before and behind, from a conflist and from a drop-in folder."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.spec import Code
from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY, PluginError
from meshgraft.lab.lab import CNI_PATHS
from meshgraft.lab.netns import Netns
from tests.chain.agent import ANNOTATIONS, PROGRAM, REDIRECT, AgentProcess, running_agent
from tests.chain.runtime import Pod, Runtime, Step
from tests.dataplane.peers import serving

OURS = "linkerd-cni"
GATEWAY = "10.215.0.1"
NEIGHBOURS = ("portmap", "bandwidth", "tuning", "firewall")


def plugin_versions(plugin: str) -> list[str]:
    """The versions of the specification that an installed plugin knows; none where it is absent."""
    path = next((d / plugin for d in CNI_PATHS if (d / plugin).exists()), None)
    if path is None:
        return []
    environment = {"CNI_COMMAND": "VERSION"}
    done = subprocess.run([path], input=b"{}", capture_output=True, env=environment, timeout=10)
    versions: list[str] = json.loads(done.stdout)["supportedVersions"]
    return versions


def missing_plugins() -> list[str]:
    plugins = ("bridge", "host-local", *NEIGHBOURS)
    return [p for p in plugins if not any((d / p).exists() for d in CNI_PATHS)]


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() == 0 and bool(missing_plugins()),
        reason=f"CNI plugins {', '.join(missing_plugins())} (containernetworking-plugins)",
    ),
]

ENTRIES: dict[str, dict[str, Any]] = {
    "bridge": {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
    },
    "portmap": {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
    "bandwidth": {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    "tuning": {"type": "tuning", "sysctl": {"net.ipv4.tcp_retries2": "9"}},
    "firewall": {"type": "firewall", "backend": "iptables"},
    OURS: {
        "type": OURS,
        "log_level": "info",
        "capabilities": {ANNOTATIONS_CAPABILITY: True},
        "linkerd": {"incoming-proxy-port": 4143, "outgoing-proxy-port": 4140},
    },
}

ORDERS = {
    "ours-last": ("bridge", "portmap", "bandwidth", "tuning", "firewall", OURS),
    "ours-second": ("bridge", OURS, "firewall", "tuning", "bandwidth", "portmap"),
    "ours-between": ("bridge", "tuning", "portmap", OURS, "bandwidth", "firewall"),
}
LIVES = [
    *itertools.product(("0.3.1", "0.4.0", "1.0.0"), ORDERS),
    ("1.1.0", "ours-last"),  # newer than the plugins of Debian 12
]


@pytest.fixture(scope="module")
def node(make_netns: Callable[[], Netns]) -> Netns:
    netns = make_netns()
    netns.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    return netns


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with running_agent(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


class Chains:
    """Makes runtimes for conflists, and pods for them; takes the pods down again."""

    def __init__(self, folder: Path, node: Netns, agent: AgentProcess, stack: ExitStack) -> None:
        self.folder = folder
        self.node = node
        self.agent = agent
        self._stack = stack
        self._numbers = itertools.count()

    def runtime(self, version: str, *plugins: str, **changed: Any) -> Runtime:
        """A runtime with a net.d of its own, with these plugins in one conflist; ``changed`` has
        whole entries for some of them."""
        entries = [changed.get(plugin) or self.entry(plugin) for plugin in plugins]
        conflist = {"cniVersion": version, "name": "node", "plugins": entries}
        net_dir = self.folder / f"net.d-{next(self._numbers)}"
        net_dir.mkdir()
        (net_dir / "10-node.conflist").write_text(json.dumps(conflist))
        return Runtime(
            net_dir,
            [PROGRAM.parent, *CNI_PATHS],
            self.node,
            self.folder / "results",
            self.agent.environment,
        )

    def entry(self, plugin: str) -> dict[str, Any]:
        """The plugin's entry; the bridge's has the addresses that are given out."""
        if plugin != "bridge":
            return ENTRIES[plugin]
        ranges = [[{"subnet": "10.215.0.0/24", "gateway": GATEWAY}]]
        ipam = {"type": "host-local", "dataDir": str(self.folder / "ipam"), "ranges": ranges}
        return {**ENTRIES[plugin], "ipam": ipam}

    def pod(self, host_port: int | None = None, **annotations: str) -> Pod:
        """A pod with a network namespace of its own, meshed unless it has other annotations."""
        netns = Netns(f"mgc-{os.getpid()}-{self.folder.name[-12:]}-{next(self._numbers)}")
        self._stack.callback(netns.close)
        capabilities: dict[str, Any] = {
            ANNOTATIONS_CAPABILITY: annotations or ANNOTATIONS,
            "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 80_000_000},
        }
        if host_port:
            mapping = {"hostPort": host_port, "containerPort": 8080, "protocol": "tcp"}
            capabilities["portMappings"] = [mapping]
        return Pod("web-0", netns, capabilities)

    def leases(self) -> list[str]:
        """The addresses that host-local has given out."""
        return [path.name for path in (self.folder / "ipam/node").glob("10.*")]


@pytest.fixture
def chains(tmp_path: Path, node: Netns, agent: AgentProcess) -> Iterator[Chains]:
    with ExitStack() as stack:
        yield Chains(tmp_path, node, agent, stack)


@contextmanager
def answering(netns: Netns, *ports: int) -> Iterator[None]:
    """On each of these ports every connection is told which one it reached."""
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(serving(netns, _reply(port), port))
        yield


def _reply(port: int) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(str(port).encode())


def reached(netns: Netns, host: str, port: int) -> int:
    """The port that a connection from inside ``netns`` really came out at."""
    with netns.connect(host, port, timeout=5) as connection:
        return int(connection.recv(16))


def address_of(steps: list[Step]) -> str:
    ips = json.loads(steps[-1].stdout)["ips"]
    address: str = ips[0]["address"].partition("/")[0]
    return address


def assert_traffic_is_redirected(chains: Chains, pod: Pod, address: str, host_port: int) -> None:
    """In and out, with the ports that are left out left alone, and portmap's mapping in use."""
    with answering(pod.netns, 4143, 4140, 4191), answering(chains.node, 9000):
        assert reached(chains.node, address, 8080) == 4143
        assert reached(chains.node, address, 4191) == 4191
        assert reached(pod.netns, GATEWAY, 9000) == 4140
        client = chains.pod()
        plain = chains.runtime("1.0.0", "bridge")
        plain.add(client)
        assert reached(client.netns, GATEWAY, host_port) == 4143
        plain.delete(client)


def without_port_mappings(pod: Pod) -> Pod:
    """For CHECK: portmap up to 1.1.1 looks for the mapping of IPv4 among those of IPv6 too."""
    capabilities = {k: v for k, v in pod.capabilities.items() if k != "portMappings"}
    return replace(pod, capabilities=capabilities)


def rules_differ(pod: Pod) -> str | None:
    return NftBackend().difference(pod.netns.fd, REDIRECT)


def delete_rule(pod: Pod, comment: str) -> None:
    """Tamper with the pod's table as somebody with ``nft`` would."""
    chain = "inet meshgraft PROXY_INIT_OUTPUT"
    listing = pod.netns.run("nft", "-a", "list", "chain", *chain.split())
    handle = re.search(rf'"{comment}" # handle (\d+)', listing)
    assert handle is not None, listing
    pod.netns.run("nft", "delete", "rule", *chain.split(), "handle", handle[1])


@pytest.mark.parametrize(("version", "order"), LIVES)
def test_a_whole_life_in_a_chain_of_neighbours(chains: Chains, version: str, order: str) -> None:
    if version not in plugin_versions("bridge"):
        pytest.skip(f"the installed CNI plugins are older than version {version}")
    plugins = [p for p in ORDERS[order] if p == OURS or version in plugin_versions(p)]
    host_port = 18080
    runtime, pod = chains.runtime(version, *plugins), chains.pod(host_port)

    steps = runtime.add(pod)
    ours = next(step for step in steps if step.plugin == OURS)
    assert ours.stdout == ours.prev_result != b""
    assert 'linkerd-cni: msg="redirected" pod=shop/web-0' in ours.stderr
    assert rules_differ(pod) is None
    assert_traffic_is_redirected(chains, pod, address_of(steps), host_port)
    assert pod.netns.run("cat", "/proc/sys/net/ipv4/tcp_retries2") == "9\n"

    if version != "0.3.1":  # it has no CHECK
        checked = without_port_mappings(pod)
        assert [step.plugin for step in runtime.check(checked)] == plugins
        delete_rule(pod, "proxy-init/ignore-loopback")
        with pytest.raises(PluginError) as found:
            runtime.check(checked)
        assert (found.value.run.plugin, found.value.code) == (OURS, Code.RULES_DIFFER)
        assert "'proxy-init/ignore-loopback'" in found.value.message
    deleted = runtime.delete(pod)
    assert [step.plugin for step in deleted] == plugins[::-1]
    assert chains.leases() == []
    runtime.delete(pod)  # DEL of what is gone already, as a runtime does after a restart


def test_version_1_1_0_as_far_as_the_plugin_goes_alone(chains: Chains) -> None:
    runtime, pod = chains.runtime("1.1.0", OURS), chains.pod()
    runtime.whole_network("STATUS")
    (step,) = runtime.add(pod)
    assert json.loads(step.stdout) == {"cniVersion": "1.1.0"}
    assert rules_differ(pod) is None
    runtime.check(pod)
    runtime.whole_network("GC")
    runtime.delete(pod)
    chains.agent.stop()
    try:
        # A refusal would take the node out of service, the agent's own pod with it.
        runtime.whole_network("STATUS")
    finally:
        chains.agent.start()


def test_from_a_drop_in_folder_it_comes_behind_the_plugins_of_the_list(chains: Chains) -> None:
    runtime, pod = chains.runtime("1.0.0", "bridge", "portmap"), chains.pod()
    folder = runtime.net_dir / "node"
    folder.mkdir()
    (folder / "50-linkerd-cni.conf").write_text(json.dumps(ENTRIES[OURS]))
    (folder / "README").write_text("not a plugin")
    steps = runtime.add(pod)
    assert [step.plugin for step in steps] == ["bridge", "portmap", OURS]
    assert steps[-1].stdout == steps[-2].stdout
    assert rules_differ(pod) is None
    runtime.check(pod)
    assert [step.plugin for step in runtime.delete(pod)] == [OURS, "portmap", "bridge"]


def test_after_a_refused_add_everything_is_given_back_and_the_next_one_works(
    chains: Chains,
) -> None:
    runtime, pod = chains.runtime("1.0.0", "bridge", "portmap", OURS), chains.pod(18081)
    chains.agent.stop()
    try:
        with pytest.raises(PluginError) as refused:
            runtime.add(pod)
        assert refused.value.code == Code.TRY_AGAIN_LATER
        assert "pod shop/web-0" in refused.value.message
        assert len(chains.leases()) == 1
        runtime.delete(pod)
        assert chains.leases() == []
    finally:
        chains.agent.start()
    runtime.add(pod)
    assert rules_differ(pod) is None
    runtime.delete(pod)


def test_a_neighbour_that_fails_behind_ours_does_not_leave_the_pod_in_the_way(
    chains: Chains,
) -> None:
    pod = chains.pod()
    wrong = {"type": "tuning", "sysctl": {"net.ipv4.no_such_setting": "1"}}
    runtime = chains.runtime("1.0.0", "bridge", OURS, "tuning", tuning=wrong)
    with pytest.raises(PluginError) as refused:
        runtime.add(pod)
    assert refused.value.run.plugin == "tuning"
    runtime.delete(pod)
    runtime = chains.runtime("1.0.0", "bridge", OURS, "tuning")
    steps = runtime.add(pod)  # the same namespace again: the rules are there already
    assert "changed=false" in next(step for step in steps if step.plugin == OURS).stderr
    assert rules_differ(pod) is None
    runtime.delete(pod)


def test_an_unmeshed_pod_goes_through_untouched(chains: Chains) -> None:
    runtime, pod = chains.runtime("1.0.0", *ORDERS["ours-between"]), chains.pod(plain="yes")
    ours = next(step for step in runtime.add(pod) if step.plugin == OURS)
    assert ours.stdout == ours.prev_result
    assert "meshgraft" not in pod.netns.run("nft", "list", "tables")
    runtime.check(pod)
    runtime.delete(pod)


def test_the_legacy_backend_in_the_same_chain(
    chains: Chains, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_agent(tmp_path_factory.mktemp("legacy"), "legacy") as agent:
        chains.agent = agent
        runtime, pod = chains.runtime("1.0.0", *ORDERS["ours-between"]), chains.pod(18082)
        steps = runtime.add(pod)
        assert_traffic_is_redirected(chains, pod, address_of(steps), 18082)
        runtime.check(without_port_mappings(pod))
        pod.netns.run("iptables-legacy", "-t", "nat", "-D", "PROXY_INIT_OUTPUT", "2")
        with pytest.raises(PluginError) as found:
            runtime.check(without_port_mappings(pod))
        assert (found.value.run.plugin, found.value.code) == (OURS, Code.RULES_DIFFER)
        runtime.delete(pod)
