"""A `Redirect` as the bytes of one nftables transaction, made with pyroute2's message classes.

Pure. The table is of family ``inet`` and ours alone, so replacing it touches nothing else. Of the
few ports and subnets that pods usually have each is a rule of its own: that needs no set type of
the kernel, reads well in ``nft list ruleset`` and compares rule by rule. Where there are more, each
list is a set of intervals with one rule: what a pod's annotation says must not decide for how long
the agent is busy.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import msgspec

from cni_plugin.dataplane.intervals import port_intervals, subnet_intervals
from cni_plugin.dataplane.nft_decode import TableState, messages, table_state
from cni_plugin.dataplane.nft_sets import IntervalSet, set_messages
from cni_plugin.dataplane.pyroute2_parts import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Cmp,
    Meta,
    Regs,
    nfgen_msg,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from cni_plugin.dataplane.rules import (
    CHAINS,
    OUTPUT_CHAIN,
    REDIRECT_CHAIN,
    Chain,
    Family,
    Rule,
    check_size,
    is_worth_keeping,
    port_text,
    probed,
    rules,
)
from vocabulary.annotations.redirect import PortRange, Redirect

TABLE = "meshgraft"
HOOKS = {REDIRECT_CHAIN: 0, OUTPUT_CHAIN: 3}
"""NF_INET_PRE_ROUTING and NF_INET_LOCAL_OUT."""
DSTNAT_PRIORITY = -100
NF_ACCEPT = 1

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_TABLE_F_DORMANT = 1
_FLAGS, _FLAGS_OFFSET = struct.Struct("=H"), 6
_SEQUENCE, _SEQUENCE_OFFSET = struct.Struct("=I"), 8
"""Where a netlink header has them."""
_RETURN = -5
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_IPPROTO_TCP = 6
_IFNAMSIZ = 16
_SOCKET_TRANSPARENT = 0

Attributes = dict[str, Any]
"""Attributes in pyroute2's form: ``{"attrs": [(name, value), ...]}``."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction: its bytes, and what each of its messages is about, for error texts."""

    data: bytes
    objects: tuple[str, ...]
    """By sequence number; number 0 is the transaction as a whole."""

    @property
    def last(self) -> int:
        """The sequence number that the kernel acknowledges when everything is done."""
        return len(self.objects) - 1


@dataclass(frozen=True)
class Plan:
    """What applying a Redirect may take: making our table, or replacing one that is there."""

    create: Batch
    replace: Batch
    sets: tuple[IntervalSet, ...] = ()
    """Those of the table; few pods have any."""

    @cached_property
    def state(self) -> TableState:
        """What the table holds afterwards."""
        state = table_state(TABLE, messages(self.create.data))
        assert state is not None  # noqa: S101  our own transaction makes our own table
        return state


def plan(redirect: Redirect) -> Plan:
    """The transactions for ``redirect``; the most recent ones are cached, within a bound of bytes.

    Raises:
        InvalidRedirectError: a subnet is not a CIDR, or it lists too much.
    """
    if is_worth_keeping(redirect):
        return _cached_plan(redirect)
    return _cached_long_plan(redirect)


def _plan(redirect: Redirect) -> Plan:
    return _as_plan(list(_content(TABLE, rules(redirect))))


_cached_plan = lru_cache(maxsize=128)(_plan)


def _long_plan(redirect: Redirect) -> Plan:
    """With sets in place of long lists. Raises as `plan`."""
    check_size(redirect)
    content = list(_content(TABLE, ()))
    steps = list(_long_steps(redirect))
    sets = tuple(step.matched for step in steps if step.matched is not None)
    for number, each in enumerate(sets, start=1):
        content += set_messages(TABLE, each, number)
    for step in steps:
        text = f"rule {step.rule.comment!r} of chain inet {TABLE} {step.rule.chain}"
        name = "" if step.matched is None else step.matched.name
        content.append((text, _rule(TABLE, step.rule, name)))
    return _as_plan(content, sets)


_cached_long_plan = lru_cache(maxsize=8)(_long_plan)
"""`MAX_ITEMS` IPv6 subnets are 300 KiB of messages, twice, and 1 MiB as a state: 13 MiB in all."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A rule, and the set in which its ports or addresses are."""

    rule: Rule
    matched: IntervalSet | None = None


def _long_steps(redirect: Redirect) -> Iterator[_Step]:
    """The rules in the order of `rules`, each list as one."""
    short = msgspec.structs.replace(
        redirect,
        only_inbound_ports=(),
        probe_ports=(),
        skip_inbound_ports=(),
        skip_outbound_ports=(),
        skip_subnets=(),
        skip_outbound_subnets=(),
    )
    for rule in rules(short):
        if rule.redirect_to is None:
            yield _Step(rule)
        elif rule.chain == REDIRECT_CHAIN:
            yield from _skips(rule, redirect.skip_inbound_ports, redirect.skip_subnets)
            yield from map(_Step, probed(redirect))
            only = port_intervals(redirect.only_inbound_ports)
            if not only:
                yield _Step(rule)
            else:
                listed = dataclasses.replace(
                    rule, comment="proxy-init/redirect-ports-to-proxy-port"
                )
                yield _Step(listed, IntervalSet("redirect-inbound-ports", only))
        else:
            yield from _skips(rule, redirect.skip_outbound_ports, redirect.skip_outbound_subnets)
            yield _Step(rule)


def _skips(rule: Rule, ports: tuple[PortRange, ...], subnets: tuple[str, ...]) -> Iterator[_Step]:
    """What is let through before ``rule`` redirects the rest."""
    way = "inbound" if rule.chain == REDIRECT_CHAIN else "outbound"
    skip = Rule(chain=rule.chain, comment="proxy-init/ignore-ports", tcp=True)
    found = port_intervals(ports)
    if found:
        yield _Step(skip, IntervalSet(f"skip-{way}-ports", found))
    families: tuple[Family, ...] = ("ipv4", "ipv6")
    for family, found in zip(families, subnet_intervals(subnets), strict=True):
        if found and rule.family in (None, family):
            comment = f"proxy-init/ignore-{family}-subnets"
            skip = Rule(chain=rule.chain, comment=comment, family=family)
            yield _Step(skip, IntervalSet(f"skip-{way}-subnets-{family}", found))


def _as_plan(content: list[tuple[str, bytes]], sets: tuple[IntervalSet, ...] = ()) -> Plan:
    return Plan(_batch(content), _batch([_deletion(), *content]), sets)


def removal() -> Batch:
    """The transaction that takes our table away."""
    return _batch([_deletion()])


def _deletion() -> tuple[str, bytes]:
    return f"table inet {TABLE}", _table(NFT_MSG_DELTABLE, TABLE)


def probe() -> Batch:
    """A transaction with one object of every kind that we use, never to be committed.

    It lacks the end of the batch, upon which the kernel checks everything and takes it back; the
    table is dormant, so that no hook is set even for a moment.
    """
    every_match = Rule(
        chain=OUTPUT_CHAIN,
        comment="probe",
        redirect_to=1,
        family="ipv4",
        tcp=True,
        port=PortRange(1, 2),
        destination="192.0.2.0/25",
        uid=1,
        gid=1,
        out_interface="lo",
    )
    return _batch(_content(f"{TABLE}-probe", [every_match], _TABLE_F_DORMANT), committed=False)


def single_ports(rule: Rule) -> Iterator[Rule]:
    """A rule for a group of ports as one rule for each port or range of it."""
    if not rule.ports:
        yield rule
    for port in rule.ports:
        comment = f"proxy-init/ignore-port-{port_text(port)}"
        yield dataclasses.replace(rule, ports=(), port=port, comment=comment)


def expressions(rule: Rule, set_name: str = "") -> list[Attributes]:
    """What the rule matches and does, as nftables expressions; with ``set_name``, also that its
    destination port, or for rules without a protocol the address, is in that set."""
    return [*_matches(rule), *_is_in(rule, set_name), *_target(rule)]


def _content(
    table: str, content: Iterable[Rule], table_flags: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Each object of the table, described, with the message that makes it."""
    yield f"table inet {table}", _table(NFT_MSG_NEWTABLE, table, table_flags)
    for chain in CHAINS:
        yield f"chain inet {table} {chain}", _chain(table, chain)
    for rule in content:
        for single in single_ports(rule):
            text = f"rule {single.comment!r} of chain inet {table} {single.chain}"
            yield text, _rule(table, single)


def _batch(content: Iterable[tuple[str, bytes]], *, committed: bool = True) -> Batch:
    """Number the messages, ask for an acknowledgement of the last, and wrap them."""
    objects, data = ["the transaction"], bytearray(_envelope(_BATCH_BEGIN))
    last = 0
    for text, message in content:
        last = len(data)
        data += message
        _SEQUENCE.pack_into(data, last + _SEQUENCE_OFFSET, len(objects))
        objects.append(text)
    (flags,) = _FLAGS.unpack_from(data, last + _FLAGS_OFFSET)
    _FLAGS.pack_into(data, last + _FLAGS_OFFSET, flags | NLM_F_ACK)
    if committed:
        data += _envelope(_BATCH_END)
    return Batch(bytes(data), tuple(objects))


def _envelope(message_type: int) -> bytes:
    message = nfgen_msg()
    message["header"]["type"] = message_type
    message["header"]["flags"] = NLM_F_REQUEST
    message["header"]["sequence_number"] = 0
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message.encode()
    return bytes(message.data)


def _message(cls: type[nfgen_msg], message_type: int, flags: int, *attrs: tuple[str, Any]) -> bytes:
    message = cls()
    message["header"]["type"] = (NFNL_SUBSYS_NFTABLES << 8) | message_type
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["nfgen_family"] = NFPROTO_INET
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data)


def _table(message_type: int, name: str, table_flags: int = 0) -> bytes:
    making = message_type == NFT_MSG_NEWTABLE
    return _message(
        nft_table_msg,
        message_type,
        NLM_F_CREATE | NLM_F_EXCL if making else 0,
        ("NFTA_TABLE_NAME", name),
        *([("NFTA_TABLE_FLAGS", table_flags)] if making else []),
    )


def _chain(table: str, chain: Chain) -> bytes:
    hook = [("NFTA_HOOK_HOOKNUM", HOOKS[chain]), ("NFTA_HOOK_PRIORITY", DSTNAT_PRIORITY)]
    return _message(
        nft_chain_msg,
        NFT_MSG_NEWCHAIN,
        NLM_F_CREATE | NLM_F_EXCL,
        ("NFTA_CHAIN_TABLE", table),
        ("NFTA_CHAIN_NAME", chain),
        ("NFTA_CHAIN_HOOK", {"attrs": hook}),
        ("NFTA_CHAIN_POLICY", NF_ACCEPT),
        ("NFTA_CHAIN_TYPE", "nat"),
    )


@lru_cache(maxsize=512)
def _rule(table: str, rule: Rule, set_name: str = "") -> bytes:
    return _message(
        nft_rule_msg,
        NFT_MSG_NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND,
        ("NFTA_RULE_TABLE", table),
        ("NFTA_RULE_CHAIN", rule.chain),
        ("NFTA_RULE_EXPRESSIONS", expressions(rule, set_name)),
        ("NFTA_RULE_USERDATA", {"value": rule.comment}),
    )


def _matches(rule: Rule) -> Iterator[Attributes]:
    if rule.family is not None:
        protocol = NFPROTO_IPV4 if rule.family == "ipv4" else NFPROTO_IPV6
        yield from _meta_is(Meta.NFT_META_NFPROTO, bytes([protocol]))
    yield from _address_in(rule.source, ipv4_offset=12, ipv6_offset=8)
    yield from _address_in(rule.destination, ipv4_offset=16, ipv6_offset=24)
    if rule.uid is not None:
        yield from _meta_is(Meta.NFT_META_SKUID, struct.pack("=I", rule.uid))
    if rule.gid is not None:
        yield from _meta_is(Meta.NFT_META_SKGID, struct.pack("=I", rule.gid))
    if rule.out_interface:
        name = rule.out_interface.encode().ljust(_IFNAMSIZ, b"\0")
        yield from _meta_is(Meta.NFT_META_OIFNAME, name)
    if rule.tcp:
        yield from _meta_is(Meta.NFT_META_L4PROTO, bytes([_IPPROTO_TCP]))
    if rule.port is not None:
        yield from _destination_port_in(rule.port)
    if rule.listening:
        # It reads whether the socket is transparent; a rule ends where there is no socket to ask.
        yield _expression("socket", ("KEY", _SOCKET_TRANSPARENT), ("DREG", Regs.NFT_REG_1))


def _is_in(rule: Rule, set_name: str) -> Iterator[Attributes]:
    if not set_name:
        return
    if rule.tcp:
        yield _payload(_TRANSPORT_HEADER, offset=2, length=2)
    else:
        ipv4_offset, ipv6_offset = (12, 8) if rule.chain == REDIRECT_CHAIN else (16, 24)
        is_ipv4 = rule.family == "ipv4"
        offset, length = (ipv4_offset, 4) if is_ipv4 else (ipv6_offset, 16)
        yield _payload(_NETWORK_HEADER, offset, length)
    yield _expression("lookup", ("SET", set_name), ("SREG", Regs.NFT_REG_1))


def _target(rule: Rule) -> Iterator[Attributes]:
    if rule.redirect_to is None:
        verdict = {"attrs": [("NFTA_VERDICT_CODE", _RETURN)]}
        yield _expression(
            "immediate",
            ("DREG", Regs.NFT_REG_VERDICT),
            ("DATA", {"attrs": [("NFTA_DATA_VERDICT", verdict)]}),
        )
    else:
        port = _data(struct.pack("!H", rule.redirect_to))
        yield _expression("immediate", ("DREG", Regs.NFT_REG_1), ("DATA", port))
        yield _expression("redir", ("REG_PROTO_MIN", Regs.NFT_REG_1))


def _meta_is(key: Meta, value: bytes) -> Iterator[Attributes]:
    yield _expression("meta", ("DREG", Regs.NFT_REG_1), ("KEY", key))
    yield _compare(Cmp.NFT_CMP_EQ, value)


def _address_in(cidr: str, *, ipv4_offset: int, ipv6_offset: int) -> Iterator[Attributes]:
    if not cidr:
        return
    network = ipaddress.ip_network(cidr)
    if network.prefixlen == 0:
        return
    offset = ipv4_offset if network.version == 4 else ipv6_offset
    length = len(network.network_address.packed)
    yield _payload(_NETWORK_HEADER, offset, length)
    if network.prefixlen < network.max_prefixlen:
        yield _expression(
            "bitwise",
            ("SREG", Regs.NFT_REG_1),
            ("DREG", Regs.NFT_REG_1),
            ("LEN", length),
            ("MASK", _data(network.netmask.packed)),
            ("XOR", _data(bytes(length))),
        )
    yield _compare(Cmp.NFT_CMP_EQ, network.network_address.packed)


def _destination_port_in(port: PortRange) -> Iterator[Attributes]:
    yield _payload(_TRANSPORT_HEADER, offset=2, length=2)
    if port.lower == port.upper:
        yield _compare(Cmp.NFT_CMP_EQ, struct.pack("!H", port.lower))
    else:
        yield _compare(Cmp.NFT_CMP_GTE, struct.pack("!H", port.lower))
        yield _compare(Cmp.NFT_CMP_LTE, struct.pack("!H", port.upper))


def _payload(base: int, offset: int, length: int) -> Attributes:
    return _expression(
        "payload", ("DREG", Regs.NFT_REG_1), ("BASE", base), ("OFFSET", offset), ("LEN", length)
    )


def _compare(operator: Cmp, value: bytes) -> Attributes:
    return _expression("cmp", ("SREG", Regs.NFT_REG_1), ("OP", operator), ("DATA", _data(value)))


def _data(value: bytes) -> Attributes:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _expression(name: str, *attrs: tuple[str, Any]) -> Attributes:
    prefixed = [(f"NFTA_{name.upper()}_{key}", value) for key, value in attrs]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": prefixed})]}
