"""Tells whose NAT rules are in a pod's network namespace: ours, somebody else's, or nobody's.

Others are those of Linkerd's own plugin, or ours by the other backend before the agent's was
changed. A pod that runs with them is meshed, and must not get a second set.
"""

from __future__ import annotations

import os
import struct
from contextlib import closing
from enum import Enum
from pathlib import Path

from cni_plugin.dataplane.errors import NetnsError
from cni_plugin.dataplane.netns import entered, netfilter_socket
from cni_plugin.dataplane.nft_decode import NLMSG_DONE, NLMSG_ERROR, attributes, messages, reply
from cni_plugin.dataplane.nft_encode import TABLE

_GETCHAIN, _NEWCHAIN = 0xA04, 0xA03
_REQUEST_DUMP = 0x301
_TABLE, _TYPE = 1, 7
_NFGEN_LENGTH = 4
_LEGACY = ("ip_tables_names", "ip6_tables_names")
_TIMEOUT = 5.0


class Owner(Enum):
    """Whose rules there are; ours count first."""

    OURS = "ours"
    OTHERS = "others"
    NOBODY = "nobody"


def nat_owner(netns_fd: int, backend: str) -> Owner:
    """Whose NAT chains there are; ours are where this backend (its name) keeps its own.

    Raises:
        NetnsError: the namespace cannot be entered, or the kernel does not tell.
    """
    nft, legacy = _nft_nat_tables(netns_fd), _has_legacy_nat(netns_fd)
    if legacy if backend == "legacy" else TABLE in nft:
        return Owner.OURS
    return Owner.OTHERS if nft or legacy else Owner.NOBODY


def _nft_nat_tables(netns_fd: int) -> frozenset[str]:
    """Names of the tables, of any family, with a chain of type nat."""
    with closing(netfilter_socket(netns_fd)) as sock:
        sock.settimeout(_TIMEOUT)
        body = bytes(_NFGEN_LENGTH)
        try:
            sock.send(struct.pack("=IHHII", 20, _GETCHAIN, _REQUEST_DUMP, 1, 0) + body)
            found: set[str] = set()
            while True:
                for message in messages(sock.recv(1 << 16)):
                    if message.type == NLMSG_DONE:
                        return frozenset(found)
                    if message.type == NLMSG_ERROR and (number := reply(message).errno):
                        raise OSError(number, os.strerror(number))
                    if message.type == _NEWCHAIN:
                        parts = dict(attributes(message.body[_NFGEN_LENGTH:]))
                        if parts.get(_TYPE) == b"nat\0":
                            found.add(parts[_TABLE].rstrip(b"\0").decode())
        except (OSError, ValueError) as error:
            raise NetnsError(f"cannot read which NAT chains there are: {error}") from error


def _has_legacy_nat(netns_fd: int) -> bool:
    """Whether the namespace has a legacy nat table, of either family."""
    with entered(netns_fd):
        return any("nat" in _names(Path("/proc/thread-self/net") / name) for name in _LEGACY)


def _names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []  # the kernel has no legacy iptables
    except OSError as error:
        raise NetnsError(f"cannot read {path.name}: {error.strerror}") from error
