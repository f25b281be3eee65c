"""What the proxy's container says of itself, and that rules follow it and not an annotation."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cni_plugin.agent.decide import Redirected, decide
from cni_plugin.agent.netconf import NetConf, PodArgs
from cni_plugin.pods.cluster_pods import inherit
from cni_plugin.pods.linkerd import INHERITED
from cni_plugin.pods.proxy_settings import proxy_settings, slim
from cni_plugin.pods.source import Pod

LINKERDS: list[dict[str, Any]] = [
    {"name": "LINKERD2_PROXY_LOG", "value": "warn"},
    {"name": "_pod_ns", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    {"name": "LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "value": "[::]:4190"},
    {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "0.0.0.0:4191"},
    {"name": "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS", "value": "127.0.0.1:4140,[::1]:4140"},
    {"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "0.0.0.0:4143"},
]
"""As Linkerd's injector writes them."""
TOLD = {
    "proxy-uid": 2102,
    "inbound-port": 4143,
    "outbound-port": 4140,
    "admin-port": 4191,
    "control-port": 4190,
}
PROXY = {"name": "linkerd-proxy", "env": LINKERDS, "securityContext": {"runAsUser": 2102}}


def pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    """The annotations' keys are written without their prefix."""
    full = {f"config.linkerd.io/{key}": text for key, text in (annotations or {}).items()}
    meta = {"name": "web-0", "namespace": "shop", "annotations": full}
    return msgspec.convert({"metadata": meta, "spec": {"containers": containers, **spec}}, Pod)


def proxy(env: dict[str, str | None] | None = None, **context: Any) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    return {"name": "linkerd-proxy", "env": variables, "securityContext": context}


INBOUND = "LINKERD2_PROXY_INBOUND_LISTEN_ADDR"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (pod({"name": "app"}, PROXY), TOLD),
        (pod({"name": "app"}, initContainers=[PROXY]), TOLD),
        (pod({**PROXY, "name": "app"}, {"name": "linkerd-proxy"}), {}),
        (pod(), {}),
        (pod({"name": "linkerd-proxy", "env": None, "securityContext": None}), {}),
        (pod(proxy(runAsUser=1000, runAsGroup=3000)), {"proxy-uid": 1000, "proxy-gid": 3000}),
        (pod(proxy(runAsUser=-1)), {}),
        (pod(proxy({INBOUND: "0.0.0.0:5143"})), {"inbound-port": 5143}),
        *(
            (pod(proxy({INBOUND: text})), {})
            for text in (None, "", "$(x)", "a:b", "0:0", "x:70000")
        ),
    ],
)
def test_the_container_tells_ports_and_user(given: Pod, told: dict[str, int]) -> None:
    assert proxy_settings(given) == told
    slimmed = msgspec.structs.replace(given, spec=slim(given.spec))
    assert proxy_settings(slimmed) == told
    assert slimmed.container_names == given.container_names
    assert slimmed.init_container_names == given.init_container_names


def test_little_of_a_spec_is_kept() -> None:
    big = [{"name": f"V{number}", "value": "x" * 100} for number in range(100)]
    given = pod({"name": "app", "env": big}, {**PROXY, "env": [*big, *LINKERDS]}, hostNetwork=True)
    kept = msgspec.json.encode(slim(given.spec)).decode()
    assert "xxx" not in kept
    assert len(kept) < 1000
    assert '"hostNetwork":true' in kept


# Which of container, pod and namespace counts

VALUES: dict[str, tuple[str, str, Any, Any]] = {
    "skip-inbound-ports": ("80", "skip_inbound_ports", [[80, 80]], []),
    "skip-outbound-ports": ("80", "skip_outbound_ports", [[80, 80]], []),
    "skip-subnets": ("10.0.0.0/8", "skip_subnets", ["10.0.0.0/8"], []),
    "skip-outbound-subnets": ("10.0.0.0/8", "skip_outbound_subnets", ["10.0.0.0/8"], []),
    "proxy-uid": ("1000", "proxy_uid", 1000, 2102),
    "proxy-gid": ("1000", "proxy_gid", 1000, None),
    "inbound-port": ("5143", "inbound_port", 5143, 4143),
    "outbound-port": ("5140", "outbound_port", 5140, 4140),
    "admin-port": ("5191", "skip_inbound_ports", [[5191, 5191]], []),
    "control-port": ("5190", "skip_inbound_ports", [[5190, 5190]], []),
}
"""For each annotation: a value, the field of the Redirect, what it then is, and what otherwise."""


def field(given: Pod, name: str) -> Any:
    decision = decide(NetConf(cni_version="1.0.0"), PodArgs("shop", "web-0"), given)
    assert isinstance(decision, Redirected)
    assert decision.warnings == ()
    return msgspec.json.decode(msgspec.json.encode(getattr(decision.redirect, name)))


def test_all_annotations_of_the_plugin_are_in_the_table() -> None:
    assert {f"config.linkerd.io/{key}" for key in VALUES} == set(INHERITED)


@pytest.mark.parametrize("key", VALUES)
def test_each_annotation_counts_on_the_pod_and_else_on_the_namespace(key: str) -> None:
    text, name, wanted, default = VALUES[key]
    bare = {"name": "linkerd-proxy"}
    namespace = {f"config.linkerd.io/{key}": text}
    assert field(pod(bare), name) == default
    assert field(pod(bare, annotations={key: text}), name) == wanted
    assert field(inherit(pod(bare), namespace), name) == wanted
    other = "1" if "subnets" not in key else "192.168.0.0/16"
    own = inherit(pod(bare, annotations={key: other}), namespace)
    assert field(own, name) == field(pod(bare, annotations={key: other}), name) != wanted


@pytest.mark.parametrize("key", TOLD)
def test_what_the_container_says_comes_before_pod_and_namespace(key: str) -> None:
    text, name, wanted, _ = VALUES[key]
    running = {**PROXY, "securityContext": {"runAsUser": 2102, "runAsGroup": 2103}}
    expected = field(pod(running), name)
    assert expected != wanted
    assert field(pod(running, annotations={key: text}), name) == expected
    namespace = {f"config.linkerd.io/{key}": text}
    assert field(inherit(pod(running), namespace), name) == expected
