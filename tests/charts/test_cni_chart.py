"""The CNI plugin's chart: what its objects say, by setting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni_plugin.agent.netconf import decode_netconf
from cni_plugin.install.conflist import parse_entry
from meshgraft import installed
from meshgraft.charts.helm import Tree
from tests.charts.support import CNI, MODES, Object, container, objects, one
from tests.charts.test_injector_chart import rights


def daemonset(values: Tree | None = None) -> Object:
    return one(objects(CNI, values), "DaemonSet")


def entry(values: Tree | None = None) -> Any:
    data = one(objects(CNI, values), "ConfigMap", installed.CNI_CONFIG_MAP)["data"]
    return json.loads(data["cni_network_config"])


def test_objects_bear_linkerds_names() -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in objects(CNI)}
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet")
    assert names >= {(kind, installed.CNI) for kind in kinds}
    assert ("ConfigMap", installed.CNI_CONFIG_MAP) in names


def test_the_entry_is_linkerds_by_default() -> None:
    """linkerd2-cni's default entry, without a kubeconfig and with what is ours."""
    assert entry() == {
        "name": "linkerd-cni",
        "type": "linkerd-cni",
        "log_level": "info",
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "linkerd": {
            "incoming-proxy-port": 4143,
            "outgoing-proxy-port": 4140,
            "proxy-uid": 2102,
            "ports-to-redirect": [],
            "inbound-ports-to-ignore": ["4191", "4190"],
            "simulate": False,
            "use-wait-flag": False,
            "iptables-mode": "auto",
            "ipv6": False,
        },
        "meshgraft": {"excludeNamespaces": ["kube-system", "linkerd-cni"]},
    }


def test_settings_reach_the_plugin() -> None:
    values: Tree = {
        "inboundProxyPort": 5143,
        "outboundProxyPort": 5140,
        "proxyControlPort": 5190,
        "proxyAdminPort": 5191,
        "ignoreInboundPorts": "22, 8000-8010",
        "ignoreOutboundPorts": "25,443",
        "portsToRedirect": "80,81",
        "skipSubnets": "10.0.0.0/8",
        "proxyUID": 1000001,
        "proxyGID": 2000002,
        "disableIPv6": False,
        "logLevel": "debug",
        "excludeNamespaces": ["storage"],
    }
    text = json.dumps({**parse_entry(json.dumps(entry(values))), "cniVersion": "1.0.0"})
    conf = decode_netconf(text.encode())
    assert conf.linkerd.incoming_proxy_port == 5143
    assert conf.linkerd.outgoing_proxy_port == 5140
    assert conf.linkerd.inbound_ports_to_ignore == ["5191", "5190", "22", "8000-8010"]
    assert conf.linkerd.outbound_ports_to_ignore == ["25", "443"]
    assert conf.linkerd.ports_to_redirect == ["80", "81"]
    assert conf.linkerd.subnets_to_ignore == ["10.0.0.0/8"]
    assert (conf.linkerd.proxy_uid, conf.linkerd.proxy_gid) == (1000001, 2000002)
    assert conf.linkerd.ipv6
    assert conf.log_level == "debug"
    assert conf.excluded_namespaces == {"storage", "linkerd-cni"}, "its own is always there"


def test_a_changed_entry_makes_new_pods() -> None:
    def checksum(values: Tree) -> str:
        template = daemonset(values)["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum({}) == checksum({"tolerations": []})
    assert checksum({}) != checksum({"proxyUID": 2103})
    assert checksum({}) != checksum({"destCNIBinDir": "/bin"})


@pytest.mark.parametrize(
    ("mode", "capabilities"),
    [
        ("auto", ["NET_ADMIN", "SYS_ADMIN"]),
        ("nft", ["NET_ADMIN", "SYS_ADMIN"]),
        ("plain", ["NET_ADMIN", "SYS_ADMIN"]),
        ("legacy", ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"]),
    ],
)
def test_the_agent_has_two_capabilities_and_a_third_for_legacy(
    mode: str, capabilities: list[str]
) -> None:
    workload = daemonset({"iptablesMode": mode})
    rights = container(workload)["securityContext"]
    assert rights == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
    }
    spec = workload["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert not {"hostPID", "hostIPC"} & spec.keys()


def test_the_agent_needs_no_working_cni_and_opens_one_port_on_the_node() -> None:
    template = daemonset({"metricsPort": 19990})["spec"]["template"]
    assert template["spec"]["hostNetwork"] is True
    assert template["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    [agent] = template["spec"]["containers"]
    assert [each["containerPort"] for each in agent["ports"]] == [19990]
    assert "--metrics-listen=0.0.0.0:19990" in agent["args"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "19990"


def test_the_agent_can_keep_a_network_of_its_own() -> None:
    spec = daemonset({"hostNetwork": False})["spec"]["template"]["spec"]
    assert not {"hostNetwork", "dnsPolicy"} & spec.keys()


def test_it_comes_first_on_a_node_and_leaves_one_node_at_a_time() -> None:
    spec = daemonset()["spec"]
    assert spec["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
    }
    pod = spec["template"]["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert spec["template"]["metadata"]["labels"]["linkerd.io/cni-resource"] == "true"
    assert spec["template"]["metadata"]["annotations"]["linkerd.io/inject"] == "disabled"


def test_the_folders_of_the_node_are_mounted_where_the_agent_looks() -> None:
    values: Tree = {"destCNINetDir": "/var/net.d", "destCNIBinDir": "/var/bin", "netnsDir": "/n"}
    pod = daemonset(values)["spec"]["template"]["spec"]
    paths = {
        each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each
    }
    mounted = {
        each["mountPath"]: paths[each["name"]]
        for each in pod["containers"][0]["volumeMounts"]
        if each["name"] in paths
    }
    assert mounted == {
        "/run/linkerd-cni": "/run/linkerd-cni",
        "/host/var/net.d": "/var/net.d",
        "/host/var/bin": "/var/bin",
        "/run/netns": "/n",
    }


def test_one_folder_for_both_is_mounted_once() -> None:
    mounts = container(daemonset(MODES["cni, one folder"][1]))["volumeMounts"]
    assert [each["mountPath"] for each in mounts].count("/host/etc/cni") == 1


def test_the_namespace_says_what_the_agent_needs() -> None:
    labels = one(objects(CNI, {"createNamespace": True}), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    assert labels["config.linkerd.io/admission-webhooks"] == "disabled"
    assert labels["linkerd.io/cni-resource"] == "true"


ALWAYS = {
    ("ClusterRole", "", "pods", "", "get list watch"),
    ("ClusterRole", "", "namespaces", "", "get list watch"),
    ("ClusterRole", "", "services", "kubernetes", "get"),
    ("Role", "apps", "daemonsets", "linkerd-cni", "get"),
}
EVENTS = ("ClusterRole", "", "events", "", "create")
EVICTIONS = ("ClusterRole", "", "pods/eviction", "", "create")
NODES = ("ClusterRole", "", "nodes", "", "get patch")


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"repair": {"enabled": False}}, set()),
        ({}, {EVENTS}),
        ({"repair": {"evict": True}}, {EVENTS, EVICTIONS}),
        ({"repair": {"enabled": False}, "startupTaint": {"enabled": True}}, {NODES}),
    ],
)
def test_the_agent_may_do_this_and_nothing_else(
    values: Tree, more: set[tuple[str, str, str, str, str]]
) -> None:
    assert rights(objects(CNI, values)) == ALWAYS | more


def test_a_policy_of_the_network_is_made_where_it_can_hold() -> None:
    assert all(each["kind"] != "NetworkPolicy" for each in objects(CNI))
    made = objects(CNI, {"hostNetwork": False})
    policy = one(made, "NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    assert rule == {"ports": [{"port": "admin-http"}]}
    labels = one(made, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
