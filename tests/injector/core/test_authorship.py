"""Nobody's own is replaced, and what was there before inject is there after uninject."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.core.model import Namespace, Object, Owner
from injector.core.mutate import mutate
from injector.core.values import Values
from injector.manifests.inject import inject_rule
from injector.manifests.objects import uninject_rule
from injector.profiles import PROFILES
from tests.injector.manifest_support import VALUES, WITH_CNI, WORKLOADS, how, pod_in
from tests.injector.support import WEBHOOK, pod

_OWN_ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        (
            "linkerd.io/inject",
            "config.linkerd.io/proxy-await",
            "config.linkerd.io/enable-debug-sidecar",
            "config.linkerd.io/proxy-enable-native-sidecar",
            "kubectl.kubernetes.io/default-container",
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        )
    ),
    st.sampled_from(
        ("enabled", "true", "false", "app", "data,linkerd-identity-end-entity", "a,,b")
    ),
)
_OWN_LABELS = st.dictionaries(
    st.sampled_from(("linkerd.io/workload-ns", "linkerd.io/proxy-deployment", "app")),
    st.just("own"),
    min_size=1,
)


def _with(part: Object, name: str, more: dict[str, str]) -> None:
    if more:
        metadata = part.setdefault("metadata", {})
        metadata[name] = {**(metadata.get(name) or {}), **more}


def _mutate(obj: Object, values: Values = VALUES, profile: str = "linkerd") -> Any:
    namespace = Namespace("shop", {"linkerd.io/inject": "enabled"})
    return mutate(obj, namespace, Owner("deployment", "web"), values, PROFILES[profile], WEBHOOK)


@settings(max_examples=200, deadline=None)
@given(
    WORKLOADS,
    _OWN_ANNOTATIONS,
    _OWN_LABELS,
    st.sampled_from([None, "linkerd-debug", "envoy"]),
    st.sampled_from(tuple(PROFILES)),
    st.booleans(),
    st.sampled_from((VALUES, WITH_CNI)),
)
def test_what_its_owner_wrote_survives_the_round_trip(
    obj: Object,
    annotations: dict[str, str],
    labels: dict[str, str],
    namesake: str | None,
    profile: str,
    manual: bool,
    values: Values,
) -> None:
    part = pod_in(obj)
    _with(part, "annotations", annotations)
    _with(part, "labels", labels)
    if namesake:
        part["spec"]["containers"].append({"name": namesake, "image": "mine:1"})
        names = [one["name"] for one in part["spec"]["containers"]]
        if names.count(namesake) > 1:
            return
    asked = how(profile, values, manual=manual)
    injected, report = inject_rule(asked)(obj)
    assert report.status == "injected"
    assert inject_rule(asked)(injected)[0] == injected
    assert uninject_rule(injected)[0] == obj


@settings(max_examples=200, deadline=None)
@given(WORKLOADS, _OWN_ANNOTATIONS, st.sampled_from(tuple(PROFILES)), st.booleans())
def test_a_second_pass_of_the_webhook_changes_nothing(
    obj: Object, annotations: dict[str, str], profile: str, debug: bool
) -> None:
    given_pod = {"kind": "Pod", **pod_in(obj)}
    _with(given_pod, "annotations", annotations)
    if debug:
        given_pod["spec"]["containers"].append({"name": "linkerd-debug", "image": "mine:1"})
    once = _mutate(given_pod, profile=profile).patched
    assert _mutate(once, profile=profile).patched == once
    bare = uninject_rule(once)[0].get("metadata", {}).get("annotations") or {}
    conveniences = ("kubectl.kubernetes.io", "cluster-autoscaler.kubernetes.io")
    own = given_pod.get("metadata", {}).get("annotations") or {}
    for key in own:
        if key.startswith(conveniences):
            assert bare[key] == own[key]


@pytest.mark.parametrize("value", ["enabled", "ingress", "disabled"])
@pytest.mark.parametrize("kind", ["Namespace", "Service"])
def test_the_owners_own_inject_of_a_namespace_or_service(kind: str, value: str) -> None:
    obj = {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "shop", "annotations": {"linkerd.io/inject": value}},
    }
    assert uninject_rule(inject_rule(how())(obj)[0])[0] == obj


@pytest.mark.parametrize("profile", ["envoy", "linkerd"])
def test_a_namesake_of_the_debug_sidecar_stays(profile: str) -> None:
    own = {"name": "linkerd-debug", "image": "mine:1"}
    asked = pod(
        {"config.linkerd.io/enable-debug-sidecar": "true"},
        containers=[{"name": "app", "image": "app:1"}, own],
    )
    outcome = _mutate(asked, profile=profile)
    assert outcome.injected
    assert [one for one in outcome.patched["spec"]["containers"] if one == own] == [own]
    assert any("linkerd-debug" in warning for warning in outcome.warnings)
    assert uninject_rule(outcome.patched)[0]["spec"] == asked["spec"]


def test_beside_a_namesake_of_what_the_proxy_needs_there_is_no_proxy() -> None:
    own = [{"name": "linkerd-identity-end-entity", "hostPath": {"path": "/data"}}]
    outcome = _mutate(pod(volumes=own))
    assert not outcome.injected
    assert outcome.patched["spec"] == pod(volumes=own)["spec"]
    assert outcome.warnings == (
        'the pod gets no proxy: a volume is called "linkerd-identity-end-entity", as a volume '
        "that the proxy needs would be; rename it",
    )


def test_a_volume_that_is_just_what_is_needed_serves() -> None:
    needed = [one for one in _mutate(pod()).patched["spec"]["volumes"] if "podinfo" not in one]
    own = pod(volumes=needed[:1])
    outcome = _mutate(own)
    assert outcome.injected
    assert outcome.patched["spec"]["volumes"] == needed
    assert uninject_rule(outcome.patched)[0]["spec"] == own["spec"]


def test_pull_secrets_go_again_and_own_ones_stay() -> None:
    values = Values(image_pull_secrets=[{"name": "ours"}, {"name": "both"}])
    own = pod(imagePullSecrets=[{"name": "both"}, {"name": "mine"}])
    outcome = _mutate(own, values, "envoy")
    assert [one["name"] for one in outcome.patched["spec"]["imagePullSecrets"]] == [
        *("both", "mine"),
        "ours",
    ]
    assert uninject_rule(outcome.patched)[0]["spec"] == own["spec"]


def test_a_record_that_says_nonsense_does_no_harm() -> None:
    forged = pod({"linkerd.io/created-by": 'meshgraft/injector 1 {"own:volumes":null,"env:":""}'})
    assert uninject_rule(forged)[0]["spec"] == forged["spec"]
