"""Every setting and annotation of profile ``linkerd`` reaches the place that Linkerd gives it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from injector.core.model import Object, Owner
from injector.core.redirect import redirect_for
from injector.core.resolve import resolve
from injector.core.values import BadValues
from tests.injector.support import (
    COMMAND,
    container,
    env,
    inject,
    meshed,
    names,
    pod,
    recorded,
    settings,
)
from vocabulary.annotations import REDIRECT_ANNOTATION, parse_redirect

L = "LINKERD2_PROXY_"


def proxy_env(tree: dict[str, Any] | None = None, given: Object | None = None) -> dict[str, Any]:
    return env(inject(given or pod(), values=settings(**(tree or {}))).patched)


def annotated_env(**annotations: str) -> dict[str, Any]:
    keys = {f"config.linkerd.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
    return env(inject(pod(keys)).patched)


@pytest.mark.parametrize(
    ("tree", "name", "value"),
    [
        ({"proxy": {"cores": 4}}, "CORES_MAX", "4"),
        ({"proxy": {"runtime": {"workers": {"minimum": 3}}}}, "CORES_MIN", "3"),
        ({"proxy": {"runtime": {"workers": {"minimum": 3}}}}, "CORES", "3"),
        (
            {"proxy": {"runtime": {"workers": {"maximumCPURatio": 0.5}}}},
            "CORES_MAX_RATIO",
            "0.5",
        ),
        (
            {"proxy": {"requireIdentityOnInboundPorts": "80"}},
            "INBOUND_PORTS_REQUIRE_IDENTITY",
            "80",
        ),
        ({"proxy": {"requireTLSOnInboundPorts": "80"}}, "INBOUND_PORTS_REQUIRE_TLS", "80"),
        ({"proxy": {"enableShutdownEndpoint": True}}, "SHUTDOWN_ENDPOINT_ENABLED", "true"),
        ({"proxy": {"logHTTPHeaders": "insecure", "logLevel": "debug"}}, "LOG", "debug"),
        (
            {"proxy": {"logHTTPHeaders": "off", "logLevel": "debug"}},
            "LOG",
            "debug,[{headers}]=off,[{request}]=off",
        ),
        ({"proxy": {"logFormat": "json"}}, "LOG_FORMAT", "json"),
        (
            {"linkerdNamespace": "l5d"},
            "POLICY_SVC_ADDR",
            "linkerd-policy.l5d.svc.cluster.local.:8090",
        ),
        (
            {"clusterDomain": "example.com"},
            "DESTINATION_SVC_ADDR",
            "linkerd-dst-headless.linkerd.svc.example.com.:8086",
        ),
        ({"clusterNetworks": "10.0.0.0/8"}, "POLICY_CLUSTER_NETWORKS", "10.0.0.0/8"),
        ({"clusterNetworks": "10.0.0.0/8"}, "DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8"),
        ({"proxy": {"defaultInboundPolicy": "deny"}}, "INBOUND_DEFAULT_POLICY", "deny"),
        (
            {"proxy": {"control": {"streams": {"initialTimeout": "1s"}}}},
            "CONTROL_STREAM_INITIAL_TIMEOUT",
            "1s",
        ),
        (
            {"proxy": {"disableInboundProtocolDetectTimeout": True}},
            "INBOUND_DETECT_TIMEOUT",
            "365d",
        ),
        (
            {"proxy": {"disableOutboundProtocolDetectTimeout": True}},
            "OUTBOUND_DETECT_TIMEOUT",
            "365d",
        ),
        ({"disableIPv6": False}, "INBOUND_LISTEN_ADDR", "[::]:4143"),
        ({"disableIPv6": False}, "OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
        ({"proxy": {"isGateway": True}}, "INBOUND_GATEWAY_SUFFIXES", "svc.cluster.local."),
        ({"proxy": {"isIngress": True}}, "INGRESS_MODE", "true"),
        ({"proxy": {"enableExternalProfiles": True}}, "DESTINATION_PROFILE_SUFFIXES", "."),
        (
            {"proxy": {"metrics": {"hostnameLabels": True}}},
            "OUTBOUND_METRICS_HOSTNAME_LABELS",
            "true",
        ),
        (
            {"proxy": {"inbound": {"server": {"http2": {"maxHeaderListSize": 9}}}}},
            "INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE",
            "9",
        ),
        ({"proxy": {"outbound": {"tcp": {"raw": {"on": True}}}}}, "OUTBOUND_TCP_RAW_ON", "true"),
        ({"proxy": {"accessLog": "apache"}}, "ACCESS_LOG", "apache"),
        ({"proxy": {"shutdownGracePeriod": "5s"}}, "SHUTDOWN_GRACE_PERIOD", "5s"),
        ({"proxy": {"podInboundPorts": "1,2"}}, "INBOUND_PORTS", "1,2"),
        ({"identityTrustAnchorsPEM": "\nPEM\n\n"}, "IDENTITY_TRUST_ANCHORS", "PEM\n"),
        (
            {"identityTrustDomain": "example.org"},
            "IDENTITY_SVC_NAME",
            "linkerd-identity.linkerd.serviceaccount.identity.linkerd.example.org",
        ),
    ],
)  # fmt: skip
def test_settings_reach_the_environment(tree: dict[str, Any], name: str, value: str) -> None:
    assert proxy_env(tree)[L + name] == value
    assert proxy_env().get(L + name) != value, "the setting makes no difference"


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"disableIPv6": False}, "OUTBOUND_LISTEN_ADDR"),
        ({"identityTrustDomain": "example.org"}, "IDENTITY_SVC_ADDR"),
    ],
)
def test_settings_reach_no_further_than_linkerds(tree: dict[str, Any], name: str) -> None:
    assert proxy_env(tree)[L + name] == proxy_env()[L + name]


@pytest.mark.parametrize(
    ("annotations", "name", "value"),
    [
        ({"shutdown_grace_period": "6s5ms"}, "SHUTDOWN_GRACE_PERIOD", "6005ms"),
        ({"proxy_outbound_connect_timeout": "2s"}, "OUTBOUND_CONNECT_TIMEOUT", "2000ms"),
        (
            {"proxy_inbound_discovery_cache_unused_timeout": "2m"},
            "INBOUND_DISCOVERY_IDLE_TIMEOUT",
            "120s",
        ),
        (
            {"proxy_outbound_discovery_cache_unused_timeout": "500ms"},
            "OUTBOUND_DISCOVERY_IDLE_TIMEOUT",
            "500ms",
        ),
        ({"proxy_cpu_limit": "1500m"}, "CORES_MAX", "2"),
        ({"proxy_cpu_request": "1500m"}, "CORES", "2"),
        ({"proxy_cpu_ratio_limit": "0.10"}, "CORES_MAX_RATIO", "0.1"),
        ({"pod_inbound_ports": "1, 2"}, "INBOUND_PORTS", "1,2"),
        ({"access_log": "json"}, "ACCESS_LOG", "json"),
    ],
)
def test_annotations_reach_the_environment(
    annotations: dict[str, str], name: str, value: str
) -> None:
    assert annotated_env(**annotations)[L + name] == value


def test_no_opaque_ports_at_all_leaves_the_variable_out() -> None:
    name = L + "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"
    assert name in annotated_env()
    assert name not in annotated_env(opaque_ports="")


def test_optional_variables_are_absent_by_default() -> None:
    found = proxy_env()
    for name in ("CORES_MAX", "CORES_MAX_RATIO", "INGRESS_MODE", "INBOUND_GATEWAY_SUFFIXES",
                 "ACCESS_LOG", "SHUTDOWN_GRACE_PERIOD", "INBOUND_DETECT_TIMEOUT"):  # fmt: skip
        assert L + name not in found


def test_additional_env_comes_last_and_experimental_behind_it() -> None:
    tree = {
        "proxy": {
            "additionalEnv": [{"name": "A", "value": "1"}],
            "experimentalEnv": [{"name": "B", "value": "2"}],
        }
    }
    assert list(proxy_env(tree).items())[-2:] == [("A", "1"), ("B", "2")]


def test_without_projection_the_proxy_uses_the_pods_own_token() -> None:
    given, where, whose = recorded("pod-shop-web")
    values = settings(identity={"serviceAccountTokenProjection": False})
    patched = inject(given, where, values, whose=whose).patched
    file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert env(patched)[L + "IDENTITY_TOKEN_FILE"] == file
    assert "linkerd-identity-token" not in names(patched["spec"]["volumes"])
    mounts = container(patched, "linkerd-proxy")["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts] == [
        "/var/run/linkerd/identity/end-entity",
        "/var/run/secrets/kubernetes.io/serviceaccount",
    ]


@pytest.mark.parametrize("cni", [False, True])
def test_a_service_account_is_mounted_as_in_the_first_container(cni: bool) -> None:
    given, where, whose = recorded("pod-shop-web")
    patched = inject(given, where, settings(cniEnabled=cni), whose=whose).patched
    (own,) = given["spec"]["containers"][0]["volumeMounts"]
    assert container(patched, "linkerd-proxy")["volumeMounts"][-1] == own
    if cni:
        assert "volumeMounts" not in container(patched, "linkerd-network-validator")
    else:
        assert container(patched, "linkerd-init")["volumeMounts"][-1] == own


def test_capabilities_follow_the_first_container() -> None:
    given, where, whose = recorded("pod-shop-web")
    patched = inject(given, where, whose=whose).patched
    assert container(patched, "linkerd-proxy")["securityContext"]["capabilities"] == {
        "add": ["NET_BIND_SERVICE"],
        "drop": ["ALL"],
    }
    assert container(patched, "linkerd-init")["securityContext"]["capabilities"] == {
        "add": ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"],
        "drop": ["ALL"],
    }


def test_the_init_container_never_drops_what_it_needs() -> None:
    context = {"capabilities": {"drop": ["NET_RAW", "CHOWN"], "add": ["NET_ADMIN"]}}
    given = pod(containers=[{"name": "app", "image": "x", "securityContext": context}])
    found = container(inject(given).patched, "linkerd-init")["securityContext"]
    assert found["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["CHOWN"]}


def test_a_security_context_in_the_settings_replaces_the_whole() -> None:
    patched = inject(pod(), values=settings(proxy={"securityContext": {"runAsUser": 5}})).patched
    assert container(patched, "linkerd-proxy")["securityContext"] == {"runAsUser": 5}


def test_user_and_group() -> None:
    values = settings(proxy={"uid": 7, "gid": 8})
    patched = inject(pod(), values=values).patched
    context = container(patched, "linkerd-proxy")["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (7, 8)
    args = container(patched, "linkerd-init")["args"]
    assert args[args.index("--proxy-uid") :][:4] == ["--proxy-uid", "7", "--proxy-gid", "8"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, {"privileged": False, "runAsUser": 65534, "runAsGroup": 65534, "runAsNonRoot": True}),
        ({"runAsRoot": True}, {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}),
        ({"privileged": True}, {"privileged": True, "allowPrivilegeEscalation": True}),
        (
            {"runAsRoot": True, "closeWaitTimeoutSecs": 5},
            {"privileged": True, "allowPrivilegeEscalation": True},
        ),
        ({"runAsUser": 5, "runAsGroup": 6}, {"runAsUser": 5, "runAsGroup": 6}),
    ],
)
def test_privileges_of_the_init_container(tree: dict[str, Any], expected: dict[str, Any]) -> None:
    found = container(inject(pod(), values=settings(proxyInit=tree)).patched, "linkerd-init")
    assert expected.items() <= found["securityContext"].items()


def test_every_argument_of_the_init_container_in_linkerds_order() -> None:
    values = settings(
        disableIPv6=False,
        proxyInit={
            "iptablesMode": "legacy",
            "ignoreInboundPorts": "",
            "ignoreOutboundPorts": "",
            "closeWaitTimeoutSecs": 5,
            "runAsRoot": True,
            "logFormat": "json",
            "logLevel": "debug",
            "skipSubnets": "10.0.0.0/8",
        },
    )
    assert container(inject(pod(), values=values).patched, "linkerd-init")["args"] == [
        *("--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140"),
        *("--proxy-uid", "2102"),
        *("--inbound-ports-to-ignore", "4190,4191"),
        *("--timeout-close-wait-secs", "5"),
        *("--log-format", "json", "--log-level", "debug"),
        *("--subnets-to-ignore", "10.0.0.0/8"),
    ]


def test_an_unknown_iptables_mode_is_the_operators_error() -> None:
    with pytest.raises(BadValues, match=r"proxyInit\.iptablesMode: 'xtables'.*legacy, nft, plain"):
        inject(pod(), values=settings(proxyInit={"iptablesMode": "xtables"}))


@pytest.mark.parametrize(
    ("proxy", "where", "keys"),
    [
        ({}, "initContainers", {"restartPolicy", "startupProbe"}),
        ({"await": False}, "initContainers", {"restartPolicy"}),
        ({"nativeSidecar": False}, "containers", {"lifecycle"}),
        ({"nativeSidecar": False, "await": False}, "containers", set()),
    ],
)
def test_how_the_proxy_starts(proxy: dict[str, Any], where: str, keys: set[str]) -> None:
    patched = inject(pod(), values=settings(proxy=proxy)).patched
    found = container(patched, "linkerd-proxy")
    assert found in patched["spec"][where]
    assert found.keys() & {"restartPolicy", "startupProbe", "lifecycle"} == keys


def test_hooks_of_a_proxy_that_is_no_native_sidecar() -> None:
    proxy = {"nativeSidecar": False, "waitBeforeExitSeconds": 5, "ports": {"admin": 9998}}
    found = container(inject(pod(), values=settings(proxy=proxy)).patched, "linkerd-proxy")
    command = ["/usr/lib/linkerd/linkerd-await", "--timeout=2m", "--port=9998"]
    assert found["lifecycle"] == {
        "postStart": {"exec": {"command": command}},
        "preStop": {"exec": {"command": ["/bin/sleep", "5"]}},
    }


def test_ports_reach_probes_and_container_ports() -> None:
    values = settings(proxy={"ports": {"admin": 1, "inbound": 2}})
    found = container(inject(pod(), values=values).patched, "linkerd-proxy")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert found[probe]["httpGet"]["port"] == 1
    assert [port["containerPort"] for port in found["ports"]] == [2, 1]


def test_resources_go_to_proxy_and_init_container_alike() -> None:
    amounts = {"cpu": {"request": "1"}, "ephemeral-storage": {"limit": "1Gi"}}
    for cni, init in ((False, "linkerd-init"), (True, "linkerd-network-validator")):
        values = settings(cniEnabled=cni, proxy={"resources": amounts})
        patched = inject(pod(), values=values).patched
        expected = {"requests": {"cpu": "1"}, "limits": {"ephemeral-storage": "1Gi"}}
        assert container(patched, "linkerd-proxy")["resources"] == expected
        assert container(patched, init)["resources"] == expected
    assert "resources" not in container(inject(pod()).patched, "linkerd-proxy")


def test_images_versions_and_pull_policies() -> None:
    values = settings(
        imagePullPolicy="Always",
        enableDebugSidecar=True,
        proxy={"image": {"name": "example.com/p", "version": "v2", "pullPolicy": "Never"}},
        debugContainer={"image": {"name": "example.com/d"}},
    )
    patched = inject(pod(), values=values).patched
    pairs = {
        name: (found["image"], found["imagePullPolicy"])
        for name in ("linkerd-proxy", "linkerd-init", "linkerd-debug")
        for found in [container(patched, name)]
    }
    assert pairs == {
        "linkerd-proxy": ("example.com/p:v2", "Never"),
        "linkerd-init": ("example.com/p:v2", "Never"),
        "linkerd-debug": ("example.com/d:v1", "Always"),
    }
    assert patched["metadata"]["annotations"]["linkerd.io/proxy-version"] == "v2"


@pytest.mark.parametrize(
    ("tree", "connect", "listen"),
    [
        ({}, "1.1.1.1:20001", "0.0.0.0:4140"),
        ({"disableIPv6": False}, "[fd00::1]:20001", "[::]:4140"),
        ({"proxy": {"ports": {"outbound": 5000}}}, "1.1.1.1:20001", "0.0.0.0:5000"),
        ({"networkValidator": {"connectAddr": "a:1", "listenAddr": "b:2"}}, "a:1", "b:2"),
    ],
)
def test_addresses_of_the_validator(tree: dict[str, Any], connect: str, listen: str) -> None:
    patched = inject(pod(), values=settings(cniEnabled=True, **tree)).patched
    args = container(patched, "linkerd-network-validator")["args"]
    assert args[args.index("--connect-addr") + 1] == connect
    assert args[args.index("--listen-addr") + 1] == listen


def test_for_the_command_the_validators_port_is_linkerds() -> None:
    values = settings(cniEnabled=True, proxy={"ports": {"outbound": 5000}})
    args = container(
        inject(pod(), values=values, origin=COMMAND).patched, "linkerd-network-validator"
    )["args"]
    assert args[args.index("--listen-addr") + 1] == "0.0.0.0:4140"


def test_the_redirect_is_finished_and_has_the_pods_annotations_in_it() -> None:
    given, where, whose = recorded("pod-shop-api")
    values = settings(cniEnabled=True)
    outcome = inject(given, where, values, whose=whose)
    found = parse_redirect(outcome.patched["metadata"]["annotations"][REDIRECT_ANNOTATION])
    effective = resolve(values, where.annotations, given["metadata"]["annotations"]).values
    assert found == redirect_for(effective, given)[0]
    assert [str(port) for port in found.skip_inbound_ports] == ["4190", "4191", "7000", "7100-7102"]
    assert [str(port) for port in found.skip_outbound_ports] == ["3306", "4222"]


def test_a_rule_that_linkerds_init_container_lacks_is_not_lost_in_silence() -> None:
    given = pod({"config.linkerd.io/skip-outbound-subnets": "10.0.0.0/8"})
    (warning,) = inject(given).warnings
    assert "skip-outbound-subnets has no effect" in warning
    assert inject(given, values=settings(cniEnabled=True)).warnings == ()


def test_bad_lists_in_the_values_file_are_warned_about() -> None:
    values = settings(cniEnabled=True, proxyInit={"ignoreInboundPorts": "x"})
    (warning,) = inject(pod(), values=values).warnings
    assert "proxyInit.ignoreInboundPorts" in warning


@pytest.mark.parametrize(
    ("tree", "default_container"),
    [
        ({"nativeSidecar": False}, "app"),
        ({"nativeSidecar": False, "await": False}, None),
        ({}, None),
    ],
)
def test_kubectl_goes_on_to_reach_the_application(
    tree: dict[str, Any], default_container: str | None
) -> None:
    key = "kubectl.kubernetes.io/default-container"
    values = settings(proxy=tree)
    assert inject(pod(), values=values).patched["metadata"]["annotations"].get(key) == (
        default_container
    )
    chosen = inject(pod({key: "other"}), values=values).patched
    assert chosen["metadata"]["annotations"][key] == "other"


@pytest.mark.parametrize(
    ("present", "cni", "expected"),
    [
        (None, False, "linkerd-proxy-init-xtables-lock,linkerd-identity-end-entity"),
        (None, True, "linkerd-identity-end-entity"),
        ("data,", True, "data,linkerd-identity-end-entity"),
        ("linkerd-identity-end-entity", True, "linkerd-identity-end-entity"),
    ],
)
def test_the_autoscaler_may_evict_despite_our_volumes(
    present: str | None, cni: bool, expected: str
) -> None:
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    given = pod({} if present is None else {key: present})
    patched = inject(given, values=settings(cniEnabled=cni)).patched
    assert patched["metadata"]["annotations"][key] == expected


@pytest.mark.parametrize("cni", [False, True])
def test_the_command_adds_nothing_that_linkerd_does_not(cni: bool) -> None:
    values = settings(cniEnabled=cni, proxy={"nativeSidecar": False})
    added = inject(pod(), values=values, origin=COMMAND).patched["metadata"]["annotations"]
    assert all(key.startswith("linkerd.io/") for key in added)


@pytest.mark.parametrize(
    ("kind", "webhook", "command"),
    [
        ("deployment", True, True),
        ("replicationcontroller", True, True),
        ("replicaset", True, True),
        ("job", True, True),
        ("daemonset", True, True),
        ("statefulset", True, True),
        ("cronjob", False, True),
        ("pod", False, False),
        ("rollout", False, False),
    ],
)
def test_the_owner_becomes_a_label(kind: str, webhook: bool, command: bool) -> None:
    common = {"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": "shop"}
    owner = {f"linkerd.io/proxy-{kind}": "web"}
    whose = Owner(kind, "web")
    found = inject(pod(), meshed(), whose=whose).patched["metadata"]["labels"]
    assert found == common | (owner if webhook else {})
    by_command = inject(pod(), meshed(), origin=COMMAND, whose=whose).patched["metadata"]["labels"]
    assert by_command == common | (owner if command else {})


def test_a_rollouts_pod_is_labelled_with_its_replicaset_as_by_linkerd() -> None:
    given = pod()
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r"}
    given["metadata"]["ownerReferences"] = [reference]
    for whose, label in (
        (Owner("rollout", "web"), {"linkerd.io/proxy-replicaset": "web-5d"}),
        (Owner("deployment", "web"), {"linkerd.io/proxy-deployment": "web"}),
    ):
        found = inject(given, meshed(), whose=whose).patched["metadata"]["labels"]
        assert found.items() >= label.items()
        assert len(found) == 3


def test_two_pods_share_no_part_that_could_be_changed() -> None:
    one, two = inject(pod()).patched, inject(pod()).patched
    shared = _parts(one["spec"]) & _parts(two["spec"])
    assert not shared


def _parts(node: Any) -> set[int]:
    if isinstance(node, dict):
        return {id(node)}.union(*map(_parts, node.values())) if node else set()
    if isinstance(node, list):
        return {id(node)}.union(*map(_parts, node)) if node else set()
    return set()


class TestTracing:
    VALUES: ClassVar[dict[str, Any]] = {
        "proxy": {
            "tracing": {
                "enabled": True,
                "collector": {
                    "endpoint": "collector.tracing:4317",
                    "meshIdentity": {"serviceAccountName": "collector", "namespace": "tracing"},
                },
            }
        }
    }

    def pod(self) -> Object:
        given = pod({"resource.opentelemetry.io/service.version": "1.4.2"})
        return inject(given, values=settings(**self.VALUES)).patched

    def test_the_proxy_learns_of_the_collector(self) -> None:
        (proxy,) = [c for c in self.pod()["spec"]["initContainers"] if c["name"] == "linkerd-proxy"]
        env = {v["name"]: v.get("value") for v in proxy["env"]}
        prefix = "LINKERD2_PROXY_TRACE_"
        assert {k.removeprefix(prefix): v for k, v in env.items() if k.startswith(prefix)} == {
            "ATTRIBUTES_PATH": "/var/run/linkerd/podinfo/labels",
            "ANNOTATIONS_PATH": "/var/run/linkerd/podinfo/annotations",
            "PROTOCOL": "opentelemetry",
            "SERVICE_NAME": "linkerd-proxy",
            "COLLECTOR_SVC_ADDR": "collector.tracing:4317",
            "COLLECTOR_SVC_NAME": (
                "collector.tracing.serviceaccount.identity.linkerd.cluster.local"
            ),
            "EXTRA_ATTRIBUTES": (
                "k8s.container.name=$(_pod_containerName)\nk8s.pod.ip=$(_pod_ip)\n"
                "k8s.pod.uid=$(_pod_uid)\nservice.version=1.4.2\n"
            ),
        }
        names = [v["name"] for v in proxy["env"]]
        before = names.index("LINKERD2_PROXY_OUTBOUND_METRICS_HOSTNAME_LABELS")
        assert names[before + 1] == prefix + "ATTRIBUTES_PATH"

    def test_the_pods_labels_are_mounted(self) -> None:
        spec = self.pod()["spec"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "linkerd-podinfo"]
        assert volume["downwardAPI"]["items"] == [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
        ]
