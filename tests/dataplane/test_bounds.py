"""What a client of the pod network may make a real Envoy hold in memory."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.dataplane.nft import NftBackend
from meshgraft.lab.envoy import Envoy, container_of, running_envoy
from meshgraft.lab.netns import Netns
from tests.dataplane.conftest import patched_pod
from vocabulary.annotations.redirect import ANNOTATION, parse_redirect

pytestmark = pytest.mark.root

LIMIT_MIB = 250
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS = 1, 4
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541: a new entry of the dynamic table, lengths without Huffman."""
    return b"\x40" + bytes([len(name)]) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    if number < 127:
        return bytes([number])
    data, rest = b"\x7f", number - 127
    while rest >= 128:
        data, rest = data + bytes([rest % 128 + 128]), rest // 128
    return data + bytes([rest])


REQUEST = b"\x83\x86\x84\x01\x01x"
"""POST, http, /, and an authority that goes into no table."""


def bomb(streams: int, references: int) -> bytes:
    """Requests that never end, each of one byte for every 4,000 bytes of headers it unpacks to."""
    data = PREFACE + frame(SETTINGS, 0, 0)
    first = REQUEST + literal(b"a", b"v" * 3900)
    data += frame(HEADERS, END_HEADERS, 1, first)
    for number in range(1, streams):
        # 62 is the newest entry of the dynamic table.
        payload = REQUEST + b"\xbe" * references
        data += frame(HEADERS, END_HEADERS, 2 * number + 1, payload)
    return data


def resident_mib(envoy: Envoy) -> float:
    text = Path(f"/proc/{envoy.process.pid}/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.fixture
def netns() -> Iterator[Netns]:
    netns = Netns(f"bounds-{os.getpid()}")
    yield netns
    netns.close()


@pytest.fixture
def envoy(netns: Netns, tmp_path: Path) -> Iterator[Envoy]:
    pod = patched_pod({"config.linkerd.io/proxy-memory-limit": f"{LIMIT_MIB}Mi"})
    assert container_of(pod)["resources"]["limits"]["memory"] == f"{LIMIT_MIB}Mi"
    # The pod's peer takes packets and never answers, so that requests stay where they are.
    netns.run("ip", "link", "set", "lo", "up")
    netns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    netns.run("ip", "link", "set", "eth1", "up")
    netns.run("ip", "addr", "add", "10.99.0.1/24", "dev", "eth0")
    netns.run("ip", "link", "set", "eth0", "up")
    netns.run("ip", "neigh", "add", "10.99.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    NftBackend().apply(netns.fd, parse_redirect(pod["metadata"]["annotations"][ANNOTATION]))
    with running_envoy(pod, netns, tmp_path / "envoy.log") as envoy:
        yield envoy


def throw(netns: Netns, data: bytes) -> None:
    connection = netns.connect("10.99.0.2", 8080)
    with contextlib.closing(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):  # hung up on
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass


def assert_it_stands(envoy: Envoy, netns: Netns, data: bytes) -> None:
    """Ten clients send that at once; Envoy stays within its limit and is ready afterwards."""
    threads = [threading.Thread(target=throw, args=(netns, data)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert resident_mib(envoy) < LIMIT_MIB
    assert envoy.get(4191, "/ready")[0] == 200


@pytest.mark.parametrize("references", [25, 220], ids=["allowed headers", "longer headers"])
def test_headers_that_unpack_to_thousands_of_times_their_size(
    envoy: Envoy, netns: Netns, references: int
) -> None:
    """1.1 GiB, when a request could have 1 MiB of headers, and a connection any number of them."""
    assert_it_stands(envoy, netns, bomb(3000, references))


def test_bodies_that_nobody_reads(envoy: Envoy, netns: Netns) -> None:
    data = PREFACE + frame(SETTINGS, 0, 0)
    for stream in range(1, 200, 2):
        data += frame(HEADERS, END_HEADERS, stream, REQUEST)
        data += frame(0, 0, stream, b"x" * 16_000) * 20
    assert_it_stands(envoy, netns, data)
