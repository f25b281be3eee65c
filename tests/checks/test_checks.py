"""Each check over snapshots of clusters that are well except for one thing."""

from __future__ import annotations

import base64
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certificates.x509 import issue_authority, issue_serving
from injector.core.model import Object
from kubeapi.client import ApiServerError
from meshgraft.checks.catalog import CATEGORIES
from meshgraft.checks.model import Access, Options
from meshgraft.checks.run import selected
from tests.audit.support import ENABLED, injected, pod
from tests.checks.support import Change, cni, faults, find, gone, replica, results, snapshot
from tests.commands.cluster_support import config_map, installation, namespace, thing
from vocabulary.version import __version__

NOW = datetime.now(UTC)


def scaled(replicas: int, policy: str = "Ignore", **status: int) -> Change:
    def change(objects: list[Object]) -> None:
        deployment = find(objects, "Deployment")
        deployment["spec"]["replicas"] = replicas
        deployment["status"] |= {
            "readyReplicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": replicas,
            **status,
        }
        find(objects, "MutatingWebhookConfiguration")["webhooks"][0]["failurePolicy"] = policy

    return change


def webhook(**parts: Any) -> Change:
    def change(objects: list[Object]) -> None:
        find(objects, "MutatingWebhookConfiguration")["webhooks"][0].update(parts)

    return change


def client(**parts: Any) -> Change:
    def change(objects: list[Object]) -> None:
        configuration = find(objects, "MutatingWebhookConfiguration")
        configuration["webhooks"][0]["clientConfig"].update(parts)

    return change


def certificate(sans: list[str], issued: datetime, *, bundled: bool = True) -> Change:
    """The webhook shows another certificate; ``bundled`` with its CA in the caBundle."""

    def change(objects: list[Object]) -> None:
        authority = issue_authority(issued)
        pair = issue_serving(authority, sans, issued)
        find(objects, "Secret")["data"]["tls.crt"] = _base64(pair.certificate)
        if bundled:
            client(caBundle=_base64(authority.pem))(objects)

    return change


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def secret(text: str) -> Change:
    return lambda objects: find(objects, "Secret")["data"].update({"tls.crt": text})


def settings(text: str) -> Change:
    return lambda objects: find(objects, "ConfigMap")["data"].update({"values": text})


def imaged(tag: str) -> Change:
    def change(objects: list[Object]) -> None:
        spec = find(objects, "Deployment")["spec"]["template"]["spec"]
        spec["containers"][0]["image"] = f"meshgraft/meshgraft:{tag}"

    return change


def no_webhooks(objects: list[Object]) -> None:
    find(objects, "MutatingWebhookConfiguration")["webhooks"] = []


def two_webhooks(objects: list[Object]) -> None:
    configuration = find(objects, "MutatingWebhookConfiguration")
    configuration["webhooks"] *= 2


SANS = ["meshgraft-injector.meshgraft.svc"]
CERT_VALID = "l5d-proxy-injector-webhook-cert-valid"
EXPIRING = "l5d-proxy-injector-webhook-cert-not-expiring-soon"


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        (gone("ClusterRole"), "l5d-existence-cr", "missing ClusterRoles: meshgraft-injector"),
        (gone("ClusterRoleBinding"), "l5d-existence-crb", "missing ClusterRoleBindings"),
        (gone("ServiceAccount"), "l5d-existence-sa", "missing ServiceAccounts"),
        (gone("Service"), "meshgraft-existence-svc", "missing Services"),
        (
            gone("MutatingWebhookConfiguration"),
            "l5d-existence-mwc",
            "missing MutatingWebhookConfigurations: meshgraft-injector-webhook-config",
        ),
        (
            gone("ConfigMap"),
            "l5d-existence-linkerd-config",
            'configmaps "meshgraft-injector-config" not found',
        ),
        (settings("{"), "meshgraft-config-usable", "neither YAML nor JSON"),
        (settings("proxy: {uid: 0}"), "meshgraft-config-usable", "proxy.uid"),
        (
            settings("proxy: {inboundConnectTimeout: soon}"),
            "meshgraft-config-usable",
            "expected",
        ),
        (gone("Deployment"), "l5d-existence-replicasets", "missing Deployments"),
        (scaled(1, readyReplicas=0), "l5d-api-control-ready", "number ready: 0, number wanted: 1"),
        (scaled(1, updatedReplicas=0), "l5d-api-control-ready", "number ready: 1"),
        (scaled(0), "l5d-api-control-ready", "scaled down to 0 replicas"),
        (imaged("9.9.9"), "l5d-version-control", f"version 9.9.9, and this command {__version__}"),
        (no_webhooks, "meshgraft-webhook-count", "expected 1 webhooks, found 0"),
        (two_webhooks, "meshgraft-webhook-count", "expected 1 webhooks, found 2"),
        (
            client(service={"name": "other", "namespace": "meshgraft"}),
            "meshgraft-webhook-service",
            "injector.meshgraft.io calls meshgraft/other, not Service meshgraft/meshgraft-injector",
        ),
        (client(caBundle=""), "meshgraft-webhook-ca-bundle", "caBundle of injector"),
        (
            scaled(1, "Fail"),
            "meshgraft-webhook-failure-policy",
            "failurePolicy is Fail with 1 replica",
        ),
        (gone("Secret"), CERT_VALID, 'secrets "meshgraft-injector-tls" not found'),
        (secret(""), CERT_VALID, "tls.crt holds no certificate"),
        (secret("%"), CERT_VALID, "tls.crt holds no certificate"),
        (client(caBundle="AAAA"), CERT_VALID, "caBundle of mutatingwebhookconfigurations"),
        (certificate(["other.svc"], NOW), CERT_VALID, "its names: other.svc"),
        (certificate(SANS, NOW, bundled=False), CERT_VALID, "cert is not issued by the trust"),
        (certificate(SANS, NOW - timedelta(days=80)), EXPIRING, "certificate will expire on"),
    ],
)
def test_one_fault_is_one_finding(change: Change, expected: str, text: str) -> None:
    found = faults(change)
    assert list(found) == [expected]
    assert text in found[expected].problem


def test_an_installation_that_is_well_has_no_fault() -> None:
    assert faults() == {}


def test_an_expired_certificate_is_two() -> None:
    assert list(faults(certificate(SANS, NOW - timedelta(days=95)))) == [CERT_VALID, EXPIRING]


def test_a_young_certificate_of_a_few_days_is_not_called_old() -> None:
    """A fifth of its own life counts, not a number of days."""

    def change(objects: list[Object]) -> None:
        authority = issue_authority(NOW)
        pair = issue_serving(authority, SANS, NOW, lifetime=timedelta(days=7))
        find(objects, "Secret")["data"]["tls.crt"] = _base64(pair.certificate)
        client(caBundle=_base64(authority.pem))(objects)

    assert faults(change) == {}


def test_during_a_rotation_both_authorities_are_trusted() -> None:
    def change(objects: list[Object]) -> None:
        old = find(objects, "MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]
        bundle = base64.b64decode(old["caBundle"]) + issue_authority(NOW).pem
        client(caBundle=_base64(bundle))(objects)

    assert faults(change) == {}


def test_a_webhook_that_takes_everything_would_keep_the_cluster_from_starting() -> None:
    found = faults(webhook(namespaceSelector={}))
    assert list(found) == ["meshgraft-webhook-kube-system", "meshgraft-webhook-itself"]


def test_the_injector_may_be_spared_by_its_own_labels() -> None:
    component = {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["injector"]}
    change = webhook(namespaceSelector={}, objectSelector={"matchExpressions": [component]})
    found = faults(change, objects=[*installation(), replica("a")])
    assert list(found) == ["meshgraft-webhook-kube-system"]


def test_opt_in_by_label_takes_two_webhooks() -> None:
    def change(objects: list[Object]) -> None:
        two_webhooks(objects)
        first, second = map(
            copy.deepcopy, find(objects, "MutatingWebhookConfiguration")["webhooks"]
        )
        for each, operator in ((first, "In"), (second, "NotIn")):
            each["namespaceSelector"]["matchExpressions"].append(
                {"key": "linkerd.io/inject", "operator": operator, "values": ["enabled"]}
            )
        find(objects, "MutatingWebhookConfiguration")["webhooks"] = [first, second]

    assert faults(change) == {}


def test_what_replicas_wait_for_is_told_in_the_kubelets_words() -> None:
    waiting = {"name": "injector", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes available"}
    replicas = [
        replica("a", containerStatuses=[waiting]),
        replica("b", conditions=[unscheduled]),
    ]
    found = faults(scaled(1, readyReplicas=0), objects=[*installation(), *replicas])
    assert "a: injector: ImagePullBackOff" in found["l5d-api-control-ready"].problem
    assert found["l5d-existence-unschedulable-pods"].problem == "b: 0/3 nodes available"
    assert all(result.check.retriable for result in found.values())


@pytest.mark.parametrize(
    ("change", "replicas", "expected"),
    [
        (scaled(3, "Fail"), ["n1", "n2", "n3"], {"meshgraft-ha-budget"}),
        (scaled(3, "Fail"), ["n1", "n1", "n1"], {"meshgraft-ha-budget", "meshgraft-ha-spread"}),
        (
            scaled(3, "Fail", availableReplicas=1),
            ["n1", "n2"],
            {"meshgraft-ha-budget", "l5d-control-plane-replicas"},
        ),
        (scaled(3), ["n1", "n2"], {"meshgraft-ha-budget", "meshgraft-webhook-failure-policy"}),
        (scaled(1), ["n1"], set()),
    ],
)
def test_high_availability_is_looked_at_where_there_are_several_replicas(
    change: Change, replicas: list[str], expected: set[str]
) -> None:
    pods = [replica(f"p{number}", node) for number, node in enumerate(replicas)]
    assert set(faults(change, objects=[*installation(), *pods])) == expected
    budget = thing("PodDisruptionBudget", "meshgraft-injector", "meshgraft")
    found = faults(change, objects=[*installation(), *pods, budget])
    assert set(found) == expected - {"meshgraft-ha-budget"}


# CNI


@pytest.mark.parametrize("options", [Options(cni=True), Options(cni=True, pre=True)])
def test_a_cni_plugin_that_is_well(options: Options) -> None:
    objects = cni() if options.pre else [*installation(), *cni()]
    found = results(snapshot(objects, options))
    ready = [name for name in found if name.startswith("cni-plugin")]
    assert len(ready) == 6
    assert all(found[name].status == "success" for name in ready)


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        (
            gone("ConfigMap", "linkerd-cni-config"),
            "cni-plugin-cm-exists",
            'configmaps "linkerd-cni-config" not found',
        ),
        (gone("ClusterRole"), "cni-plugin-cr-exists", "missing ClusterRole: linkerd-cni"),
        (gone("ClusterRoleBinding"), "cni-plugin-crb-exists", "missing ClusterRoleBinding"),
        (gone("ServiceAccount"), "cni-plugin-sa-exists", "missing ServiceAccount"),
        (gone("DaemonSet"), "cni-plugin-ds-exists", "missing DaemonSet: linkerd-cni"),
        (
            lambda objects: find(objects, "DaemonSet")["status"].update({"numberReady": 0}),
            "cni-plugin-ready",
            "number ready: 0, number scheduled: 1",
        ),
    ],
)
def test_what_lacks_of_a_cni_plugin_is_named(change: Change, expected: str, text: str) -> None:
    found = faults(change, Options(cni=True, pre=True), objects=cni())
    assert list(found) == [expected]
    assert text in found[expected].problem


def test_the_plugin_is_looked_at_where_the_settings_use_it() -> None:
    found = faults(settings("cniEnabled: true"))
    assert len([name for name in found if name.startswith("cni-plugin")]) == 5


# Before an installation


@pytest.mark.parametrize(
    ("version", "is_well"),
    [("v1.36.0", True), ("v1.29.0-gke.1", True), ("v1.28.9+k3s1", False), ("nonsense", False)],
)
def test_an_old_cluster_is_told(version: str, is_well: bool) -> None:
    found = faults(version={"gitVersion": version})
    assert ("k8s-version" not in found) is is_well


def test_rights_that_lack_are_named() -> None:
    options = Options(pre=True, cni=True)
    categories = selected(CATEGORIES, options)
    access = {one: False for each in categories for one in each.access(options)}
    found = faults(options=options, objects=cni(), access=access)
    assert "namespaces, clusterroles.rbac" in found["pre-k8s-cluster-k8s"].problem
    assert len([name for name in found if name.startswith("pre-k8s-create-")]) == 9
    error: dict[Access, Any] = dict.fromkeys(access, ApiServerError("no answer"))
    found = faults(options=options, objects=cni(), access=error)
    assert found["pre-k8s-create-secrets"].problem == "could not be checked: no answer"


def test_a_namespace_that_is_there_is_told() -> None:
    found = faults(options=Options(pre=True), objects=[namespace("meshgraft")])
    assert found["pre-ns"].problem == 'The "meshgraft" namespace already exists'


@pytest.mark.parametrize(
    ("minutes", "text"), [(0, None), (-4, None), (-20, "no node has reported"), (9, "are ahead of")]
)
def test_clocks_that_differ_are_a_warning(minutes: int, text: str | None) -> None:
    beat = (NOW + timedelta(minutes=minutes)).isoformat()
    ready = {"conditions": [{"type": "Ready", "lastHeartbeatTime": beat}]}
    nodes = [{**thing("Node", "n1"), "status": ready}, thing("Node", "n2")]
    found = faults(options=Options(pre=True), objects=nodes)
    if text is None:
        assert found == {}
    else:
        assert text in found["pre-k8s-clock-skew"].problem
        assert found["pre-k8s-clock-skew"].status == "warning"


# Meshed pods


def proxied(name: str, **more: Any) -> Object:
    """A meshed pod of namespace shop, ready unless said otherwise."""
    profile = more.pop("profile", "envoy")
    obj = injected(pod(), meshgraft={"profile": profile}, **more.pop("settings", {}))
    obj["metadata"]["name"] = name
    proxy = "envoy-proxy" if profile == "envoy" else "linkerd-proxy"
    statuses = [{"name": proxy, "ready": more.pop("ready", True)}]
    obj["status"] = {"phase": "Running", "initContainerStatuses": statuses, **more}
    return obj


def labelled(key: str) -> Object:
    obj = proxied("b")
    obj["metadata"]["labels"][key] = "enabled"
    return obj


def of_version(version: str) -> Object:
    obj = proxied("b")
    obj["metadata"]["annotations"]["linkerd.io/created-by"] = f"meshgraft/injector {version}"
    return obj


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([proxied("a")], {}),
        ([], {"meshgraft-data-plane-proxies": 'no proxies found in namespace "shop"'}),
        (
            [proxied("a"), proxied("b", ready=False)],
            {"l5d-data-plane-ready": "Some data plane pods are not ready:\n\t* shop/b"},
        ),
        (
            [proxied("a"), {**proxied("b"), "status": {"phase": "Pending"}}],
            {"l5d-data-plane-ready": "Some data plane pods are not ready:\n\t* shop/b"},
        ),
        ([proxied("a"), proxied("b", ready=False, phase="Succeeded")], {}),
        (
            [proxied("a"), of_version("0.0.1")],
            {
                "l5d-data-plane-version": "\t* shop/b (0.0.1)",
                "l5d-data-plane-cli-version": "\t* shop/b (0.0.1)",
            },
        ),
        (
            [labelled("linkerd.io/inject")],
            {"l5d-data-plane-pod-labels": "\t* shop/b\n\t\tlinkerd.io/inject"},
        ),
        (
            [labelled("config.linkerd.io/proxy-uid")],
            {"l5d-data-plane-pod-labels": "\t\tconfig.linkerd.io/proxy-uid"},
        ),
        ([labelled("config.linkerd.io/admission-webhooks")], {}),
        (
            [proxied("a"), pod(labels=ENABLED)],
            {"l5d-data-plane-pod-labels": "\t* shop/web-1-x\n\t\tlinkerd.io/inject"},
        ),
    ],
)
def test_meshed_pods(pods: list[Object], expected: dict[str, str]) -> None:
    objects = [*installation(), namespace("shop"), *pods]
    found = faults(options=Options(proxy=True, namespace="shop"), objects=objects)
    assert found.keys() == expected.keys()
    for name, text in expected.items():
        assert text in found[name].problem


def test_a_namespace_without_proxies_that_is_not_there_is_told_as_such() -> None:
    found = faults(options=Options(proxy=True, namespace="nowhere"))
    assert list(found) == ["l5d-data-plane-exists"]


def test_of_many_pods_a_few_are_named() -> None:
    pods = [proxied(f"p{number:02}", ready=False) for number in range(30)]
    found = faults(options=Options(proxy=True), objects=[*installation(), *pods])
    lines = found["l5d-data-plane-ready"].problem.splitlines()
    assert (len(lines), lines[-1]) == (22, "\t* and 10 more")


# Profile linkerd

ANCHORS = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
OTHERS = ANCHORS.replace("AAAA", "BBBB")


def linkerd(anchors: str, theirs: str | None) -> list[Object]:
    objects = [one for one in installation() if one["kind"] != "ConfigMap"]
    objects.append(config_map("linkerd", identityTrustAnchorsPEM=anchors, linkerdVersion="v1"))
    if theirs is not None:
        name = "linkerd-identity-trust-roots"
        objects.append(thing("ConfigMap", name, "linkerd", data={"ca-bundle.crt": theirs}))
    return objects


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (ANCHORS, ANCHORS, None),
        (ANCHORS, f"\n{ANCHORS}\n", None),
        (ANCHORS + OTHERS, OTHERS + ANCHORS, None),
        (ANCHORS, OTHERS, "is not ca-bundle.crt of"),
        (ANCHORS, ANCHORS + OTHERS, "is not ca-bundle.crt of"),
        ("", ANCHORS, "of the settings is empty"),
        (ANCHORS, None, 'configmaps "linkerd-identity-trust-roots" not found in namespace linkerd'),
    ],
)
def test_trust_anchors_are_those_of_linkerd(
    ours: str, theirs: str | None, text: str | None
) -> None:
    found = faults(objects=linkerd(ours, theirs))
    if text is None:
        assert found == {}
    else:
        assert text in found["meshgraft-identity-trust-anchors"].problem


def test_proxies_with_former_anchors_are_named() -> None:
    pods = [
        proxied("a", profile="linkerd", settings={"identityTrustAnchorsPEM": ANCHORS}),
        proxied("b", profile="linkerd", settings={"identityTrustAnchorsPEM": OTHERS}),
    ]
    found = faults(options=Options(proxy=True), objects=[*linkerd(ANCHORS, ANCHORS), *pods])
    assert found["l5d-identity-data-plane-proxies-certs-match-ca"].problem == (
        "Some pods do not have the current trust bundle and must be restarted:\n\t* shop/b"
    )


# Not allowed to look


@pytest.mark.parametrize(
    "plural",
    [
        "clusterroles",
        "configmaps",
        "deployments",
        "mutatingwebhookconfigurations",
        "namespaces",
        "pods",
        "secrets",
    ],
)
def test_what_may_not_be_looked_at_is_neither_well_nor_absent(plural: str) -> None:
    found = faults(
        options=Options(proxy=True), objects=[*installation(), proxied("a")], denied=plural
    )
    assert found
    for result in found.values():
        assert result.problem == f"could not be checked: not allowed to get {plural}"


def _node(name: str, **labels: str) -> Object:
    return thing("Node", name, meta={"labels": labels})


def _agent(node: str) -> Object:
    labels = {"k8s-app": "linkerd-cni"}
    return thing(
        "Pod", f"agent-{node}", "linkerd-cni", meta={"labels": labels}, spec={"nodeName": node}
    )


def test_nodes_are_counted_against_agents() -> None:
    nodes = [
        *(_node(name) for name in ("n1", "n2", "n3")),
        _node("w", **{"kubernetes.io/os": "windows"}),
        _node("v", type="virtual-kubelet"),
    ]
    objects = [*installation(), *cni(), *nodes, _agent("n1")]
    found = faults(options=Options(cni=True), objects=objects)
    assert found["meshgraft-cni-nodes"].problem == "no agent on 2 of 3 nodes: n2, n3"
    everywhere = [*objects, _agent("n2"), _agent("n3")]
    assert "meshgraft-cni-nodes" not in faults(options=Options(cni=True), objects=everywhere)


def test_a_plugin_that_is_there_and_not_used_is_told() -> None:
    found = faults(objects=[*installation(), *cni()])
    assert "NET_ADMIN" in found["meshgraft-cni-used"].problem
    used = [one for one in installation() if one["kind"] != "ConfigMap"]
    used.append(config_map(cniEnabled=True))
    assert "meshgraft-cni-used" not in faults(objects=[*used, *cni()])
    assert "meshgraft-cni-used" not in faults()


def test_a_namespace_that_the_webhook_is_not_asked_about_is_not_tried() -> None:
    objects = [one for one in installation() if one["metadata"]["name"] != "default"]
    objects.append(
        namespace("default", None, **{"config.linkerd.io/admission-webhooks": "disabled"})
    )
    assert "meshgraft-webhook-works" not in results(snapshot(objects))
    assert "meshgraft-webhook-works" in results(snapshot(installation()))


@pytest.mark.parametrize(
    ("ago", "told"), [(timedelta(hours=1), True), (timedelta(days=2), False), (None, False)]
)
def test_that_the_injector_was_away_is_told_for_a_day(ago: timedelta | None, told: bool) -> None:
    until = NOW - (ago or timedelta())
    since = until - timedelta(minutes=5)
    noted = {"meshgraft.io/was-away": f"{since.isoformat()}/{until.isoformat()}"}
    lease = thing(
        "Lease",
        "meshgraft-injector-certificates",
        "meshgraft",
        meta={"annotations": noted if ago else {}},
    )
    found = faults(objects=[*installation(), lease])
    assert ("meshgraft-injector-away" in found) == told
    if told:
        assert "no injector ran for 300 s" in found["meshgraft-injector-away"].problem
