"""The image holds what it should, and each part works in a container as the charts run it."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import pytest

from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.legacy import LegacyBackend
from cni_plugin.dataplane.nft import NftBackend
from deploy.images.inventory import inventory, open_layer
from meshgraft.lab.netns import Netns
from tests.chain.agent import REDIRECT
from tests.chain.conftest import make_netns as make_netns
from tests.chain.containerd import Containerd, missing_requirements, running_containerd
from tests.chain.pods import many_pods
from tests.images.node import NETWORK, Pod, python, running_pod
from vocabulary.version import __version__

pytestmark = [pytest.mark.root, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
SERVICE = "meshgraft-injector.meshgraft.svc"


@pytest.fixture(scope="module")
def node(archive: Path, make_netns: Callable[[], Netns]) -> Iterator[Containerd]:
    """A containerd that has the image."""
    if missing := missing_requirements():
        pytest.skip("containerd: " + "; ".join(missing))
    with running_containerd(make_netns()) as containerd:
        containerd.import_image(archive)
        containerd.write_network(
            {
                **NETWORK,
                "plugins": [
                    {**plugin, "ipam": {**plugin["ipam"], "dataDir": f"{containerd.folder}/ipam"}}
                    for plugin in NETWORK["plugins"]
                ],
            }
        )
        yield containerd


def eventually(probe: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Call until it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            probe()
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s") from error
            time.sleep(0.02)
        else:
            return


def difference(backend: Backend, pod: Pod) -> str | None:
    """What the rules in the pod's namespace lack, seen from outside by our own backend."""
    with pod.containerd.netns_path(pod.pod_id).open("rb") as netns:
        return backend.difference(netns.fileno(), REDIRECT)


def test_nothing_is_in_it_that_is_not_on_the_list(archive: Path) -> None:
    """After a wanted change: deploy/images/inventory.py ARCHIVE > deploy/images/files.txt."""
    with open_layer(archive) as layer:
        found = inventory(layer)
    assert found == (ROOT / "deploy/images/files.txt").read_text().splitlines()


def test_the_bill_of_materials_lists_all_packages(archive: Path) -> None:
    with open_layer(archive) as layer:
        content = layer.extractfile("usr/share/sbom/meshgraft.spdx.json")
        assert content is not None
        sbom = json.load(content)
    names = {package["name"] for package in sbom["packages"]}
    listed = (ROOT / "deploy/images/files.txt").read_text().splitlines()
    kinds = ("debian ", "python ")
    brought = {line.split()[1] for line in listed if line.startswith(kinds)}
    assert names == brought | {"musl"}, "musl is in the static program"


def test_it_starts_as_nobody_special_with_a_root_it_cannot_change(node: Containerd) -> None:
    code = (
        "import os, pathlib; print(os.getuid(), os.getgid(), [line.split()[1] for line in"
        " pathlib.Path('/proc/self/status').read_text().splitlines()"
        " if line.startswith(('CapBnd', 'Seccomp:', 'NoNewPrivs'))])\n"
        "try: pathlib.Path('/x').touch()\n"
        "except OSError as error: print(error.strerror)"
    )
    with running_pod(node, "default") as pod:
        ended, printed = pod.run(name="python", command=python(code))
        assert pod.run("version") == (0, __version__)
    assert (ended, printed.splitlines()) == (
        0,
        ["2103 2103 ['0000000000000000', '1', '2']", "Read-only file system"],
    )


@pytest.mark.parametrize(
    ("mode", "capabilities"), [("nft", ["NET_ADMIN"]), ("legacy", ["NET_ADMIN", "NET_RAW"])]
)
def test_proxy_init_sets_the_rules_that_network_validator_waits_for(
    node: Containerd, mode: str, capabilities: list[str]
) -> None:
    backend = NftBackend() if mode == "nft" else LegacyBackend()
    flags = ["--iptables-mode", mode, "--redirect", REDIRECT.to_annotation()]
    with running_pod(node, f"init-{mode}") as pod:
        code, printed = pod.run("network-validator", "--timeout", "200ms", uid=65534, name="no")
        assert (code, "redirect" in printed) == (95, True), printed
        ended = pod.run("proxy-init", *flags, uid=0, add_capabilities=capabilities)
        assert ended[0] == 0, ended[1]
        assert difference(backend, pod) is None
        assert pod.run("network-validator", uid=65534) == (0, "Validated")


def test_proxy_init_without_its_capability_says_so(node: Containerd) -> None:
    with running_pod(node, "bare") as pod:
        code, printed = pod.run(
            "proxy-init", "--iptables-mode", "nft", "--redirect", REDIRECT.to_annotation(), uid=0
        )
    assert code == 1
    assert "NET_ADMIN" in printed


def test_the_webhook_answers_a_review_over_tls(node: Containerd, tmp_path: Path) -> None:
    review = json.loads((DATA / "admission-reviews/pod-shop-web.json").read_text())
    writable = tmp_path / "tmp"  # by anyone, as an emptyDir is
    writable.mkdir()
    writable.chmod(0o777)
    # A copy: in a checkout that is its owner's only, the image's user could not read it.
    (writable / "namespaces.json").write_bytes((DATA / "namespaces.json").read_bytes())
    with running_pod(node, "webhook") as pod:
        args = ["--cert-dir", "/tmp", "--offline-objects", "/tmp/namespaces.json"]
        pod.start("webhook", *args, mounts={"/tmp": (writable, False)})

        def is_ready() -> None:
            with contextlib.closing(HTTPConnection(pod.address, 9995)) as connection:
                connection.sock = node.node.connect(pod.address, 9995)
                connection.request("GET", "/ready")
                if connection.getresponse().status != 200:
                    raise OSError("not yet")

        eventually(is_ready, "the webhook's readiness")
        tls = ssl.create_default_context(cafile=writable / "ca.crt")
        with contextlib.closing(HTTPSConnection(pod.address, 8443)) as connection:
            connection.sock = tls.wrap_socket(
                node.node.connect(pod.address, 8443), server_hostname=SERVICE
            )
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/", json.dumps(review), headers)
            response = json.load(connection.getresponse())["response"]
    assert response["allowed"]
    assert response["uid"] == review["request"]["uid"]
    assert response["patchType"] == "JSONPatch"


@pytest.mark.parametrize(
    ("mode", "capabilities"),
    [("nft", ["NET_ADMIN", "SYS_ADMIN"]), ("legacy", ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"])],
)
def test_the_agent_serves_the_plugin_that_is_taken_out_of_the_image(
    node: Containerd, archive: Path, tmp_path: Path, mode: str, capabilities: list[str]
) -> None:
    program = tmp_path / "linkerd-cni"
    with open_layer(archive) as layer:
        content = layer.extractfile("opt/meshgraft/bin/linkerd-cni")
        assert content is not None
        program.write_bytes(content.read())
    program.chmod(0o755)
    sockets = tmp_path / "run"
    sockets.mkdir()
    backend = NftBackend() if mode == "nft" else LegacyBackend()
    with running_pod(node, f"agent-{mode}") as agent, many_pods([REDIRECT]) as (pod,):
        agent.start(
            *("cni-agent", "--iptables-mode", mode),
            uid=0,
            add_capabilities=capabilities,
            mounts={"/run/linkerd-cni": (sockets, False)},
        )
        eventually((sockets / "agent.sock").stat, "the agent's socket")
        socket = {"LINKERD_CNI_SOCKET": str(sockets / "agent.sock")}
        added = subprocess.run(
            [program],
            input=pod.stdin(),
            env=pod.environment("ADD") | socket,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert added.returncode == 0, added.stdout + added.stderr
        assert backend.difference(pod.fd, REDIRECT) is None
