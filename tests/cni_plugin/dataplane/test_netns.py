"""Entering a network namespace: in, and always back; a socket made inside stays inside."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugin.dataplane import netns as netns_module
from cni_plugin.dataplane.errors import NetnsError
from cni_plugin.dataplane.netns import OWN_NETNS, entered, netfilter_socket, open_netns
from meshgraft.lab.netns import Netns

pytestmark = pytest.mark.root
SIOCGSKNS = 0x894C
"""The namespace of a socket, as a descriptor (linux/sockios.h)."""


def current() -> str:
    return str(Path(OWN_NETNS).readlink())


def test_the_body_runs_inside_and_the_thread_is_back_afterwards(netns: Netns) -> None:
    before = current()
    with entered(netns.fd):
        inside = current()
    assert inside == f"net:[{netns.path.stat().st_ino}]"
    assert current() == before


def test_an_error_in_the_body_comes_through_and_the_thread_is_back(netns: Netns) -> None:
    before = current()
    with pytest.raises(ZeroDivisionError), entered(netns.fd):
        raise ZeroDivisionError
    assert current() == before


def test_only_the_calling_thread_is_inside(netns: Netns) -> None:
    seen: list[str] = []
    before = current()
    with entered(netns.fd):
        inside = current()
        assert inside != before
    started, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with entered(netns.fd):
            started.set()
            leave.wait(10)
            seen.append(current())

    thread = threading.Thread(target=stay)
    thread.start()
    assert started.wait(10)
    assert current() == before
    leave.set()
    thread.join(10)
    assert seen == [inside]


def test_entering_may_be_nested(make_netns: Callable[[], Netns]) -> None:
    one, two = make_netns(), make_netns()
    before = current()
    with entered(one.fd):
        in_one = current()
        with entered(two.fd):
            assert current() not in (before, in_one)
        assert current() == in_one
    assert current() == before


def test_the_own_namespace_is_entered_without_any_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(fd: int, nstype: int = 0) -> None:
        raise AssertionError("an init container may not call setns")

    monkeypatch.setattr(netns_module, "_setns", refused)
    fd = open_netns(OWN_NETNS)
    try:
        with entered(fd):
            inside = current()
    finally:
        os.close(fd)
    assert inside == current()


def test_a_netfilter_socket_belongs_to_the_namespace_for_good(netns: Netns) -> None:
    with netfilter_socket(netns.fd) as sock:
        theirs = fcntl.ioctl(sock, SIOCGSKNS)
        try:
            assert os.fstat(theirs).st_ino == netns.path.stat().st_ino
        finally:
            os.close(theirs)


def test_a_descriptor_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    before = current()
    with (
        path.open() as file,
        pytest.raises(NetnsError, match="is not a network namespace"),
        entered(file.fileno()),
    ):
        pass
    assert current() == before


@pytest.mark.parametrize("kind", ["mnt", "user", "pid", "uts"])
def test_a_namespace_of_another_kind_is_refused(kind: str) -> None:
    with (
        Path(f"/proc/self/ns/{kind}").open() as file,
        pytest.raises(NetnsError, match="is not a network namespace"),
        entered(file.fileno()),
    ):
        pass


def test_a_process_is_not_taken_for_its_network_namespace() -> None:
    """setns takes a pidfd too, and that of a process of the node leads to the node's network."""
    fd, before = os.pidfd_open(os.getppid()), current()
    try:
        with pytest.raises(NetnsError, match="is not a network namespace"), entered(fd):
            pass
    finally:
        os.close(fd)
    assert current() == before


def test_a_closed_descriptor_is_refused(netns: Netns) -> None:
    fd = os.dup(netns.fd)
    os.close(fd)
    with pytest.raises(NetnsError, match="is not open"), entered(fd):
        pass


def test_a_path_that_is_gone_is_refused_with_a_hint() -> None:
    with pytest.raises(NetnsError, match="nothing left to do"):
        open_netns("/run/netns/no-such-pod")


_STUCK = """
import os, sys
from cni_plugin.dataplane import netns
real = netns._setns
calls = []
def once(fd, nstype=0):
    calls.append(fd)
    if len(calls) > 1:
        raise OSError(1, "Operation not permitted")
    real(fd, nstype)
netns._setns = once
try:
    with netns.entered(int(sys.argv[1])):
        pass
except BaseException:
    pass
print("still alive")
"""


def test_a_thread_that_cannot_come_back_takes_the_process_with_it(netns: Netns) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STUCK, str(netns.fd)],
        pass_fds=[netns.fd],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 71
    assert "cannot leave a pod's network namespace" in done.stderr
    assert "still alive" not in done.stdout
