"""The verdict about a pod, and its reasons."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from injector.core.model import Object, Owner
from meshgraft.audit.judge import judge_namespace, needs_template, who_meshed
from meshgraft.audit.misses import is_near_inject
from meshgraft.audit.model import Finding, Kind, Selectors, Webhook, Where, moment, webhook_of
from tests.audit.support import (
    ENABLED,
    WEBHOOK,
    finding,
    injected,
    judged,
    mesh,
    pod,
    where,
)
from vocabulary.annotations import ANNOTATIONS, INJECT

ISTIO = {"name": "istio-proxy", "image": "gcr.io/istio-release/proxyv2:1"}
NOWHERE = where({})


def codes(found: Finding | None) -> list[str]:
    return [reason.code for reason in found.reasons] if found else []


@pytest.mark.parametrize(
    ("obj", "place", "more", "expected"),
    [
        pytest.param(pod(), NOWHERE, {}, [], id="nobody asked"),
        pytest.param(pod({INJECT: "disabled"}), where(), {}, [], id="somebody declined"),
        pytest.param(
            pod({"kubernetes.io/config.mirror": "x"}), where(), {}, [], id="mirror of a static pod"
        ),
        pytest.param(pod(), where(), {}, ["webhook-was-away"], id="the webhook was away"),
        pytest.param(
            pod(created="2025-01-01T00:00:00Z"),
            where(),
            {},
            ["older-than-webhook"],
            id="older than the webhook",
        ),
        pytest.param(
            pod(),
            where(annotated_at=moment("2026-07-01T00:00:00Z")),
            {},
            ["older-than-annotation"],
            id="older than the namespace's annotation",
        ),
        pytest.param(
            pod(ENABLED),
            where({}, annotated_at=moment("2026-07-01T00:00:00Z")),
            {},
            ["webhook-was-away"],
            id="its own annotation is as old as it is",
        ),
        pytest.param(pod(), where(), {"mesh": mesh(None)}, ["no-webhook"], id="no webhook"),
        pytest.param(
            pod(spec={"hostNetwork": True}), where(), {}, ["host-network-enabled"], id="hostNetwork"
        ),
        pytest.param(
            pod(spec={"os": {"name": "windows"}}), where(), {}, ["windows-pod"], id="Windows"
        ),
        pytest.param(
            pod(spec={"containers": [{"name": "app"}, ISTIO]}),
            where(),
            {},
            ["sidecar-already-exists"],
            id="another sidecar",
        ),
        pytest.param(
            pod(spec={"automountServiceAccountToken": False}),
            where(),
            {"mesh": mesh(identity={"serviceAccountTokenProjection": False})},
            ["disabled-automount-service-account-token-account"],
            id="automount off",
        ),
        pytest.param(
            pod({INJECT: "true"}),
            where(),
            {},
            ["invalid-inject-annotation-at-workload"],
            id="bad value",
        ),
        pytest.param(
            pod(),
            where({INJECT: "yes"}),
            {},
            ["invalid-inject-annotation-at-ns"],
            id="bad value at the namespace",
        ),
        pytest.param(
            pod(labels=ENABLED), NOWHERE, {}, ["label-instead-of-annotation"], id="label on the pod"
        ),
        pytest.param(
            pod(),
            where({}, ENABLED),
            {},
            ["label-instead-of-annotation"],
            id="label on the namespace",
        ),
        pytest.param(
            pod({"linkerd.io/injekt": "enabled"}), NOWHERE, {}, ["mistyped-key"], id="mistyped key"
        ),
        pytest.param(
            pod({"linkerd.io/injekt": "disabled"}), NOWHERE, {}, [], id="mistyped, but declined"
        ),
        pytest.param(
            pod(),
            NOWHERE,
            {"workload": ENABLED},
            ["annotation-on-workload"],
            id="on the Deployment",
        ),
        pytest.param(
            pod(),
            where(labels={"config.linkerd.io/admission-webhooks": "disabled"}),
            {},
            ["excluded-by-label"],
            id="namespace excluded",
        ),
        pytest.param(
            pod(labels={"linkerd.io/control-plane-component": "x"}),
            where(),
            {},
            ["excluded-by-label"],
            id="pod excluded",
        ),
        pytest.param(
            pod(spec={"containers": [{"name": "envoy-proxy"}]}),
            where(),
            {},
            ["left-alone"],
            id="the proxy's name is taken",
        ),
        pytest.param(
            pod(spec={"hostNetwork": True, "containers": [{"name": "app"}, ISTIO]}),
            where(),
            {},
            ["host-network-enabled", "sidecar-already-exists"],
            id="all reasons are told",
        ),
    ],
)
def test_why_a_pod_without_a_proxy_has_none(
    obj: Object, place: Where, more: dict[str, Any], expected: list[str]
) -> None:
    found = finding(obj, place, **more)
    assert codes(found) == expected
    if found:
        assert found.kind is Kind.NOT_MESHED
        assert all(reason.fix.endswith(".") for reason in found.reasons)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (where(labels={"config.linkerd.io/admission-webhooks": "disabled"}), '"disabled"'),
        (where({INJECT: "yes"}), "linkerd.io/inject: yes"),
    ],
)
def test_reasons_name_the_value_at_fault(place: Where, text: str) -> None:
    found = finding(pod(), place)
    assert found
    assert text in found.reasons[0].text
    assert not found.restart_helps


def test_the_deployment_is_named_where_its_annotation_has_no_effect() -> None:
    found = finding(pod(), NOWHERE, workload=ENABLED)
    assert found
    assert found.reasons[0].text == (
        '"linkerd.io/inject: enabled" is on the Deployment, not on its pod template'
    )
    assert "deployment/web" in found.reasons[0].fix


def test_where_the_webhook_may_not_be_looked_at_it_is_not_called_absent() -> None:
    unknown = dataclasses.replace(mesh(None), webhook_known=False)
    assert codes(finding(pod(), mesh=unknown)) == ["webhook-was-away"]


BY_LABEL = Webhook(
    selectors=(
        Selectors(
            {"matchExpressions": [{"key": INJECT, "operator": "In", "values": ["enabled"]}]}, {}
        ),
        Selectors(
            {"matchExpressions": [{"key": INJECT, "operator": "NotIn", "values": ["enabled"]}]},
            {"matchExpressions": [{"key": INJECT, "operator": "In", "values": ["enabled"]}]},
        ),
    )
)


@pytest.mark.parametrize(
    ("labels", "place", "is_sent"),
    [({}, {}, False), (ENABLED, {}, True), ({}, ENABLED, True), ({INJECT: "no"}, {}, False)],
)
def test_with_two_webhooks_one_that_takes_the_pod_is_enough(
    labels: dict[str, str], place: dict[str, str], is_sent: bool
) -> None:
    assert (BY_LABEL.excludes(where({}, place).namespace, labels) is None) is is_sent


def test_with_opt_in_by_label_an_annotation_without_it_was_forgotten() -> None:
    by_label = dataclasses.replace(mesh(), webhook=BY_LABEL)
    assert by_label.by_label
    found = finding(pod(), where(), mesh=by_label)
    assert codes(found) == ["excluded-by-label"]
    assert found
    assert "linkerd.io/inject=enabled" in found.reasons[0].fix
    assert codes(finding(pod(labels=ENABLED), where({}), mesh=by_label)) == []


def test_a_registration_without_webhooks_excludes_everything() -> None:
    none = dataclasses.replace(WEBHOOK, selectors=())
    assert codes(finding(pod(), mesh=mesh(none))) == ["excluded-by-label"]


# Pods that have a proxy


@pytest.mark.parametrize("profile", ["envoy", "linkerd", "node"])
@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"cniEnabled": True},
        {"proxy": {"nativeSidecar": False}},
        {"proxy": {"nativeSidecar": False, "await": False}},
        {"proxy": {"resources": {"cpu": {"limit": "1000m"}, "memory": {"limit": "1024Mi"}}}},
        {"proxy": {"tracing": {"enabled": True, "collector": {"endpoint": "otel.x:4317"}}}},
        {"enableDebugSidecar": True},
    ],
    ids=str,
)
def test_a_pod_that_is_as_it_should_be_is_no_finding(profile: str, tree: dict[str, Any]) -> None:
    tree = {**tree, "meshgraft": {"profile": profile}}
    place = where({**ENABLED, "config.linkerd.io/proxy-log-level": "debug"})
    app = {"name": "app", "image": "app", "ports": [{"containerPort": 3306}]}
    live = injected(pod(spec={"containers": [app]}), place, **tree)
    found = judged(live, place, mesh=mesh(**tree), template={})
    assert found.meshed_by == "webhook"
    if profile != "node":  # which takes no log level, and says so
        assert found.finding is None
    assert Kind.DIFFERS not in (found.finding.kind if found.finding else "",)


@pytest.mark.parametrize(
    ("place", "template", "expected"),
    [
        pytest.param(NOWHERE, {}, ["injection-enable-annotation-absent"], id="no longer asked for"),
        pytest.param(NOWHERE, ENABLED, [], id="its own template asks"),
        pytest.param(NOWHERE, None, [], id="the template is not known"),
        pytest.param(
            where(labels={"config.linkerd.io/admission-webhooks": "disabled"}),
            {},
            ["excluded-by-label"],
            id="its namespace is excluded now",
        ),
    ],
)
def test_why_a_pod_with_a_proxy_should_have_none(
    place: Where, template: dict[str, str] | None, expected: list[str]
) -> None:
    found = finding(injected(pod()), place, template=template)
    assert codes(found) == expected
    if found:
        assert found.kind is Kind.MESHED
        assert found.restart_helps


def test_what_a_namespace_no_longer_hands_down_makes_a_difference() -> None:
    live = injected(pod(), where({**ENABLED, "config.linkerd.io/inbound-port": "5143"}))
    assert needs_template(live, where())
    found = finding(live, where(), template={})
    assert found
    assert found.kind is Kind.DIFFERS
    assert "annotation config.linkerd.io/inbound-port: 5143 → (none)" in [
        reason.text for reason in found.reasons
    ]
    assert finding(live, where(), template={"config.linkerd.io/inbound-port": "5143"}) is None


def test_a_template_is_asked_for_only_where_it_makes_a_difference() -> None:
    assert not needs_template(injected(pod()), where())
    assert not needs_template(pod(ENABLED), NOWHERE)


@pytest.mark.parametrize(
    ("annotations", "workload", "text"),
    [
        ({"config.linkerd.io/skip-inbound-port": "25"}, {}, 'did you mean "config.linkerd.io/skip'),
        ({"config.linkerd.io/proxy-log-level": "x" * 200_000}, {}, "is not used"),
        ({"config.linkerd.io/inbound-port": "many"}, {}, "'many' on the pod is not used"),
        ({}, {"config.linkerd.io/proxy-uid": "7"}, "is on the Deployment, not on its pod template"),
    ],
    ids=["mistyped", "too long", "no port", "on the Deployment"],
)
def test_what_has_no_effect_is_told(
    annotations: dict[str, str], workload: dict[str, str], text: str
) -> None:
    found = finding(injected(pod(annotations)), template=annotations, workload=workload)
    assert found
    assert found.kind is Kind.NOT_USED
    assert text in found.reasons[0].text
    assert not found.restart_helps


@pytest.mark.parametrize("created_by", ["linkerd/proxy-injector stable", "meshgraft/cli 1.2.3", ""])
def test_a_proxy_that_others_made_is_not_judged(created_by: str) -> None:
    live = injected(pod(), meshgraft={"profile": "linkerd"})
    live["metadata"]["annotations"]["linkerd.io/created-by"] = created_by
    assert who_meshed(live) in ("another", "command")
    assert finding(live, NOWHERE) is None


@pytest.mark.parametrize(
    ("annotations", "count"),
    [
        ({}, 0),
        (ENABLED, 0),
        ({"config.linkerd.io/skip-inbound-prots": "25"}, 1),
        ({INJECT: "on"}, 1),
    ],
)
def test_what_has_no_effect_on_a_namespace_is_told_once(
    annotations: dict[str, str], count: int
) -> None:
    assert len(judge_namespace(where(annotations))) == count
    found = finding(pod(spec={"hostNetwork": True}), where({**ENABLED, **annotations}))
    assert found


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("linkerd.io/injekt", True),
        ("linkred.io/inject", True),
        ("Linkerd.io/Inject", True),
        ("config.linkerd.io/inject", True),
        ("linkerd.io/injection", True),
        ("sidecar.istio.io/inject", False),
        ("vault.hashicorp.com/agent-inject", False),
        ("linkerd.io/created-by", False),
        ("app.kubernetes.io/name", False),
    ],
)
def test_which_keys_look_like_inject(key: str, expected: bool) -> None:
    assert is_near_inject(key) is expected


def test_no_known_key_looks_like_a_misspelt_inject() -> None:
    assert [row.key for row in ANNOTATIONS if is_near_inject(row.key)] == [INJECT]


def test_a_bare_pod_is_its_own_owner() -> None:
    found = finding(pod(), owner=Owner("pod", "web-1-x"))
    assert found
    assert found.owner.kind == "pod"


@pytest.mark.parametrize("prefix", ["task-", "t" * 70 + "-"])
def test_a_name_that_the_api_server_made_up_is_no_difference(prefix: str) -> None:
    asked = pod()
    asked["metadata"] |= {"name": "", "generateName": prefix, "ownerReferences": []}
    live = injected(asked, owner=Owner("pod", prefix))
    live["metadata"]["name"] = f"{prefix[:58]}x2v9k"
    assert finding(live, owner=Owner("pod", live["metadata"]["name"])) is None


@pytest.mark.parametrize(
    ("names", "further"),
    [
        ([], False),
        (["not-a-mirror-of-a-static-pod", "not-a-service-that-names-its-opaque-ports"], False),
        (["not-a-mirror-of-a-static-pod", "only-on-fridays"], True),
    ],
)
def test_the_charts_own_match_conditions_keep_no_pod_away(names: list[str], further: bool) -> None:
    conditions = [{"name": name, "expression": "true"} for name in names]
    registered = webhook_of({"webhooks": [{"matchConditions": conditions}]})
    assert registered.has_conditions is further
