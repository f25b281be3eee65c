"""A pod's namespace is found by its addresses, and one that is not certainly its own never."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cni_plugin.dataplane.netns import identity
from cni_plugin.pods.netns import AmbiguousNetnsError, NetnsNotFoundError, PodNetns
from cni_plugin.pods.source import Pod
from cni_plugin.pods.status import addresses
from tests.cni_plugin.repair_support import Folder, at, pod

pytestmark = pytest.mark.root


def found(netns: PodNetns, of: Pod, *, fresh: bool = True) -> tuple[int, int]:
    with netns.opened(of, fresh=fresh) as fd:
        return identity(fd)


def refusal(netns: PodNetns, of: Pod) -> str:
    with pytest.raises(NetnsNotFoundError) as caught:
        found(netns, of)
    return str(caught.value)


def test_each_pod_gets_its_own(folder: Folder) -> None:
    web = folder.network("10.78.0.5/24", "fd78::5/64")
    api = folder.network("10.78.0.6/24", "fd78::6/64")
    netns = PodNetns(folder.path)
    for fresh in (False, True):
        assert found(netns, pod("10.78.0.5", "fd78::5"), fresh=fresh) == identity(web.fd)
        assert found(netns, pod("fd78::6"), fresh=fresh) == identity(api.fd)


def test_one_that_comes_later_is_found_and_one_that_is_gone_is_not(folder: Folder) -> None:
    netns = PodNetns(folder.path)
    assert "none of 0 network namespaces" in refusal(netns, pod("10.78.0.5"))
    web = folder.network("10.78.0.5/24", name="cni-1")
    assert found(netns, pod("10.78.0.5"), fresh=False) == identity(web.fd)
    (folder.path / "cni-1").unlink()
    assert "none of 0 network namespaces" in refusal(netns, pod("10.78.0.5"))


def test_an_address_that_comes_later_is_found(folder: Folder) -> None:
    web = folder.network()
    netns = PodNetns(folder.path)
    assert "has 10.78.0.5" in refusal(netns, pod("10.78.0.5"))
    subprocess.run(["ip", "-n", web.name, "addr", "add", "10.78.0.5/24", "dev", "eth0"], check=True)
    assert found(netns, pod("10.78.0.5"), fresh=False) == identity(web.fd)


def test_two_with_the_same_address_are_both_left_alone(folder: Folder) -> None:
    folder.network("10.78.0.5/24", name="cni-1")
    folder.network("10.78.0.5/24", name="cni-2")
    with pytest.raises(AmbiguousNetnsError) as caught:
        found(PodNetns(folder.path), pod("10.78.0.5"))
    assert "cni-1 and" in str(caught.value)
    assert "none of them is touched" in str(caught.value)


def test_one_that_is_mounted_twice_is_one(folder: Folder) -> None:
    web = folder.network("10.78.0.5/24", name="cni-1")
    (folder.path / "cni-2").symlink_to(web.path)
    assert found(PodNetns(folder.path), pod("10.78.0.5")) == identity(web.fd)


def test_a_second_one_that_came_since_the_last_look_is_seen_before_anything_is_changed(
    folder: Folder,
) -> None:
    folder.network("10.78.0.5/24")
    netns = PodNetns(folder.path)
    found(netns, pod("10.78.0.5"), fresh=False)
    folder.network("10.78.0.5/24")
    with pytest.raises(AmbiguousNetnsError):
        found(netns, pod("10.78.0.5"))


def test_all_of_the_pods_addresses_must_be_there(folder: Folder) -> None:
    folder.network("10.78.0.5/24")
    assert "has not all of the pod's addresses" in refusal(
        PodNetns(folder.path), pod("10.78.0.5", "fd78::5")
    )


def test_the_address_may_have_moved_since_it_was_seen(folder: Folder) -> None:
    web = folder.network("10.78.0.5/24")
    netns = PodNetns(folder.path)
    found(netns, pod("10.78.0.5"), fresh=False)
    subprocess.run(["ip", "-n", web.name, "addr", "flush", "dev", "eth0"], check=True)
    with pytest.raises(NetnsNotFoundError, match="has not all"):
        found(netns, pod("10.78.0.5"), fresh=False)


def test_the_nodes_own_network_is_never_a_pods(folder: Folder) -> None:
    """Neither the agent's own nor, where the agent is in another, the one with the node's IP."""
    folder.network("10.78.0.5/24", "10.99.99.99/24")
    assert "the node's own network" in refusal(PodNetns(folder.path), pod("10.78.0.5"))


def test_our_own_namespace_is_never_a_pods(folder: Folder) -> None:
    (folder.path / "host").symlink_to("/proc/self/ns/net")
    everywhere = PodNetns(folder.path, read=lambda _: addresses(pod("10.78.0.5")))
    assert "none of 0 network namespaces" in refusal(everywhere, pod("10.78.0.5"))


def test_an_address_that_a_later_sandbox_was_given_is_not_the_old_pods(folder: Folder) -> None:
    """As after a restart of the node, when statuses in the API are of the time before."""
    folder.network("10.78.0.5/24")
    old = pod("10.78.0.5", state={"running": {"startedAt": at(time.time() - 60)}})
    assert "may be of an earlier sandbox" in refusal(PodNetns(folder.path), old)
    current = pod("10.78.0.5", state={"running": {"startedAt": at(time.time())}})
    found(PodNetns(folder.path), current)


def test_entries_that_are_no_namespaces_are_told(folder: Folder) -> None:
    (folder.path / "cni-1").touch()
    os.mkfifo(folder.path / "fifo")
    (folder.path / "gone").symlink_to("/run/netns/not-there")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder.path / "socket"))
        said = refusal(PodNetns(folder.path), pod("10.78.0.5"))
    assert "4 entries there are no namespaces that can be entered" in said
    assert "mountPropagation HostToContainer" in said


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    said = refusal(PodNetns(tmp_path / "none"), pod("10.78.0.5"))
    assert "cannot look through" in said


def test_no_descriptor_is_left_open(folder: Folder) -> None:
    folder.network("10.78.0.5/24")
    (folder.path / "cni-1").touch()
    netns = PodNetns(folder.path)
    before = open_descriptors()
    for of in (pod("10.78.0.5"), pod("10.78.0.7"), pod("10.78.0.5", "fd78::5")):
        with contextlib.suppress(NetnsNotFoundError):
            found(netns, of)
    assert open_descriptors() == before


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
