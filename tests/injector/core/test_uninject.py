"""uninject gives back what was there before inject, whatever was injected and how."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.core.model import Namespace, Object, Owner
from injector.core.mutate import mutate
from injector.core.splice import annotate
from injector.core.workloads import FieldError
from injector.manifests.objects import Refusal
from injector.profiles import PROFILES
from tests.injector.manifest_support import (
    VALUES,
    WITH_CNI,
    WORKLOADS,
    how,
    inject,
    uninject,
    workload,
)
from tests.injector.support import PODS, WEBHOOK, pod, recorded

PROFILE_NAMES = sorted(PROFILES)
REFUSED = ("pod-shop-istio-meshed", "pod-shop-node-agent")
"""Recorded pods with Istio's proxy, and with the host's network."""
KEPT_OUT = ("pod-shop-logs",)
"""Recorded pods with ``linkerd.io/inject: disabled``."""
FLAGS = st.fixed_dictionaries(
    {},
    optional={
        "overrides": st.just(
            {
                "config.linkerd.io/skip-inbound-ports": "2222",
                "config.linkerd.io/proxy-cpu-limit": "100m",
            }
        ),
        "config": st.just({"config.linkerd.io/proxy-log-level": "debug"}),
    },
)


@settings(max_examples=100, deadline=None)
@given(
    WORKLOADS,
    st.sampled_from(PROFILE_NAMES),
    st.booleans(),
    st.sampled_from((VALUES, WITH_CNI)),
    FLAGS,
)
def test_what_inject_added_is_gone(
    obj: Object, profile: str, manual: bool, values: Any, flags: dict[str, Any]
) -> None:
    injected, report = inject(obj, how(profile, values, manual=manual, **flags))
    assert report.status == "injected"
    assert injected != obj
    assert uninject(injected) == obj


@settings(max_examples=50, deadline=None)
@given(WORKLOADS, st.sampled_from(PROFILE_NAMES), st.booleans(), FLAGS)
def test_a_second_injection_is_as_the_first(
    obj: Object, profile: str, manual: bool, flags: dict[str, Any]
) -> None:
    once, _ = inject(obj, how(profile, manual=manual, **flags))
    assert inject(once, how(profile, manual=manual, **flags))[0] == once


@settings(max_examples=50, deadline=None)
@given(WORKLOADS)
def test_what_nobody_injected_stays(obj: Object) -> None:
    assert uninject(obj) == obj


@pytest.mark.parametrize("manual", [False, True], ids=["annotations", "manual"])
@pytest.mark.parametrize("profile", PROFILE_NAMES)
@pytest.mark.parametrize("name", [name for name in PODS if name not in REFUSED])
def test_recorded_pods_come_back(name: str, profile: str, manual: bool) -> None:
    obj, _, _ = recorded(name)
    injected, report = inject(obj, how(profile, manual=manual))
    if name in KEPT_OUT:
        assert (report.status, injected) == ("skipped", obj)
    else:
        assert report.status == "injected"
        own = obj["metadata"].get("annotations") or {}
        asked = {key: own[key] for key in ("linkerd.io/inject",) if key in own}
        assert uninject(injected) == annotate(uninject(obj), asked), "its owner's own"


@pytest.mark.parametrize("name", REFUSED)
def test_recorded_pods_that_cannot_be_injected_are_refused(name: str) -> None:
    with pytest.raises(Refusal, match="failed to inject pod/"):
        inject(recorded(name)[0])


@pytest.mark.parametrize("values", [VALUES, WITH_CNI], ids=["init", "cni"])
@pytest.mark.parametrize("position", ["native", "first", "last"])
@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_what_the_webhook_added_is_gone_too(profile: str, position: str, values: Any) -> None:
    annotations = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "data",
        "config.linkerd.io/proxy-enable-native-sidecar": str(position == "native").lower(),
        "config.linkerd.io/proxy-await": "enabled" if position == "first" else "disabled",
    }
    before = pod(annotations)
    asked = pod({**annotations, "linkerd.io/inject": "enabled"})
    outcome = mutate(
        asked,
        Namespace("shop"),
        Owner("deployment", "web"),
        values,
        PROFILES[profile],
        WEBHOOK,
    )
    assert outcome.injected
    assert uninject(outcome.patched) == before


def test_a_pod_that_linkerd_injected_is_bare_again() -> None:
    added = {"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:v1"}
    injected = pod(
        {"linkerd.io/created-by": "linkerd/cli v1", "linkerd.io/identity-mode": "default"},
        containers=[added, {"name": "app", "image": "app:1"}],
        initContainers=[{"name": "linkerd-init"}, {"name": "linkerd-network-validator"}],
        volumes=[{"name": "linkerd-identity-end-entity", "emptyDir": {"medium": "Memory"}}],
    )
    injected["metadata"]["labels"] = {"linkerd.io/proxy-deployment": "web", "app": "x"}
    bare = pod()
    bare["metadata"]["labels"] = {"app": "x"}
    assert uninject(injected) == bare


@pytest.mark.parametrize(
    ("annotations", "left"),
    [
        ({"linkerd.io/inject": "disabled"}, {"linkerd.io/inject": "disabled"}),
        ({"linkerd.io/inject": "enabled", "a": "b"}, {"a": "b"}),
        ({"linkerd.io/inject": "ingress", "a": "b"}, {"a": "b"}),
        ({"config.linkerd.io/proxy-uid": "3"}, {"config.linkerd.io/proxy-uid": "3"}),
        ({"linkerd.io/helm-release-version": "1"}, {"linkerd.io/helm-release-version": "1"}),
    ],
)
@pytest.mark.parametrize("kind", ["Pod", "Namespace", "Service"])
def test_what_people_wrote_stays(
    kind: str, annotations: dict[str, str], left: dict[str, str]
) -> None:
    obj = {**pod(annotations), "kind": kind}
    assert uninject(obj)["metadata"] == {"name": "app", "annotations": left}


def test_a_container_of_ones_own_is_not_taken_for_ours() -> None:
    own = [{"name": "envoy-proxy", "image": "my-envoy:1"}]
    assert uninject(pod(containers=own)) == pod(containers=own)


def test_labels_of_a_control_plane_component_stay() -> None:
    obj = workload("Deployment", {"spec": {"containers": []}})
    labels = {"linkerd.io/control-plane-component": "web", "linkerd.io/control-plane-ns": "l"}
    obj["metadata"]["labels"] = labels
    assert uninject(obj) == obj


@pytest.mark.parametrize(
    "record",
    [
        '{"example.com/team":"evil"}',
        "{broken",
        '{"linkerd.io/inject":3}',
        '["linkerd.io/inject"]',
    ],
)
def test_a_record_that_inject_did_not_write_restores_nothing(record: str) -> None:
    assert uninject(pod({"linkerd.io/created-by": f"meshgraft/cli 1 {record}"})) == pod()


@pytest.mark.parametrize("kind", ["ConfigMap", "Rollout", "DeploymentConfig", ""])
def test_other_kinds_are_left_alone(kind: str) -> None:
    obj = {"kind": kind, "metadata": {"annotations": {"linkerd.io/inject": "enabled"}}}
    assert uninject(obj) == obj


def test_a_malformed_workload_is_an_error() -> None:
    with pytest.raises(FieldError, match=r"spec\.template: an object is expected, not nothing"):
        uninject({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}})
