"""The plugin run by containerd, which runs it in production: the log, the rules, the traffic."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.dataplane.nft import NftBackend
from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY
from meshgraft.lab.netns import Netns
from tests.chain.agent import ANNOTATIONS, PROGRAM, REDIRECT, AgentProcess, running_agent
from tests.chain.containerd import APP_IMAGE, Containerd, missing_requirements, running_containerd
from tests.chain.cri import ContainerSpec, CriError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        bool(missing_requirements()), reason="containerd: " + "; ".join(missing_requirements())
    ),
]
HOST_PORT = 18080
GATEWAY = "10.214.0.1"


def network(folder: Path) -> dict[str, Any]:
    """A node's conflist as our installer leaves it."""
    return {
        "cniVersion": "1.0.0",
        "name": "node",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "ipam"),
                    "ranges": [[{"subnet": "10.214.0.0/24", "gateway": GATEWAY}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {
                "type": "linkerd-cni",
                "log_level": "info",
                "capabilities": {ANNOTATIONS_CAPABILITY: True},
                "linkerd": {"incoming-proxy-port": 4143, "outgoing-proxy-port": 4140},
            },
        ],
    }


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with running_agent(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


@pytest.fixture(scope="module")
def node(agent: AgentProcess, make_netns: Callable[[], Netns]) -> Iterator[Containerd]:
    with running_containerd(make_netns(), agent.environment) as containerd:
        containerd.install_plugin(PROGRAM)
        containerd.write_network(network(containerd.folder))
        yield containerd


def plugin_lines(node: Containerd, pod: str) -> list[str]:
    """What our plugin said about the pod, in the log of the runtime."""
    return [
        line
        for line in node.log_text().splitlines()
        if line.startswith("linkerd-cni:") and f"pod={pod} " in f"{line} "
    ]


def difference(node: Containerd, pod_id: str) -> str | None:
    with node.netns_path(pod_id).open("rb") as netns:
        return NftBackend().difference(netns.fileno(), REDIRECT)


def leased(node: Containerd) -> int:
    """How many addresses host-local has given out."""
    return len(list((node.folder / "ipam/node").glob("10.214.*")))


def test_a_meshed_pod_has_its_rules_and_both_logs_say_so(
    node: Containerd, agent: AgentProcess
) -> None:
    with node.running_pod(node.pod_spec("web-0", annotations=ANNOTATIONS)) as pod_id:
        assert difference(node, pod_id) is None
        assert node.cri.pod_addresses(pod_id)[0].startswith("10.214.0.")
    (line,) = plugin_lines(node, "shop/web-0")
    assert re.match(r'linkerd-cni: msg="?redirected"? pod=shop/web-0 backend=nft', line)
    (call,) = agent.calls_for("shop/web-0")
    assert (call["command"], call["decision"]) == ("ADD", "redirected")
    # The runtime handed over the annotations: nobody was asked about the pod.
    assert call["reason"] == "redirect-annotation"


@pytest.mark.parametrize(("name", "annotations"), [("none", {}), ("others", {"a": "b"})])
def test_a_pod_without_a_mark_is_left_alone(
    node: Containerd, agent: AgentProcess, name: str, annotations: dict[str, str]
) -> None:
    with node.running_pod(node.pod_spec(name, annotations=annotations)) as pod_id:
        assert difference(node, pod_id) == "table inet meshgraft is missing"
    (call,) = agent.calls_for(f"shop/{name}")
    assert (call["decision"], call["reason"]) == ("passed-through", "no-mark")


def test_traffic_of_real_containers_goes_through_the_proxy_s_port(node: Containerd) -> None:
    server = node.pod_spec("server", annotations=ANNOTATIONS, host_ports={HOST_PORT: 8080})
    client = node.pod_spec("client")
    with node.running_pod(server) as server_id, node.running_pod(client) as client_id:
        for name, args in {"app": ["serve", "8080"], "linkerd-proxy": ["serve", "4143"]}.items():
            container = ContainerSpec(APP_IMAGE, name, args=args)
            node.cri.start_container(server_id, server, container)
        shell = node.cri.start_container(client_id, client, ContainerSpec(APP_IMAGE))

        def get(address: str, port: int) -> str:
            done = node.cri.execute(shell, "/app", "get", address, str(port))
            assert done.exit_code == 0, done.stderr
            return done.stdout

        (address,) = node.cri.pod_addresses(server_id)
        assert get(address, 8080) == "port 4143 here\n"
        assert get(GATEWAY, HOST_PORT) == "port 4143 here\n"  # by portmap, before ours


def test_while_the_agent_is_away_meshed_pods_wait_and_others_start(
    node: Containerd, agent: AgentProcess
) -> None:
    pod = node.pod_spec("waits-0", annotations=ANNOTATIONS)
    before = leased(node)
    agent.stop()
    try:
        with pytest.raises(CriError, match="pod shop/waits-0: the linkerd-cni agent") as refused:
            node.cri.run_pod(pod)
        assert "so the pod waits" in str(refused.value)
        assert leased(node) == before, "DEL after the failed ADD gives the address back"
        with node.running_pod(node.pod_spec("plain-1", annotations={})) as plain_id:
            assert node.cri.pod_addresses(plain_id)[0]
    finally:
        agent.start()
    assert any("reason=no-mark" in line for line in plugin_lines(node, "shop/plain-1"))
    with node.running_pod(pod) as pod_id:  # as the kubelet does: the same pod once more
        assert difference(node, pod_id) is None


def test_nothing_of_a_removed_pod_stays(node: Containerd) -> None:
    before = leased(node)
    with node.running_pod(node.pod_spec("gone-0", annotations=ANNOTATIONS)) as pod_id:
        path = node.netns_path(pod_id)
        assert path.exists()
        assert leased(node) == before + 1
    assert not path.exists()
    assert leased(node) == before


def test_a_containerd_that_is_killed_with_a_running_pod_leaves_nothing(
    make_netns: Callable[[], Netns], tmp_path: Path
) -> None:
    whole = network(tmp_path)
    without_ours = {**whole, "plugins": whole["plugins"][:-1]}

    def run_into_an_error() -> None:
        with running_containerd(make_netns()) as containerd:
            seen.append(containerd)
            containerd.write_network(without_ours)
            pod = containerd.pod_spec("left-behind")
            pod_id = containerd.cri.run_pod(pod)
            container = ContainerSpec(APP_IMAGE, args=["serve", "8080"])
            containerd.cri.start_container(pod_id, pod, container)
            assert len(processes(containerd.folder)) > 2  # containerd, a shim, the containers
            raise RuntimeError("in the middle of a test")

    seen: list[Containerd] = []
    with pytest.raises(RuntimeError, match="in the middle"):
        run_into_an_error()
    (gone,) = seen
    assert not gone.folder.exists()
    assert str(gone.folder) not in Path("/proc/mounts").read_text()
    assert not [*Path("/sys/fs/cgroup").glob(f"**/{gone.folder.name}")]
    assert processes(gone.folder) == []


def processes(folder: Path) -> list[str]:
    """The processes that have to do with a containerd's folder: by command line or by cgroup."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (process / "cmdline").read_text() + (process / "cgroup").read_text()
            found += [process.name] if folder.name in text else []
    return found
