"""The whole flow, on what a real API server sent."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest

from injector.core.diff import diff
from injector.core.model import Namespace, Object, Owner
from injector.core.skips import SkipReason
from tests.injector.support import (
    COMMAND,
    INJECTED_PODS,
    PODS,
    REVIEWS,
    WEBHOOK,
    container,
    env,
    inject,
    meshed,
    names,
    pod,
    recorded,
    settings,
)
from vocabulary.annotations import INJECT, OPAQUE_PORTS

R = SkipReason
SKIPPED_PODS = {
    "pod-legacy-plain": (R.ENABLE_ABSENT,),
    "pod-shop-already-meshed": (R.SIDECAR_EXISTS,),
    "pod-shop-bad-values": (R.INVALID_AT_WORKLOAD,),
    "pod-shop-istio-meshed": (R.SIDECAR_EXISTS,),
    "pod-shop-logs": (R.DISABLED,),
    "pod-shop-node-agent": (R.HOST_NETWORK,),
}
SETTINGS = [
    {"cniEnabled": cni, "proxy": {"nativeSidecar": native, "await": wait}}
    for cni in (False, True)
    for native, wait in ((True, True), (False, True), (False, False))
]


def notes(obj: Object) -> dict[str, str]:
    found: dict[str, str] = obj["metadata"].get("annotations", {})
    return found


def test_every_recorded_pod_is_accounted_for() -> None:
    assert {*INJECTED_PODS, *SKIPPED_PODS} == set(PODS)


@pytest.mark.parametrize("name", INJECTED_PODS)
@pytest.mark.parametrize("tree", SETTINGS, ids=json.dumps)
def test_an_injected_pod_is_valid_and_its_patch_applies(name: str, tree: dict[str, Any]) -> None:
    given, where, whose = recorded(name)
    outcome = inject(given, where, settings(**tree), whose=whose)
    assert outcome.injected
    assert outcome.reasons == ()
    kubernetes_validate.validate(
        copy.deepcopy(outcome.patched), kubernetes_validate.latest_version(), strict=False
    )
    operations = json.loads(json.dumps(diff(given, outcome.patched)))
    assert jsonpatch.apply_patch(given, operations) == outcome.patched


@pytest.mark.parametrize("name", INJECTED_PODS)
@pytest.mark.parametrize("tree", SETTINGS, ids=json.dumps)
def test_a_second_pass_changes_nothing_and_says_nothing(name: str, tree: dict[str, Any]) -> None:
    given, where, whose = recorded(name)
    first = inject(given, where, settings(**tree), whose=whose).patched
    second = inject(first, where, settings(**tree), whose=whose)
    assert second.patched is first
    assert (second.injected, second.events, second.warnings) == (False, (), ())
    assert R.SIDECAR_EXISTS in second.reasons


@pytest.mark.parametrize("name", REVIEWS)
def test_the_proxys_names_are_there_once(name: str) -> None:
    given, where, whose = recorded(name)
    spec = inject(given, where, settings(enableDebugSidecar=True), whose=whose).patched["spec"]
    every = names(spec.get("initContainers")) + names(spec.get("containers"))
    assert len(every) == len(set(every))
    assert len(names(spec.get("volumes"))) == len(set(names(spec.get("volumes"))))


@pytest.mark.parametrize(("name", "reasons"), SKIPPED_PODS.items())
def test_a_skipped_pod_gets_no_container_and_an_event(
    name: str, reasons: tuple[SkipReason, ...]
) -> None:
    given, where, whose = recorded(name)
    outcome = inject(given, where, whose=whose)
    assert (outcome.injected, outcome.reasons) == (False, reasons)
    assert outcome.patched["spec"] is given["spec"]
    (event,) = outcome.events
    assert event.reason == "InjectionSkipped"
    texts = ", ".join(reason.text for reason in reasons)
    assert event.message == f"Linkerd sidecar proxy injection skipped: {texts}"


def test_an_injected_pod_gives_linkerds_event() -> None:
    outcome = inject(pod())
    (event,) = outcome.events
    assert (event.reason, event.message) == ("Injected", "Linkerd sidecar proxy injected")
    assert outcome.annotation_at == "namespace"


def test_what_the_namespace_says_becomes_the_pods_own_text_unchanged() -> None:
    """Linkerd pastes it into a patch unescaped, so that a quote breaks the patch."""
    given, where, whose = recorded("pod-shop-web")
    patched = inject(given, where, whose=whose).patched
    assert notes(patched)["config.linkerd.io/proxy-log-level"] == ('warn,linkerd[name="x"]=trace')
    assert notes(patched)[INJECT] == "enabled"
    assert env(patched)["LINKERD2_PROXY_LOG"].startswith('warn,linkerd[name="x"]=trace,')


def test_the_pods_own_annotation_is_kept() -> None:
    key = "config.linkerd.io/proxy-log-level"
    outcome = inject(pod({key: "debug"}), meshed(**{key: "warn"}))
    assert notes(outcome.patched)[key] == "debug"


def test_ingress_is_inherited() -> None:
    given, where, whose = recorded("pod-edge-gateway")
    patched = inject(given, where, whose=whose).patched
    assert notes(patched)[INJECT] == "ingress"
    assert env(patched)["LINKERD2_PROXY_INGRESS_MODE"] == "true"


def test_the_pods_ports_that_are_opaque_narrow_the_default_down() -> None:
    given, where, whose = recorded("pod-shop-db-0")
    patched = inject(given, where, whose=whose).patched
    assert notes(patched)[OPAQUE_PORTS] == "5432"
    assert env(patched)["LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"] == "5432"


def test_without_opaque_ports_of_its_own_a_pod_keeps_the_whole_default() -> None:
    given, where, whose = recorded("pod-shop-web")
    patched = inject(given, where, whose=whose).patched
    assert OPAQUE_PORTS not in notes(patched)
    found = env(patched)["LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"]
    assert found == settings().proxy.opaque_ports


def test_names_among_opaque_ports_are_resolved_and_unknown_ones_reported() -> None:
    given, where, whose = recorded("pod-shop-api")
    given["metadata"]["annotations"][OPAQUE_PORTS] += "nope"
    outcome = inject(given, where, whose=whose)
    found = env(outcome.patched)["LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"]
    assert found == "3306,6000-6010,3306"
    (warning,) = outcome.warnings
    assert "'nope'" in warning


@pytest.mark.parametrize(
    ("at_pod", "at_namespace", "expected"),
    [
        (None, None, "3306"),
        (None, "1234", "1234"),
        (None, "", None),
        ("5", "1234", "5"),
        ("", None, ""),
    ],
)
@pytest.mark.parametrize("name", ["pod-legacy-plain", "service-legacy-mysql"])
def test_what_is_not_injected_still_says_its_opaque_ports(
    name: str, at_pod: str | None, at_namespace: str | None, expected: str | None
) -> None:
    given, _, _ = recorded(name)
    if at_pod is not None:
        given["metadata"]["annotations"][OPAQUE_PORTS] = at_pod
    where = Namespace("legacy", {} if at_namespace is None else {OPAQUE_PORTS: at_namespace})
    found = notes(inject(given, where).patched).get(OPAQUE_PORTS)
    if name.startswith("service") and expected == "3306":
        expected = "3306,13306"
    assert found == expected


def test_a_service_with_named_targets_only_is_unchanged() -> None:
    given, where, whose = recorded("service-shop-db")
    outcome = inject(given, where, whose=whose)
    assert outcome.patched is given
    assert outcome.reasons == (R.UNSUPPORTED_RESOURCE,)
    assert outcome.events == ()


@pytest.mark.parametrize(
    "given",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "spec": {}},
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": {}},
    ],
)
def test_other_kinds_are_unchanged(given: Object) -> None:
    outcome = inject(given, meshed(**{OPAQUE_PORTS: "25"}))
    assert outcome.reasons == (R.UNSUPPORTED_RESOURCE,)
    assert outcome.patched is given
    assert outcome.events == ()


def test_a_pod_without_a_spec_does_no_harm() -> None:
    given: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    assert inject(given).patched is given


def test_the_mirror_of_a_static_pod_is_unchanged_and_silent() -> None:
    given = pod({"kubernetes.io/config.mirror": "x"})
    outcome = inject(given, meshed(**{OPAQUE_PORTS: "25"}))
    assert outcome.patched is given
    assert outcome.events == ()


def test_bad_values_are_all_named_and_the_pod_is_injected_with_the_defaults() -> None:
    given, where, whose = recorded("pod-shop-bad-values")
    given["metadata"]["annotations"][INJECT] = "enabled"
    outcome = inject(given, where, whose=whose)
    assert outcome.injected
    for key in ("inbound-port", "proxy-additional-env", "proxy-cpu-request",
                "proxy-log-http-headers", "proxy-uid", "skip-subnets"):  # fmt: skip
        assert sum(f"config.linkerd.io/{key}:" in text for text in outcome.warnings) == 1
    assert len(outcome.warnings) == 6
    assert env(outcome.patched)["LINKERD2_PROXY_INBOUND_LISTEN_ADDR"] == "0.0.0.0:4143"


def test_an_invalid_word_for_injection_is_explained() -> None:
    given, where, whose = recorded("pod-shop-bad-values")
    (warning,) = inject(given, where, whose=whose).warnings
    assert "linkerd.io/inject: 'yes please' on the pod" in warning
    assert '"enabled"' in warning


def test_a_misspelt_wish_for_a_proxy_is_explained() -> None:
    outcome = inject(pod({"config.linkerd.io/inject": "enabled"}), Namespace("n"))
    assert not outcome.injected
    (warning,) = outcome.warnings
    assert 'did you mean "linkerd.io/inject"?' in warning


def test_a_pod_that_wants_no_proxy_is_not_warned() -> None:
    given = pod({INJECT: "disabled", "config.linkerd.io/typo": "x"})
    assert inject(given).warnings == ()


def test_a_long_owner_name_gives_a_valid_label() -> None:
    given, where, whose = recorded("pod-shop-long-owner-name")
    labels = inject(given, where, whose=whose).patched["metadata"]["labels"]
    assert len(labels["linkerd.io/proxy-replicaset"]) <= 63


def test_the_command_looks_at_no_namespace_and_adds_no_default() -> None:
    given = pod(containers=[{"name": "db", "image": "x", "ports": [{"containerPort": 3306}]}])
    where = meshed(**{"config.linkerd.io/proxy-log-level": "debug", OPAQUE_PORTS: "1"})
    patched = inject(given, where, origin=COMMAND).patched
    assert notes(patched).keys() == {
        "linkerd.io/created-by",
        "linkerd.io/proxy-version",
        "linkerd.io/trust-root-sha256",
    }


def test_the_command_leaves_what_it_does_not_inject_unchanged() -> None:
    given = pod({INJECT: "disabled"})
    given["spec"]["containers"][0]["ports"] = [{"containerPort": 3306}]
    assert inject(given, origin=COMMAND).patched is given


def test_created_by_names_who_injected() -> None:
    assert notes(inject(pod()).patched)["linkerd.io/created-by"] == WEBHOOK.created_by


def test_a_pod_without_any_metadata_can_be_injected() -> None:
    given = pod()
    del given["metadata"]
    outcome = inject(given, whose=Owner("pod", ""))
    assert container(outcome.patched, "linkerd-proxy")


@pytest.mark.parametrize("profile", ["envoy", "linkerd", "node"])
def test_rules_left_over_from_another_injection_go(profile: str) -> None:
    """The CNI plugin would set them, for a proxy that the pod does not get."""
    given = pod({"meshgraft.io/redirect": "{}", "meshgraft.io/profile": "old"})
    annotations = inject(given, profile=profile).patched["metadata"]["annotations"]
    assert "meshgraft.io/redirect" not in annotations
    assert annotations.get("meshgraft.io/profile") != "old"
