"""The message classes of pyroute2 that rules are made of, without the rest of pyroute2.

pyroute2's own ``__init__`` imports every API it has, a network database and its own resolver
among them: 80 to 100 ms, in which a pod waits for proxy-init. The message classes need none of it.
"""

from __future__ import annotations

import importlib.util
import sys


def _without_the_rest() -> None:
    """Make ``pyroute2`` a package whose modules can be imported, without running its ``__init__``.

    Where all of it was imported before, it stays; where it is not installed, the import below
    says so.
    """
    spec = None if "pyroute2" in sys.modules else importlib.util.find_spec("pyroute2")
    if spec is not None:
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)


_without_the_rest()

# ruff: noqa: E402 - what is imported here must come after
from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    Regs,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)

__all__ = [
    "NFNL_SUBSYS_NFTABLES",
    "NFPROTO_INET",
    "NFPROTO_IPV4",
    "NFPROTO_IPV6",
    "NFT_MSG_DELTABLE",
    "NFT_MSG_NEWCHAIN",
    "NFT_MSG_NEWRULE",
    "NFT_MSG_NEWTABLE",
    "NLM_F_ACK",
    "NLM_F_APPEND",
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "NLM_F_REQUEST",
    "Cmp",
    "Meta",
    "Regs",
    "nfgen_msg",
    "nft_chain_msg",
    "nft_rule_msg",
    "nft_table_msg",
]
