"""Profile ``envoy``: what it adds to a pod, by settings and annotations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from injector.core.model import Namespace, Object, Origin, Outcome, Owner
from injector.core.mutate import mutate
from injector.core.skips import SkipReason
from injector.core.values import decode_values
from injector.profiles import get_profile
from injector.profiles.envoy import _literal
from meshgraft.lab.envoy import expand
from vocabulary.annotations import REDIRECT_ANNOTATION, PortRange, parse_redirect

OWNER = Owner("deployment", "web")


def inject(
    annotations: dict[str, str] | None = None,
    values: dict[str, Any] | None = None,
    spec: Object | None = None,
) -> Outcome:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "web-", "annotations": annotations or {}},
        "spec": {"containers": [{"name": "app", "image": "app"}], **(spec or {})},
    }
    namespace = Namespace("shop", {"linkerd.io/inject": "enabled"})
    settings = decode_values(values or {})
    outcome = mutate(pod, namespace, OWNER, settings, get_profile("envoy"), Origin("test", True))
    assert outcome.injected
    return outcome


def containers(outcome: Outcome) -> dict[str, Object]:
    spec = outcome.patched["spec"]
    return {c["name"]: c for c in [*spec.get("initContainers", []), *spec["containers"]]}


def envoy(outcome: Outcome) -> Object:
    return containers(outcome)["envoy-proxy"]


def arg(outcome: Outcome, name: str) -> str:
    args: list[str] = envoy(outcome)["args"]
    return args[args.index(name) + 1]


def config(outcome: Outcome) -> Any:
    return json.loads(arg(outcome, "--config-yaml"))


def test_the_proxy_is_a_native_sidecar_behind_the_init_container() -> None:
    spec = inject().patched["spec"]
    assert [c["name"] for c in spec["initContainers"]] == ["meshgraft-init", "envoy-proxy"]
    assert spec["initContainers"][1]["restartPolicy"] == "Always"
    assert spec["initContainers"][1]["startupProbe"]["httpGet"] == {"path": "/ready", "port": 4191}


def test_the_applications_own_init_containers_come_after_the_proxy() -> None:
    outcome = inject(spec={"initContainers": [{"name": "migrate", "image": "app"}]})
    names = [c["name"] for c in outcome.patched["spec"]["initContainers"]]
    assert names == ["meshgraft-init", "envoy-proxy", "migrate"]


def test_the_proxy_meets_the_restricted_pod_security_standard() -> None:
    context = envoy(inject())["securityContext"]
    assert context["runAsUser"] == 2102
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["readOnlyRootFilesystem"] is True


def test_it_needs_no_volume() -> None:
    assert "volumes" not in inject().patched["spec"]


def test_with_the_cni_plugin_no_container_gets_a_capability() -> None:
    outcome = inject(values={"cniEnabled": True})
    for name in ("meshgraft-network-validator", "envoy-proxy"):
        assert containers(outcome)[name]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "meshgraft-init" not in containers(outcome)


def test_the_rules_travel_in_the_annotation_or_in_the_init_containers_args_not_both() -> None:
    by_cni = inject(values={"cniEnabled": True}).patched["metadata"]["annotations"]
    by_init = inject()
    assert REDIRECT_ANNOTATION not in by_init.patched["metadata"]["annotations"]
    args = containers(by_init)["meshgraft-init"]["args"]
    assert args[args.index("--redirect") + 1] == by_cni[REDIRECT_ANNOTATION]
    redirect = parse_redirect(by_cni[REDIRECT_ANNOTATION])
    assert (redirect.inbound_port, redirect.outbound_port, redirect.proxy_uid) == (4143, 4140, 2102)
    assert PortRange(4191, 4191) in redirect.skip_inbound_ports


@pytest.mark.parametrize(
    ("mode", "capabilities"), [("nft", ["NET_ADMIN"]), ("legacy", ["NET_ADMIN", "NET_RAW"])]
)
def test_the_init_container_gets_what_its_backend_needs(mode: str, capabilities: list[str]) -> None:
    init = containers(inject(values={"proxyInit": {"iptablesMode": mode}}))["meshgraft-init"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": capabilities}
    assert init["args"][:2] == ["--iptables-mode", mode]


def test_ports_are_the_same_in_the_container_the_bootstrap_and_the_rules() -> None:
    outcome = inject(
        {
            "config.linkerd.io/inbound-port": "5143",
            "config.linkerd.io/outbound-port": "5140",
            "config.linkerd.io/admin-port": "5191",
            "config.linkerd.io/control-port": "5190",
        },
        {"cniEnabled": True},
    )
    listeners = {
        listener["name"]: listener["address"]["socket_address"]["port_value"]
        for listener in config(outcome)["static_resources"]["listeners"]
    }
    assert listeners == {"inbound": 5143, "outbound": 5140, "admin": 5191}
    assert config(outcome)["admin"]["address"]["socket_address"]["port_value"] == 5190
    assert [port["containerPort"] for port in envoy(outcome)["ports"]] == [5143, 5191]
    redirect = parse_redirect(outcome.patched["metadata"]["annotations"][REDIRECT_ANNOTATION])
    assert (redirect.inbound_port, redirect.outbound_port) == (5143, 5140)
    validator = containers(outcome)["meshgraft-network-validator"]["args"]
    assert "0.0.0.0:5140" in validator


def opaque(outcome: Outcome, way: str) -> set[int]:
    (listener,) = [
        each for each in config(outcome)["static_resources"]["listeners"] if each["name"] == way
    ]
    match = listener["listener_filters"][1].get("filter_disabled", {})
    rules = match.get("or_match", {}).get("rules", [match] if match else [])
    return {rule["destination_port_range"]["start"] for rule in rules}


def test_a_client_takes_the_clusters_opaque_ports_as_well_as_its_own() -> None:
    outcome = inject({"config.linkerd.io/opaque-ports": "7000"})
    assert opaque(outcome, "inbound") == {7000}
    assert opaque(outcome, "outbound") == {7000, 25, 587, 3306, 4444, 5432, 6379, 9300, 11211}


def test_an_opaque_port_may_be_named() -> None:
    app = {"name": "app", "image": "app", "ports": [{"name": "sql", "containerPort": 6033}]}
    outcome = inject({"config.linkerd.io/opaque-ports": "sql"}, spec={"containers": [app]})
    assert opaque(outcome, "inbound") == {6033}


@pytest.mark.parametrize(
    ("filter_text", "level"),
    [
        ("warn,linkerd=info,hickory=error", "warning"),
        ("linkerd=debug,error", "error"),
        ("DEBUG", "debug"),
        ('linkerd[name="x"]=trace', "warning"),
        ("off", "off"),
    ],
)
def test_a_log_filter_of_linkerds_proxy_gives_envoys_level(filter_text: str, level: str) -> None:
    assert arg(inject({"config.linkerd.io/proxy-log-level": filter_text}), "--log-level") == level


@pytest.mark.parametrize(
    ("spec", "annotations", "seconds"),
    [
        ({}, {}, "15"),
        ({"terminationGracePeriodSeconds": 10}, {}, "5"),
        ({"terminationGracePeriodSeconds": 0}, {}, "0"),
        ({}, {"config.linkerd.io/shutdown-grace-period": "4s"}, "4"),
    ],
)
def test_draining_leaves_half_of_the_grace_period_to_the_application(
    spec: Object, annotations: dict[str, str], seconds: str
) -> None:
    outcome = inject(annotations, spec=spec)
    assert arg(outcome, "--drain-time-s") == seconds
    script = envoy(outcome)["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert script.endswith(f"exec sleep {seconds}\n")


@pytest.mark.parametrize("text", ["$(POD_NAME)", "$$(POD_NAME)", "$$", "a$b", "{}"])
def test_kubernetes_leaves_an_argument_as_it_is_meant(text: str) -> None:
    assert expand(_literal(text), {"POD_NAME": "web"}) == text


def test_linkerds_control_plane_does_not_take_the_pod_for_one_of_its_own() -> None:
    labels = inject().patched["metadata"]["labels"]
    assert labels == {"linkerd.io/proxy-deployment": "web", "linkerd.io/workload-ns": "shop"}


def test_where_the_proxy_comes_first_kubectl_still_finds_the_application() -> None:
    outcome = inject({"config.linkerd.io/proxy-enable-native-sidecar": "false"})
    assert [c["name"] for c in outcome.patched["spec"]["containers"]] == ["envoy-proxy", "app"]
    annotations = outcome.patched["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "app"
    assert "postStart" in envoy(outcome)["lifecycle"]


def test_a_second_pass_changes_nothing() -> None:
    first = inject(values={"cniEnabled": True}).patched
    second = mutate(
        first,
        Namespace("shop", {"linkerd.io/inject": "enabled"}),
        OWNER,
        decode_values({"cniEnabled": True}),
        get_profile("envoy"),
        Origin("test", True),
    )
    assert second.patched == first


def test_resources_are_the_proxys() -> None:
    outcome = inject(
        {
            "config.linkerd.io/proxy-cpu-request": "100m",
            "config.linkerd.io/proxy-cpu-limit": "1500m",
            "config.linkerd.io/proxy-memory-limit": "250Mi",
        }
    )
    assert envoy(outcome)["resources"] == {
        "requests": {"cpu": "100m"},
        "limits": {"cpu": "1500m", "memory": "250Mi"},
    }
    assert arg(outcome, "--concurrency") == "2"


def test_a_negative_grace_period_leaves_no_time_to_drain() -> None:
    assert arg(inject(spec={"terminationGracePeriodSeconds": -1}), "--drain-time-s") == "0"


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_the_applications_own_envoy_is_never_thrown_out(where: str) -> None:
    theirs = {"name": "envoy-proxy", "image": "theirs:1"}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "app"}], "initContainers": []},
    }
    pod["spec"][where].append(theirs)  # type: ignore[index]
    outcome = mutate(
        pod,
        Namespace("shop", {"linkerd.io/inject": "enabled"}),
        OWNER,
        decode_values({}),
        get_profile("envoy"),
        Origin("test", additions=True),
    )
    assert outcome.patched == pod
    assert outcome.reasons == (SkipReason.SIDECAR_EXISTS,)
    (warning,) = outcome.warnings
    assert 'a container is called "envoy-proxy"' in warning


def test_an_annotation_that_means_nothing_to_envoy_is_named_in_a_warning() -> None:
    outcome = inject(
        {
            "config.linkerd.io/default-inbound-policy": "deny",
            "config.linkerd.io/enable-gateway": "true",
            "config.linkerd.io/access-log": "json",
        }
    )
    assert outcome.warnings == (
        "without a meaning for profile envoy: config.linkerd.io/enable-gateway",
        "without a meaning for profile envoy outside the mesh (meshgraft.mesh): "
        "config.linkerd.io/default-inbound-policy",
    )


def test_ingress_is_told_to_be_plain() -> None:
    outcome = inject({"linkerd.io/inject": "ingress"})
    assert any("ingress" in warning for warning in outcome.warnings)


def test_an_image_that_the_pod_asks_for_is_the_proxys() -> None:
    assert envoy(inject())["image"] == "envoyproxy/envoy:v1.40.0"
    outcome = inject(
        {
            "config.linkerd.io/proxy-image": "example.com/envoy",
            "config.linkerd.io/proxy-version": "v1.41.0",
            "config.linkerd.io/image-pull-policy": "Always",
        }
    )
    assert envoy(outcome)["image"] == "example.com/envoy:v1.41.0"
    assert envoy(outcome)["imagePullPolicy"] == "Always"


def test_linkerds_image_in_the_settings_does_not_become_envoys() -> None:
    values = {"proxy": {"image": {"name": "cr.l5d.io/linkerd/proxy", "version": "edge-26.8.3"}}}
    assert envoy(inject(values=values))["image"] == "envoyproxy/envoy:v1.40.0"


def test_additional_variables_come_last() -> None:
    variable = {"name": "A", "value": "b"}
    outcome = inject({"config.linkerd.io/proxy-additional-env": json.dumps([variable])})
    assert envoy(outcome)["env"][-1] == variable


def test_a_security_context_in_the_settings_replaces_the_proxys() -> None:
    outcome = inject(values={"proxy": {"securityContext": {"runAsUser": 2102}}})
    assert envoy(outcome)["securityContext"] == {"runAsUser": 2102}


def test_the_debug_sidecar_comes_with_envoy_too() -> None:
    version = {"config.linkerd.io/debug-image-version": "v1"}
    outcome = inject({"config.linkerd.io/enable-debug-sidecar": "true", **version})
    assert "linkerd-debug" in containers(outcome)


def test_pull_secrets_of_the_settings_join_the_pods_own() -> None:
    secrets = [{"name": "own"}, {"name": "registry"}]
    outcome = inject(
        values={"imagePullSecrets": [{"name": "registry"}]},
        spec={"imagePullSecrets": [{"name": "own"}]},
    )
    assert outcome.patched["spec"]["imagePullSecrets"] == secrets


def test_close_wait_timeout_takes_a_privileged_init_container() -> None:
    outcome = inject(
        {"config.linkerd.io/close-wait-timeout": "60s"}, {"proxyInit": {"runAsRoot": True}}
    )
    init = containers(outcome)["meshgraft-init"]
    assert init["args"][-2:] == ["--timeout-close-wait-secs", "60"]
    assert init["securityContext"]["privileged"] is True


def test_a_collector_turns_tracing_on() -> None:
    assert "tracing" not in json.dumps(config(inject()))
    outcome = inject(
        {
            "config.linkerd.io/trace-collector": "collector.tracing:4317",
            "resource.opentelemetry.io/service.version": "1.4.2",
        }
    )
    (cluster,) = [
        c for c in config(outcome)["static_resources"]["clusters"] if c["name"] == "collector"
    ]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {
        "address": "collector.tracing",
        "port_value": 4317,
    }
    attributes = envoy(outcome)["env"][-1]
    assert attributes["name"] == "OTEL_RESOURCE_ATTRIBUTES"
    assert attributes["value"].endswith("service.version=1.4.2")
