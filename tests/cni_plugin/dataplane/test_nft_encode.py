"""The nftables transaction as bytes: numbered, described, and read back to what was meant."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from cni_plugin.dataplane import nft_encode
from cni_plugin.dataplane.legacy_encode import wanted
from cni_plugin.dataplane.nft_decode import (
    TableState,
    attributes,
    difference,
    messages,
    reply,
    table_state,
)
from cni_plugin.dataplane.nft_encode import TABLE, plan, single_ports
from cni_plugin.dataplane.rules import CHAINS, rules
from tests.cni_plugin.redirects import REDIRECTS, any_redirect, ports
from vocabulary.annotations.redirect import Redirect

BEGIN, END = 0x10, 0x11
NLM_F_ACK, NLM_F_EXCL = 0x4, 0x200
NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE = 0xA00, 0xA02, 0xA03, 0xA06


def types(data: bytes) -> list[int]:
    return [message.type for message in messages(data)]


def test_a_fresh_namespace_takes_one_batch_that_refuses_an_existing_table() -> None:
    sent = list(messages(plan(REDIRECTS["minimal"]).create.data))
    assert [m.type for m in sent] == [BEGIN, NEWTABLE, NEWCHAIN, NEWCHAIN, *[NEWRULE] * 3, END]
    assert sent[1].flags & NLM_F_EXCL


def test_a_replacement_deletes_the_table_first_in_the_same_batch() -> None:
    made = plan(REDIRECTS["minimal"])
    assert types(made.replace.data) == [BEGIN, DELTABLE, *types(made.create.data)[1:]]


@pytest.mark.parametrize("name", REDIRECTS)
def test_messages_are_numbered_described_and_only_the_last_asks_for_an_answer(name: str) -> None:
    for batch in (plan(REDIRECTS[name]).create, plan(REDIRECTS[name]).replace):
        inner = list(messages(batch.data))[1:-1]
        assert [m.sequence for m in inner] == list(range(1, batch.last + 1))
        assert [bool(m.flags & NLM_F_ACK) for m in inner] == [False] * (len(inner) - 1) + [True]
        assert all(batch.objects)


def test_the_probe_is_never_committed_and_sets_no_hook() -> None:
    probe = nft_encode.probe()
    assert END not in types(probe.data)
    state = table_state(f"{TABLE}-probe", messages(probe.data))
    assert state is not None
    assert state.flags == struct.pack("!I", 1)


@settings(max_examples=40, deadline=None)
@given(any_redirect)
def test_every_rule_is_in_the_transaction_in_order_with_its_comment(redirect: Redirect) -> None:
    state = nft_encode._plan(redirect).state
    for chain in CHAINS:
        expected = [
            single.comment
            for rule in rules(redirect)
            if rule.chain == chain
            for single in single_ports(rule)
        ]
        assert [rule.comment for rule in state.rules[chain]] == expected


@settings(max_examples=40, deadline=None)
@given(any_redirect, any_redirect)
def test_states_are_equal_where_the_rules_are(one: Redirect, other: Redirect) -> None:
    def seen(redirect: Redirect) -> list[object]:
        return [single for rule in rules(redirect) for single in single_ports(rule)]

    same = seen(one) == seen(other)
    text = difference(nft_encode._plan(one).state, nft_encode._plan(other).state, TABLE)
    assert (text is None) == same


def test_recent_transactions_are_cached_and_of_long_ones_a_few() -> None:
    redirect = REDIRECTS["linkerd-default"]
    assert plan(redirect) is plan(redirect)

    def long(number: int) -> Redirect:
        skipped = ports(*range(number, 2000 + number, 2))
        return Redirect(inbound_port=1, outbound_port=2, skip_inbound_ports=skipped)

    first = plan(long(0))
    assert plan(long(0)) is first
    for number in range(1, 20):
        plan(long(number))
    assert plan(long(0)) is not first
    assert plan(long(0)) == first


def _state(name: str = "everything") -> TableState:
    made = table_state(TABLE, messages(plan(REDIRECTS[name]).create.data))
    assert made is not None
    return made


def _without_rule(state: TableState) -> None:
    state.rules["PROXY_INIT_OUTPUT"].pop()


def _more_rules(state: TableState) -> None:
    state.rules["PROXY_INIT_OUTPUT"] *= 2


def _changed_rule(state: TableState) -> None:
    first, second, *rest = state.rules["PROXY_INIT_REDIRECT"]
    state.rules["PROXY_INIT_REDIRECT"] = [
        first._replace(expressions=second.expressions),
        second,
        *rest,
    ]


def _policy(state: TableState) -> None:
    chain = state.chains["PROXY_INIT_OUTPUT"]
    state.chains["PROXY_INIT_OUTPUT"] = chain._replace(policy=bytes(4))


def _dormant(state: TableState) -> None:
    state.flags = b"\0\0\0\1"


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_without_rule, "lacks rule 8, 'proxy-init/redirect-all-outgoing-to-proxy-port'"),
        (_more_rules, "has 8 more rules"),
        (_changed_rule, "changed rule 1, 'proxy-init/ignore-port-4190'"),
        (_policy, "PROXY_INIT_OUTPUT has another type, hook, priority or policy"),
        (_dormant, "flags 00000001"),
        (lambda state: state.chains.update(extra=state.chains["PROXY_INIT_OUTPUT"]), "extra"),
        (lambda state: state.chains.pop("PROXY_INIT_REDIRECT"), "REDIRECT is missing"),
    ],
)
def test_a_difference_is_said_in_words(tamper: object, says: str) -> None:
    found = _state()
    assert callable(tamper)
    tamper(found)
    text = difference(_state(), found, TABLE)
    assert text is not None
    assert says in text


def test_what_the_kernel_fills_in_is_no_difference_but_a_flag_that_matters_is() -> None:
    def rule_with_redir(*attrs: tuple[int, int]) -> TableState:
        def nla(kind: int, payload: bytes) -> bytes:
            padded = payload.ljust((len(payload) + 3) & ~3, b"\0")
            return struct.pack("=HH", 4 + len(payload), kind) + padded

        fields = b"".join(nla(kind, struct.pack("!I", value)) for kind, value in attrs)
        expression = nla(1, nla(1, b"redir\0") + nla(2, fields))
        body = nla(1, b"meshgraft\0") + nla(2, b"c\0") + nla(4, expression)
        rule = struct.pack("=BBH", 1, 0, 0) + body
        table = struct.pack("=BBH", 1, 0, 0) + nla(1, b"meshgraft\0")
        data = b"".join(
            struct.pack("=IHHII", 16 + len(part), kind, 0, 0, 0) + part
            for kind, part in ((NEWTABLE, table), (NEWRULE, rule))
        )
        state = table_state(TABLE, messages(data))
        assert state is not None
        return state

    ours = rule_with_redir((1, 1))
    assert rule_with_redir((1, 1), (2, 1), (3, 2)) == ours  # upper port, PROTO_SPECIFIED
    assert rule_with_redir((1, 1), (3, 4)) != ours  # PROTO_RANDOM
    assert rule_with_redir((1, 2)) != ours


@pytest.mark.parametrize("make", [lambda redirect: wanted(redirect, "ipv4")])
def test_what_is_kept_of_a_redirect_is_bounded(make: Callable[[Redirect], object]) -> None:
    """Pods that share a Redirect share the work; a long one is no pod's to fill our memory with."""

    def redirect(count: int) -> Redirect:
        return Redirect(inbound_port=1, outbound_port=2, skip_inbound_ports=ports(*range(count)))

    assert make(redirect(64)) is make(redirect(64))
    assert make(redirect(65)) == make(redirect(65))
    assert make(redirect(65)) is not make(redirect(65))


def test_an_error_carries_the_kernel_s_own_words() -> None:
    original = struct.pack("=IHHII", 16, NEWRULE, 0, 7, 0)
    words = b"Chain is bad\0"
    attr = struct.pack("=HH", 4 + len(words), 1) + words.ljust(16, b"\0")
    body = struct.pack("=i", -2) + original + attr
    data = struct.pack("=IHHII", 16 + len(body), 2, 0x300, 7, 0) + body
    (message,) = messages(data)
    assert reply(message) == (7, 2, "Chain is bad")


@pytest.mark.parametrize("data", [b"\x04\0\0\0" * 4, b"\xff\0\0\0" * 4])
def test_impossible_lengths_are_refused_rather_than_looped_over(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink message"):
        list(messages(data))
    with pytest.raises(ValueError, match="netlink attribute"):
        list(attributes(b"\x01\0\0\0"))
