"""Configurations as values: where our entry goes, what is left alone, what is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.install import conflist
from cni_plugin.install.conflist import ConflistError
from cni_plugin.spec import ANNOTATIONS_CAPABILITY

ENTRY = {"type": "linkerd-cni", "log_level": "info"}
BRIDGE = {"type": "bridge", "bridge": "cni0"}
LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [BRIDGE]}

_floats = st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_plugins = st.builds(
    lambda extra, kind: {**extra, "type": kind},
    st.dictionaries(st.text(min_size=1), st.integers() | st.text(), max_size=3),
    st.sampled_from(["bridge", "portmap", "linkerd-cni", "cilium-cni"]),
)
_lists = st.builds(
    lambda extra, plugins: {**extra, "name": "net", "plugins": plugins},
    st.dictionaries(st.text(min_size=1), st.integers() | st.text(), max_size=3),
    st.lists(_plugins, max_size=5),
)


@given(_lists)
@settings(max_examples=100)
def test_merging_puts_our_entry_last_and_once_and_keeps_all_else(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    merged = conflist.merge(config, ENTRY)
    assert config == before
    assert merged["plugins"][-1] == ENTRY
    assert conflist.entries(merged) == [ENTRY]
    assert conflist.merge(merged, ENTRY) == merged
    assert conflist.strip(merged) == conflist.strip(config)
    assert list(merged) == list(config)
    kept = [plugin for plugin in config["plugins"] if plugin["type"] != "linkerd-cni"]
    assert merged["plugins"][:-1] == kept


@given(st.dictionaries(st.text(), _json, max_size=4))
@settings(max_examples=100)
def test_what_is_written_reads_as_the_same_with_its_keys_in_order(config: dict[str, Any]) -> None:
    read = conflist.parse(conflist.render(config))
    assert json.dumps(read) == json.dumps(config)


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_any_bytes_are_an_object_or_a_plain_refusal(raw: bytes) -> None:
    try:
        read = conflist.parse(raw)
    except ConflistError:
        return
    assert isinstance(json.loads(raw), dict)
    assert read == json.loads(raw)


def test_half_a_surrogate_pair_survives() -> None:
    config = conflist.parse(b'{"name": "\\ud800"}')
    assert conflist.parse(conflist.render(config)) == config


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"name": "x", "plu', "half"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e999}', "out of range"),
        (b"\xff{}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "half"),
    ],
)
def test_what_no_runtime_reads_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(ConflistError, match=complaint):
        conflist.parse(raw)


@pytest.mark.parametrize(
    ("filename", "config", "complaint"),
    [
        ("a.conflist", LIST, None),
        ("a.conf", {"name": "x", "type": "bridge"}, None),
        ("a.json", {"type": "bridge"}, None),
        ("a.conf", LIST, "a list must be in a .conflist"),
        ("a.conflist", {"name": "x", "type": "bridge"}, "no list of plugins"),
        ("a.conflist", {**LIST, "plugins": []}, "no list of plugins"),
        ("a.conflist", {**LIST, "plugins": {}}, "no list of plugins"),
        ("a.conflist", {**LIST, "plugins": [BRIDGE, "x"]}, r"plugins\[1\]"),
        ("a.conflist", {**LIST, "plugins": [{"type": 1}]}, r"plugins\[0\]"),
        ("a.conflist", {"plugins": [BRIDGE]}, "no name"),
        ("a.conflist", {**LIST, "name": 1}, "name is not a string"),
        ("a.conflist", {**LIST, "cniVersion": 1.0}, "cniVersion is not a string"),
        ("a.conflist", {**LIST, "plugins": [ENTRY]}, "nothing but linkerd-cni"),
        ("a.conf", ENTRY, "nothing but linkerd-cni"),
        # As Go's encoding/json fills a struct, and libcni reads the rest.
        ("a.conf", {"Type": "bridge"}, None),
        ("a.conflist", {**LIST, "plugins": [{"TYPE": "bridge"}]}, None),
        ("a.conflist", {**LIST, "plugins": [{"type": "bridge", "Type": 1}]}, "type is not"),
        ("a.conflist", {**LIST, "plugins": [{"type": None, "Type": "bridge"}]}, None),
        ("a.conflist", {"Name": "x", "plugins": [BRIDGE]}, "no name"),
        ("a.conflist", {**LIST, "name": ""}, "name is empty"),
        ("a.conflist", {**LIST, "disableCheck": "TRUE", "disableGC": False}, None),
        ("a.conflist", {**LIST, "disableCheck": 1}, "disableCheck"),
        ("a.conflist", {**LIST, "disableGC": None}, "disableGC"),
        ("a.conflist", {**LIST, "loadOnlyInlinedPlugins": "yes"}, "loadOnlyInlinedPlugins"),
        ("a.conflist", {**LIST, "cniVersions": ["1.0.0", "9.9.9"]}, None),
        ("a.conflist", {**LIST, "cniVersions": "1.0.0"}, "cniVersions"),
        ("a.conflist", {**LIST, "cniVersions": ["one"]}, "cniVersions"),
        ("a.conflist", {"name": "x", "loadOnlyInlinedPlugins": True}, "no list of plugins"),
        ("a.conf", {"type": "bridge", "ipam": {}}, None),
        ("a.conf", {"type": "bridge", "ipam": None, "dns": None, "capabilities": None}, None),
        ("a.conf", {"type": "bridge", "ipam": "host-local"}, "ipam"),
        ("a.conf", {"type": "bridge", "ipam": {"type": 1}}, "ipam"),
        ("a.conf", {"type": "bridge", "IPAM": {"Type": 1}}, "ipam"),
        ("a.conf", {"type": "bridge", "dns": {"nameservers": "1.1.1.1"}}, "dns"),
        ("a.conf", {"type": "bridge", "dns": {"search": ["a", None]}}, None),
        ("a.conf", {"type": "bridge", "dns": {"options": [1]}}, "dns"),
        ("a.conf", {"type": "bridge", "capabilities": {"portMappings": True}}, None),
        ("a.conf", {"type": "bridge", "capabilities": {"portMappings": "true"}}, "capabilities"),
        ("a.conf", {"type": "bridge", "prevResult": []}, "prevResult"),
        ("a.conf", {"type": "bridge", "name": 1}, "name is not a string"),
    ],
)
def test_a_configuration_is_what_libcni_takes_for_one(
    filename: str, config: dict[str, Any], complaint: str | None
) -> None:
    assert conflist.is_valid(filename, config) == (complaint is None)
    if complaint:
        with pytest.raises(ConflistError, match=complaint):
            conflist.check(filename, config)


@pytest.mark.parametrize(
    ("files", "active"),
    [
        ({}, None),
        ({"10-b.conflist": LIST, "05-a.conflist": LIST}, "05-a.conflist"),
        ({"10-b.conflist": LIST, "05-a.conflist": {}}, "10-b.conflist"),
        ({"10-a.conflist": LIST, "10-a.conf": BRIDGE}, "10-a.conf"),
        ({"99-a.conflist": LIST, "9-a.conflist": LIST}, "9-a.conflist"),
        ({"a.conflist": LIST, "B.conflist": LIST}, "B.conflist"),
        ({"a.conflist": {**LIST, "plugins": [ENTRY]}}, None),
    ],
)
def test_the_active_one_is_the_lowest_valid_name(
    files: dict[str, dict[str, Any]], active: str | None
) -> None:
    assert conflist.choose_active(files) == active


@pytest.mark.parametrize(
    ("conf", "name", "version"),
    [
        ({"type": "bridge"}, "k8s-pod-network", "0.3.1"),
        ({"name": "mine", "type": "bridge", "cniVersion": "0.3.0"}, "mine", "0.3.1"),
        ({"name": "mine", "cniVersion": "1.0.0", "type": "bridge", "x": {"b": 1}}, "mine", "1.0.0"),
        ({"type": "bridge", "cniVersion": "9.9.9"}, "k8s-pod-network", "0.3.1"),
    ],
)
def test_a_single_configuration_becomes_a_list_as_linkerd_makes_it(
    conf: dict[str, Any], name: str, version: str
) -> None:
    made = conflist.convert(conf, ENTRY)
    plugin = {key: value for key, value in conf.items() if key != "cniVersion"}
    assert made == {"name": name, "cniVersion": version, "plugins": [plugin, ENTRY]}
    assert conflist.is_valid("a.conflist", made)
    assert conflist.is_conversion(made, conf)
    assert not conflist.is_conversion({**made, "plugins": [*made["plugins"], BRIDGE]}, conf)


@pytest.mark.parametrize(
    ("filename", "config", "obstacle"),
    [
        ("a.conflist", LIST, None),
        ("a.conflist", {**LIST, "loadOnlyInlinedPlugins": False}, None),
        ("a.conflist", {**LIST, "loadOnlyInlinedPlugins": True}, "loadOnlyInlinedPlugins"),
        ("a.conflist", {**LIST, "loadOnlyInlinedPlugins": "True"}, "loadOnlyInlinedPlugins"),
        ("a.conflist", {**LIST, "name": "../x"}, "name"),
        ("a.conf", BRIDGE, ".conflist only"),
    ],
)
def test_drop_ins_go_where_libcni_loads_them(
    filename: str, config: dict[str, Any], obstacle: str | None
) -> None:
    found = conflist.drop_in_obstacle(filename, config)
    assert found is None if obstacle is None else obstacle in (found or "")


def test_an_entry_in_linkerds_form_is_taken_and_asks_for_annotations() -> None:
    text = json.dumps({"type": "linkerd-cni", "linkerd": {"proxy-uid": 7}, "log_level": "info"})
    entry = conflist.parse_entry(text, "debug")
    assert entry["linkerd"] == {"proxy-uid": 7}
    assert entry["log_level"] == "debug"
    assert entry["capabilities"] == {ANNOTATIONS_CAPABILITY: True}


@pytest.mark.parametrize("text", ["", "[]", '{"type": "bridge"}'])
def test_another_plugins_entry_is_refused(text: str) -> None:
    with pytest.raises(ConflistError):
        conflist.parse_entry(text)


def test_bytes_that_are_no_utf8_come_out_as_they_went_in() -> None:
    raw = b'{"name": "net", "plugins": [{"type": "bridge", "x": "\xff\xfe"}]}'
    assert b'"\xff\xfe"' in conflist.render(conflist.parse(raw))


def test_our_entry_is_found_and_taken_out_however_deep() -> None:
    deep = {"a": [{"delegates": [{"plugins": [BRIDGE, {"Type": "linkerd-cni"}]}]}]}
    assert conflist.names_us(deep)
    assert conflist.without_us(deep) == {"a": [{"delegates": [{"plugins": [BRIDGE]}]}]}
    assert not conflist.names_us({"note": "linkerd-cni", "types": ["linkerd-cni"]})
