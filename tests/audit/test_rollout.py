"""What is restarted, and when a restart is done."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.model import Object, Owner
from meshgraft.audit.model import Finding, Kind, Reason
from meshgraft.audit.rollout import Workload, failed, pending, plan, refusal, restart_patch

DEPLOYMENT = Workload("shop", "deployment", "web")


def finding(
    kind: str, name: str = "web", *, restart: bool = True, api_version: str = "apps/v1"
) -> Finding:
    reason = Reason("code", "text", "fix", restart)
    return Finding(
        namespace="shop",
        name="web-x",
        owner=Owner(kind, name, api_version),
        kind=Kind.NOT_MESHED,
        reasons=(reason,),
    )


def test_each_workload_is_restarted_once_and_in_order() -> None:
    found = plan([finding("statefulset", "db"), finding("deployment"), finding("deployment")])
    assert [str(one) for one in found.workloads] == [
        "deployment/web in namespace shop",
        "statefulset/db in namespace shop",
    ]
    assert found.left == ()


def test_another_groups_kind_of_the_same_name_is_left_alone() -> None:
    assert plan([finding("rollout")]).workloads == ()
    assert plan([finding("rollout", api_version="argoproj.io/v1alpha1")]).workloads
    assert plan([finding("deployment", api_version="example.com/v1")]).workloads == ()


@pytest.mark.parametrize(
    ("kind", "restart", "text"),
    [
        ("pod", True, "without an owner"),
        ("job", True, "ends by itself"),
        ("cronjob", True, "ends by itself"),
        ("replicaset", True, "not a kind that can be restarted"),
        ("namespace", False, "a restart does not help"),
        ("deployment", False, "a restart does not help"),
    ],
)
def test_what_cannot_be_restarted_is_named(kind: str, restart: bool, text: str) -> None:
    found = plan([finding(kind, restart=restart)])
    assert found.workloads == ()
    assert f"{kind}/web in namespace shop: " in found.left[0]
    assert text in found.left[0]


def workload(status: dict[str, Any], **spec: Any) -> Object:
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2, **spec}, "status": status}


DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("kind", "status", "is_done"),
    [
        ("deployment", DONE, True),
        ("deployment", {}, False),
        ("deployment", {**DONE, "observedGeneration": 1}, False),
        ("deployment", {**DONE, "updatedReplicas": 1}, False),
        ("deployment", {**DONE, "availableReplicas": 1}, False),
        ("deployment", {**DONE, "replicas": 3}, False),
        ("statefulset", DONE, True),
        ("statefulset", {**DONE, "currentRevision": "a", "updateRevision": "b"}, False),
        ("statefulset", {**DONE, "currentRevision": "b", "updateRevision": "b"}, True),
        (
            "daemonset",
            {
                "observedGeneration": 2,
                "desiredNumberScheduled": 3,
                "updatedNumberScheduled": 3,
                "numberAvailable": 3,
            },
            True,
        ),
        (
            "daemonset",
            {
                "observedGeneration": 2,
                "desiredNumberScheduled": 3,
                "updatedNumberScheduled": 1,
                "numberAvailable": 3,
            },
            False,
        ),
        ("rollout", {"restartedAt": "now", "phase": "Healthy"}, True),
        ("rollout", {"restartedAt": "now", "phase": "Progressing"}, False),
        ("rollout", {"restartedAt": "before", "phase": "Healthy"}, False),
    ],
)
def test_when_a_restart_is_done(kind: str, status: dict[str, Any], is_done: bool) -> None:
    obj = workload(status, restartAt="now")
    assert (pending(Workload("shop", kind, "web"), obj) is None) is is_done


def test_a_partition_leaves_old_pods_on_purpose() -> None:
    status = {**DONE, "currentRevision": "a", "updateRevision": "b"}
    obj = workload(status, updateStrategy={"rollingUpdate": {"partition": 1}})
    assert pending(Workload("shop", "statefulset", "db"), obj) is None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, None),
        ({"paused": True}, "is paused"),
        ({"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ({"updateStrategy": {"type": "RollingUpdate"}}, None),
    ],
)
def test_what_a_restart_would_not_reach_is_left_alone(
    spec: dict[str, Any], text: str | None
) -> None:
    found = refusal(DEPLOYMENT, workload({}, **spec))
    assert found is None if text is None else found is not None and text in found


def test_a_deployment_that_gave_up_is_told() -> None:
    condition = {"reason": "ProgressDeadlineExceeded", "message": "no image"}
    assert failed(workload({"conditions": [condition]})) == "no image"
    assert failed(workload({"conditions": [{"reason": "NewReplicaSetAvailable"}]})) is None


def test_the_patches_are_those_of_kubectl_and_of_argo() -> None:
    assert restart_patch(DEPLOYMENT, "now") == {
        "spec": {
            "template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
        }
    }
    rollout = Workload("shop", "rollout", "web")
    assert restart_patch(rollout, "now") == {"spec": {"restartAt": "now"}}
    assert rollout.resource.path("shop", "web").startswith("apis/argoproj.io/v1alpha1/")
