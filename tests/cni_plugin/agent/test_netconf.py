"""The plugin's entry on stdin, and CNI_ARGS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.netconf import (
    LinkerdConf,
    PodArgs,
    cni_version_of,
    decode_netconf,
    parse_cni_args,
)
from cni_plugin.spec import CniError
from tests.cni_plugin.shim_support import netconf, recorded

LINKERD_ENTRY = {
    "cniVersion": "0.3.1",
    "name": "linkerd-cni",
    "type": "linkerd-cni",
    "log_level": "Info",
    "policy": {"type": "k8s", "k8s_api_root": "https://x", "k8s_auth_token": "y"},
    "kubernetes": {"kubeconfig": "/etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig"},
    "linkerd": {
        "incoming-proxy-port": 4143,
        "outgoing-proxy-port": 4140,
        "proxy-uid": 2102,
        "ports-to-redirect": [],
        "inbound-ports-to-ignore": ["4191", "4190"],
        "simulate": False,
        "use-wait-flag": False,
        "iptables-mode": "nft",
        "ipv6": False,
    },
}


def decode(**changes: Any) -> Any:
    return decode_netconf(json.dumps({"cniVersion": "1.0.0", **changes}).encode())


def error_of(stdin: bytes) -> CniError:
    with pytest.raises(CniError) as caught:
        decode_netconf(stdin)
    return caught.value


def test_the_recorded_entry_is_understood() -> None:
    entry = recorded("add")[1]
    conf = decode_netconf(json.dumps(entry).encode())
    assert (conf.cni_version, conf.name, conf.log_level) == ("1.0.0", "bridge", "warn")
    assert conf.annotations == entry["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]
    assert json.loads(conf.prev_result) == entry["prevResult"]


def test_linkerds_own_entry_is_understood() -> None:
    conf = decode_netconf(json.dumps(LINKERD_ENTRY).encode())
    assert conf.log_level == "info"
    assert conf.linkerd == LinkerdConf(
        inbound_ports_to_ignore=["4191", "4190"], iptables_mode="nft"
    )
    assert conf.annotations is None


@given(st.text(st.sampled_from(' \n\t{}[]:,"1a\\'), max_size=30))
def test_prev_result_is_kept_byte_for_byte(text: str) -> None:
    raw = b'{ "odd"\t:' + json.dumps(text).encode() + b' ,"n":1.50e+0}'
    assert decode_netconf(b'{"prevResult": ' + raw + b' ,"cniVersion":"1.1.0"}').result == raw


@pytest.mark.parametrize("changes", [{}, {"prevResult": None}])
def test_without_a_prev_result_the_result_is_the_version(changes: dict[str, Any]) -> None:
    assert decode(**changes).result == b'{"cniVersion":"1.0.0"}'


def test_an_empty_version_is_the_first_as_in_go() -> None:
    assert decode(cniVersion="").cni_version == "0.1.0"


@pytest.mark.parametrize(
    ("level", "meant"),
    [("debug", "debug"), ("INFO", "info"), ("error", "warn"), ("", "warn"), (None, "warn")],
)
def test_the_log_level_is_debug_info_or_else_warn(level: str | None, meant: str) -> None:
    assert decode(log_level=level).log_level == meant


@pytest.mark.parametrize(
    ("meshgraft", "excluded"),
    [
        (None, {"kube-system", "linkerd-cni"}),
        ({}, {"kube-system", "linkerd-cni"}),
        ({"excludeNamespaces": None}, {"kube-system", "linkerd-cni"}),
        ({"excludeNamespaces": []}, set()),
        ({"excludeNamespaces": ["a"]}, {"a"}),
    ],
)
def test_the_excluded_namespaces_replace_the_default(meshgraft: Any, excluded: set[str]) -> None:
    assert decode(meshgraft=meshgraft).excluded_namespaces == excluded


def test_null_stands_for_the_default_and_numbers_may_be_text() -> None:
    conf = decode(
        linkerd={"proxy-gid": None, "incoming-proxy-port": "5143", "ports-to-redirect": [80, "90"]}
    )
    assert conf.linkerd == LinkerdConf(incoming_proxy_port=5143, ports_to_redirect=[80, "90"])
    assert decode(linkerd=None, runtimeConfig=None, kubernetes=None).linkerd == LinkerdConf()


@pytest.mark.parametrize(
    ("runtime_config", "handed_over"),
    [
        (None, None),
        ({}, None),
        ({"io.kubernetes.cri.pod-annotations": {}}, {}),
        # containerd's for a pod without annotations: an empty map in Go
        ({"io.kubernetes.cri.pod-annotations": None}, {}),
    ],
)
def test_annotations_are_handed_over_where_the_key_is_there(
    runtime_config: Any, handed_over: dict[str, str] | None
) -> None:
    assert decode(runtimeConfig=runtime_config).annotations == handed_over


def test_unknown_keys_are_left_alone() -> None:
    assert decode(anything={"a": [1]}, linkerd={"new-key": 1}).linkerd == LinkerdConf()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"linkerd": {"proxy-uid": "x"}}, "proxy-uid"),
        ({"linkerd": {"incoming-proxy-port": 65536}}, "incoming-proxy-port"),
        ({"linkerd": []}, "linkerd"),
        ({"meshgraft": {"excludeNamespaces": "kube-system"}}, "excludeNamespaces"),
        ({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": []}}, "pod-annotations"),
        ({"prevResult": []}, "prevResult"),
        ({"name": 1}, "name"),
        ({"cniVersion": 1}, "cniVersion"),
    ],
)
def test_a_key_of_the_wrong_type_is_code_7_and_named(changes: Any, named: str) -> None:
    error = error_of(json.dumps({"cniVersion": "1.0.0", **changes}).encode())
    assert error.code == 7
    assert named in error.msg


@pytest.mark.parametrize("stdin", [b"", b"{", b"{} {}", b"\xff", b'{"a":' + b"[" * 100_000])
def test_what_is_not_json_is_code_6(stdin: bytes) -> None:
    assert error_of(stdin).code == 6


def test_an_unknown_version_is_code_1() -> None:
    error = error_of(b'{"cniVersion":"2.0.0"}')
    assert error.code == 1
    assert "2.0.0" in error.msg


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0","name":1}', "0.4.0"),
        (b"{}", "0.1.0"),
        (b"[", "1.1.0"),
        (b'{"cniVersion":""}', "0.1.0"),
    ],
)
def test_the_version_for_an_error_is_found_where_it_can_be(stdin: bytes, version: str) -> None:
    assert cni_version_of(stdin) == version


def test_versions_are_compared_by_age() -> None:
    assert decode_netconf(netconf(cniVersion="0.4.0")).at_least("0.4.0")
    assert not decode_netconf(netconf(cniVersion="0.3.1")).at_least("0.4.0")


@pytest.mark.parametrize(
    ("text", "pod"),
    [
        ("", PodArgs()),
        ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c;X=y", PodArgs("a", "b", "c")),
        ("K8S_POD_NAME=b;K8S_POD_NAME=c;;=;K8S_POD_NAMESPACE", PodArgs("", "c")),
        ("IgnoreUnknown=1;K8S_POD_NAME=a=b", PodArgs("", "a=b")),
    ],
)
def test_cni_args_name_the_pod(text: str, pod: PodArgs) -> None:
    assert parse_cni_args(text) == pod


def test_a_pod_is_shown_by_namespace_and_name() -> None:
    assert str(PodArgs("a", "b")) == "a/b"
    assert str(PodArgs("a", "")) == "(not named in CNI_ARGS)"


def test_the_example_for_operators_is_a_valid_entry() -> None:
    path = Path(__file__).parents[3] / "deploy/examples/10-bridge.conflist"
    conflist = json.loads(path.read_text())
    entry = {**conflist["plugins"][-1], "cniVersion": conflist["cniVersion"], "name": "bridge"}
    netconf = decode_netconf(json.dumps(entry).encode())
    assert netconf.linkerd.incoming_proxy_port == 4143


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("incoming-proxy-port", 5143, "incoming_proxy_port"),
        ("outgoing-proxy-port", 5140, "outgoing_proxy_port"),
        ("proxy-uid", 1000, "proxy_uid"),
        ("proxy-gid", 1000, "proxy_gid"),
        ("ports-to-redirect", [80], "ports_to_redirect"),
        ("inbound-ports-to-ignore", ["4191", "80-90"], "inbound_ports_to_ignore"),
        ("outbound-ports-to-ignore", ["443"], "outbound_ports_to_ignore"),
        ("subnets-to-ignore", ["10.0.0.0/8"], "subnets_to_ignore"),
        ("simulate", True, "simulate"),
        ("use-wait-flag", True, "use_wait_flag"),
        ("iptables-mode", "plain", "iptables_mode"),
        ("ipv6", True, "ipv6"),
    ],
)
def test_every_key_of_linkerds_entry_is_taken_or_may_be_null(
    key: str, value: Any, field: str
) -> None:
    assert getattr(decode(linkerd={key: value}).linkerd, field) == value
    assert decode(linkerd={key: None}).linkerd == LinkerdConf()
    assert set(LinkerdConf.__struct_encode_fields__) >= {key}


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"type": "k8s", "k8s_api_root": "", "k8s_auth_token": ""}},
        {"policy": None},
        {"kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__", "k8s_api_root": "x"}},
        {"capabilities": {"portMappings": True}, "dns": {}, "ipam": {}, "args": {"cni": {}}},
        {"type": "linkerd-cni", "cni.dev/valid-attachments": []},
    ],
)
def test_keys_without_a_meaning_here_are_taken(changes: dict[str, Any]) -> None:
    assert decode(**changes) == decode()
