"""The injector's chart: what its objects say, by setting."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from injector.core.values import Values, decode_values
from injector.service.settings import Settings
from kubeapi import reading
from meshgraft import installed
from meshgraft._errors import CommandError
from meshgraft.charts.helm import Tree
from tests.charts.support import (
    HA,
    INJECTOR,
    MODES,
    PROVIDED,
    Object,
    container,
    objects,
    one,
    rendered,
)


def deployment(values: Tree | None = None, *sets: str) -> Object:
    return one(objects(INJECTOR, values, *sets), "Deployment")


def webhooks(values: Tree | None = None, *sets: str) -> list[Object]:
    found: list[Object] = one(objects(INJECTOR, values, *sets), "MutatingWebhookConfiguration")[
        "webhooks"
    ]
    return found


def expressions(selector: Object) -> set[tuple[str, str, tuple[str, ...]]]:
    return {
        (each["key"], each["operator"], tuple(each.get("values", ())))
        for each in selector["matchExpressions"]
    }


# --- names ---------------------------------------------------------------------------------------


def test_objects_bear_the_names_that_the_commands_ask_for() -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in objects(INJECTOR)}
    assert names >= {
        ("Deployment", installed.INJECTOR),
        ("Service", installed.INJECTOR),
        ("ServiceAccount", installed.INJECTOR),
        ("ClusterRole", installed.INJECTOR),
        ("ClusterRoleBinding", installed.INJECTOR),
        ("ConfigMap", installed.CONFIG_MAP),
        ("MutatingWebhookConfiguration", installed.WEBHOOK_CONFIG),
    }
    assert reading.MUTATING_WEBHOOKS.path(name=installed.WEBHOOK_CONFIG).endswith("webhook-config")


# --- settings ------------------------------------------------------------------------------------


def settings(tmp_path: Path, values: Tree | None = None) -> Values:
    """What the webhook makes of the ConfigMap as the Deployment mounts it."""
    data = one(objects(INJECTOR, values), "ConfigMap", "meshgraft-injector-config")["data"]
    (tmp_path / "values").write_text(data["values"])
    current = Settings(tmp_path / "values", data["profile"]).current
    assert current == Settings(tmp_path / "values").current, "the profile is in the values too"
    return current


def test_the_charts_defaults_are_the_injectors_own(tmp_path: Path) -> None:
    assert settings(tmp_path) == Values()


@pytest.mark.parametrize("mode", [name for name in MODES if not name.startswith("cni,")])
def test_the_injector_takes_the_settings_of_every_mode(mode: str, tmp_path: Path) -> None:
    chart, values = MODES[mode]
    if chart == INJECTOR:
        profile = values.get("meshgraft", {}).get("profile", "envoy")
        assert settings(tmp_path, values).meshgraft.profile == profile


def test_a_setting_reaches_the_injector(tmp_path: Path) -> None:
    values: Tree = {
        "proxy": {"logLevel": "debug", "cores": 2, "uid": 2000001},
        "identityTrustAnchorsPEM": "---\nan anchor\n",
        "cniEnabled": True,
    }
    found = settings(tmp_path, values)
    assert found.proxy.log_level == "debug"
    assert found.proxy.cores == 2
    assert found.proxy.uid == 2000001
    assert found.identity_trust_anchors_pem == "---\nan anchor\n"
    assert found.cni_enabled


def test_the_image_of_init_containers_is_the_injectors(tmp_path: Path) -> None:
    values: Tree = {"meshgraft": {"image": {"name": "r.example/m", "version": "v9"}}}
    assert container(deployment(values))["image"] == "r.example/m:v9"
    image = settings(tmp_path, values).meshgraft.image
    assert (image.name, image.version) == ("r.example/m", "v9")


# --- Pod Security --------------------------------------------------------------------------------


def assert_restricted(workload: Object) -> None:
    """What Pod Security ``restricted`` asks for, and a read-only root besides."""
    spec = workload["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {next(iter(each.keys() - {"name"})) for each in spec["volumes"]} <= {
        "configMap",
        "emptyDir",
        "secret",
    }
    for each in spec["containers"]:
        rights = each["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("mode", ["default", "ha", "cert-manager", "provided", "everything"])
def test_the_injector_is_restricted(mode: str) -> None:
    workload = deployment(MODES[mode][1])
    assert_restricted(workload)
    assert workload["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 2103
    assert all("hostPort" not in port for port in container(workload)["ports"])


def test_only_the_injector_gets_a_token() -> None:
    found = objects(INJECTOR, {"nodeProxy": {"enabled": True}})
    assert all(
        each["automountServiceAccountToken"] is False
        for each in found
        if each["kind"] == "ServiceAccount"
    )
    asks = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for each in found
        if each["kind"] in ("Deployment", "DaemonSet")
    }
    assert asks == {"meshgraft-injector": True, "meshgraft-node-proxy": False}


@pytest.mark.parametrize(("node_proxy", "level"), [(False, "restricted"), (True, "privileged")])
def test_the_namespace_is_as_strict_as_its_pods_allow(node_proxy: bool, level: str) -> None:
    found = objects(INJECTOR, {"createNamespace": True, "nodeProxy": {"enabled": node_proxy}})
    labels = one(found, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == level
    assert labels["config.linkerd.io/admission-webhooks"] == "disabled"


def test_helm_makes_no_namespace() -> None:
    assert all(each["kind"] != "Namespace" for each in objects(INJECTOR))


# --- the webhook ---------------------------------------------------------------------------------


def test_one_webhook_that_never_sees_the_system_or_ourselves() -> None:
    (webhook,) = webhooks()
    assert expressions(webhook["namespaceSelector"]) == {
        ("config.linkerd.io/admission-webhooks", "NotIn", ("disabled",)),
        ("kubernetes.io/metadata.name", "NotIn", ("kube-system", "cert-manager")),
        ("kubernetes.io/metadata.name", "NotIn", ("meshgraft", "linkerd-cni")),
    }
    assert expressions(webhook["objectSelector"]) == {
        ("linkerd.io/control-plane-component", "DoesNotExist", ()),
        ("linkerd.io/cni-resource", "DoesNotExist", ()),
    }
    assert webhook["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods", "services"],
            "operations": ["CREATE"],
            "scope": "Namespaced",
        }
    ]
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["sideEffects"] == "NoneOnDryRun"
    assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == ("Ignore", 10)


def test_ourselves_are_left_out_whatever_the_selector_says() -> None:
    values: Tree = {"proxyInjector": {"namespaceSelector": {"matchExpressions": None}}}
    (webhook,) = webhooks(values)
    assert expressions(webhook["namespaceSelector"]) == {
        ("kubernetes.io/metadata.name", "NotIn", ("meshgraft", "linkerd-cni"))
    }


@pytest.mark.parametrize("namespace", ["", "enabled", "ingress", "disabled", "other"])
@pytest.mark.parametrize("pod", ["", "enabled", "ingress", "disabled", "other"])
def test_opt_in_by_label_asks_once_about_what_is_labelled(namespace: str, pod: str) -> None:
    wanted = pod in ("enabled", "ingress") or (
        namespace in ("enabled", "ingress") and pod != "disabled"
    )
    asking = [
        webhook["name"]
        for webhook in webhooks({"meshgraft": {"optIn": "label"}})
        if matches(webhook["namespaceSelector"], {"linkerd.io/inject": namespace})
        and matches(webhook["objectSelector"], {"linkerd.io/inject": pod})
    ]
    assert len(asking) == wanted


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """As the API server selects; an empty label stands for one that is not there."""
    present = {key: value for key, value in labels.items() if value}
    return all(_holds(each, present.get(each["key"])) for each in selector["matchExpressions"])


def _holds(expression: Object, value: str | None) -> bool:
    verdicts: dict[str, bool] = {
        "In": value in expression.get("values", ()),
        "NotIn": value is None or value not in expression.get("values", ()),
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return verdicts[expression["operator"]]


def test_opt_in_by_label_is_told_to_the_injector(tmp_path: Path) -> None:
    assert settings(tmp_path, {"meshgraft": {"optIn": "label"}}).meshgraft.opt_in == "label"


def test_a_users_match_conditions_come_behind_ours() -> None:
    more = {"name": "not-mine", "expression": "object.metadata.name != 'mine'"}
    (webhook,) = webhooks({"proxyInjector": {"matchConditions": [more]}})
    names = [each["name"] for each in webhook["matchConditions"]]
    assert names[-1] == "not-mine"
    assert len(names) == 3


# --- certificates --------------------------------------------------------------------------------


def test_in_mode_self_the_manifests_hold_no_secret_and_no_ca() -> None:
    found = objects(INJECTOR)
    assert all(each["kind"] != "Secret" for each in found)
    assert "caBundle" not in webhooks()[0]["clientConfig"]
    assert {
        "--cert-secret=meshgraft/meshgraft-injector-tls",
        "--webhook-config=meshgraft-injector-webhook-config",
        "--cert-lease=meshgraft/meshgraft-injector-certificates",
    } <= set(container(deployment())["args"])


@pytest.mark.parametrize("mode", ["cert-manager", "provided", "provided, own Secret"])
def test_in_other_modes_the_secret_is_mounted(mode: str) -> None:
    workload = deployment(MODES[mode][1])
    assert "--cert-dir=/var/run/meshgraft/tls" in container(workload)["args"]
    assert not [arg for arg in container(workload)["args"] if arg.startswith("--cert-secret")]
    volumes = {each["name"]: each for each in workload["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == "meshgraft-injector-tls"


def test_a_provided_certificate_is_the_secret_and_what_is_trusted() -> None:
    found = objects(INJECTOR, MODES["provided"][1])
    data = one(found, "Secret")["data"]
    assert base64.b64decode(data["tls.crt"]) == b"a certificate"
    assert base64.b64decode(data["tls.key"]) == b"a key"
    client = one(found, "MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]
    assert base64.b64decode(client["caBundle"]) == b"a certificate"


def test_cert_manager_issues_below_a_ca_that_stays() -> None:
    found = objects(INJECTOR, MODES["cert-manager"][1])
    leaf = one(found, "Certificate", "meshgraft-injector")["spec"]
    ca = one(found, "Certificate", "meshgraft-ca")["spec"]
    assert leaf["secretName"] == "meshgraft-injector-tls"
    assert leaf["dnsNames"][0] == "meshgraft-injector.meshgraft.svc"
    assert leaf["issuerRef"]["name"] == "meshgraft-ca"
    assert ca["isCA"] is True
    assert one(found, "Issuer", "meshgraft-ca")["spec"] == {"ca": {"secretName": ca["secretName"]}}
    configuration = one(found, "MutatingWebhookConfiguration")
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": "meshgraft/meshgraft-injector"
    }


def test_cert_managers_own_pods_do_not_wait_for_its_certificate() -> None:
    (webhook,) = webhooks(MODES["cert-manager"][1])
    left_out = [each[2] for each in expressions(webhook["namespaceSelector"])]
    assert ("meshgraft", "linkerd-cni", "cert-manager") in left_out


def test_an_issuer_of_the_users_is_enough() -> None:
    found = objects(INJECTOR, MODES["cert-manager, own issuer"][1])
    assert one(found, "Certificate")["spec"]["issuerRef"]["kind"] == "ClusterIssuer"
    assert all(each["kind"] != "Issuer" for each in found)


BOTH = {"injectCaFrom": "a/b", "injectCaFromSecret": "a/c"}
CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "two sources": (
        "provided",
        {"externalSecret": True, **BOTH},
        "injectCaFrom and injectCaFromSecret cannot both be set",
    ),
    "source and bundle": (
        "provided",
        {"externalSecret": True, "injectCaFrom": "a/b", "caBundle": "x"},
        "injectCaFrom or injectCaFromSecret cannot be set if providing a caBundle",
    ),
    "own Secret, nothing to trust": (
        "provided",
        {"externalSecret": True},
        "if externalSecret is set, then caBundle, injectCaFrom, or injectCaFromSecret must be set",
    ),
    "source without own Secret": (
        "provided",
        {**PROVIDED, "injectCaFrom": "a/b"},
        "if injectCaFrom or injectCaFromSecret is set, then externalSecret must be set",
    ),
    "nothing provided": ("provided", {}, 'certificates.mode is "provided": set'),
    "key missing": ("provided", {"crtPEM": "x"}, "set proxyInjector.crtPEM and keyPEM"),
    "both ways": (
        "provided",
        {**PROVIDED, "externalSecret": True, "caBundle": "x"},
        "crtPEM and keyPEM cannot be set if externalSecret is",
    ),
    "certificate in mode self": ("self", PROVIDED, 'are for mode "provided"'),
    "no time to stop": (
        "self",
        {"shutdownDelaySeconds": 25},
        "terminationGracePeriodSeconds: expected at least 35",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_told(case: str) -> None:
    mode, webhook, message = CONTRADICTIONS[case]
    with pytest.raises(CommandError) as caught:
        objects(INJECTOR, {"certificates": {"mode": mode}, "proxyInjector": webhook})
    assert message in str(caught.value)


def test_profile_linkerd_wants_the_proxys_version() -> None:
    with pytest.raises(CommandError, match="set linkerdVersion"):
        objects(INJECTOR, {"meshgraft": {"profile": "linkerd"}})


# --- high availability ---------------------------------------------------------------------------


def test_ha_spreads_three_replicas_and_lets_one_go_at_a_time() -> None:
    found = objects(INJECTOR, HA)
    spec = one(found, "Deployment")["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": "25%"}
    pod = spec["template"]["spec"]
    anti = pod["affinity"]["podAntiAffinity"]
    required = anti["requiredDuringSchedulingIgnoredDuringExecution"]
    preferred = anti["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [each["topologyKey"] for each in required] == ["kubernetes.io/hostname"]
    assert preferred[0]["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert container({"spec": spec})["resources"] == {
        "limits": {"memory": "256Mi"},
        "requests": {"cpu": "100m", "memory": "128Mi"},
    }
    budget = one(found, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert one(found, "MutatingWebhookConfiguration")["webhooks"][0]["failurePolicy"] == "Fail"


def test_a_replica_drains_within_its_grace_period() -> None:
    pod = deployment(HA)["spec"]["template"]["spec"]
    assert "--shutdown-delay=5" in pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] >= 5 + 10


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ({"webhookFailurePolicy": "Fail"}, "failurePolicy is Fail and there is one replica"),
        ({"meshgraft": {"profile": "node"}}, "set nodeProxy.enabled"),
        (MODES["profile linkerd"][1], "identityTrustAnchorsPEM is empty"),
        (HA, None),
        ({}, None),
    ],
)
def test_the_notes_warn_of_what_will_surprise(values: Tree, warns: str | None) -> None:
    notes = rendered(INJECTOR, values).notes
    assert ("WARNING" in notes) == bool(warns)
    assert (warns or "installed in namespace meshgraft") in notes


# --- RBAC ----------------------------------------------------------------------------------------

ALWAYS = {
    ("ClusterRole", "", "namespaces", "", "get list watch"),
    ("ClusterRole", "apps", "replicasets", "", "get"),
    ("ClusterRole", "apps", "statefulsets", "", "get"),
    ("ClusterRole", "apps", "daemonsets", "", "get"),
    ("ClusterRole", "", "replicationcontrollers", "", "get"),
    ("ClusterRole", "batch", "jobs", "", "get"),
    ("ClusterRole", "", "events", "", "create"),
}
WEBHOOK_CONFIGS = ("admissionregistration.k8s.io", "mutatingwebhookconfigurations")
SELF = {
    ("ClusterRole", *WEBHOOK_CONFIGS, "meshgraft-injector-webhook-config", "get list watch update"),
    ("Role", "", "secrets", "", "create"),
    ("Role", "", "secrets", "meshgraft-injector-tls", "get list watch update"),
    ("Role", "coordination.k8s.io", "leases", "", "create"),
    ("Role", "coordination.k8s.io", "leases", "meshgraft-injector-certificates", "get update"),
}


def rights(found: list[Object]) -> set[tuple[str, str, str, str, str]]:
    """All that the roles allow: where, group, resource, name, verbs."""
    return {
        (each["kind"], group, resource, name, " ".join(rule["verbs"]))
        for each in found
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("default", ALWAYS | SELF),
        ("everything", ALWAYS | SELF),
        ("provided", ALWAYS),
        ("cert-manager", ALWAYS),
    ],
)
def test_the_injector_may_do_this_and_nothing_else(
    mode: str, expected: set[tuple[str, str, str, str, str]]
) -> None:
    assert rights(objects(*MODES[mode])) == expected


def test_the_values_file_is_valid_for_inject_too() -> None:
    """The part about pods is the same for ``meshgraft inject --values``."""
    text = (Path(__file__).parents[2] / "deploy/charts/meshgraft/values.yaml").read_text()
    assert decode_values(yaml.safe_load(text)).proxy == Values().proxy
