"""Finding the pod in each kind, and the words for what is malformed."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.model import Object
from injector.core.workloads import FieldError, items_of, pod_of, pod_path, with_pod
from tests.injector.manifest_support import GROUPS, PATHS, workload

POD: Object = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app"}]}}


@pytest.mark.parametrize("kind", PATHS)
def test_the_pod_is_found_and_put_back(kind: str) -> None:
    obj = workload(kind, POD)
    path = pod_path(obj)
    assert path == PATHS[kind]
    pod = pod_of(obj, path)
    assert pod["kind"] == "Pod"
    assert pod["spec"] == POD["spec"]
    assert with_pod(obj, path, pod) == obj


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("Deployment", "v1"),
        ("Job", "batch.volcano.sh/v1"),
        ("DeploymentConfig", "apps.openshift.io/v1"),
        ("Rollout", "argoproj.io/v1alpha1"),
        ("Pod", "metrics.k8s.io/v1"),
        (3, "v1"),
    ],
)
def test_other_apis_kinds_have_no_pod(kind: Any, version: str) -> None:
    assert pod_path({"apiVersion": version, "kind": kind, "spec": {}}) is None


@pytest.mark.parametrize("version", ["extensions/v1beta1", "apps/v1beta2", None])
def test_old_and_missing_versions_are_known(version: str | None) -> None:
    assert pod_path({"apiVersion": version, "kind": "Deployment"}) == ("spec", "template")
    assert GROUPS.get("Deployment") is None


@pytest.mark.parametrize(
    ("spec", "field", "problem"),
    [
        (None, "spec", "an object is expected, not nothing"),
        ({"template": []}, "spec.template", "an object is expected, not a list"),
        ({"template": {}}, "spec.template.spec", "missing"),
        (
            {"template": {"spec": {"containers": [{"image": "a"}]}}},
            "spec.template.spec.containers[0].name",
            "missing",
        ),
        (
            {"template": {"spec": {"hostNetwork": "yes"}}},
            "spec.template.spec.hostNetwork",
            "expected bool | null, got str",
        ),
        (
            {"template": {"metadata": {"annotations": {"a": True}}, "spec": {}}},
            "spec.template.metadata.annotations[a]",
            "a text is expected, not a boolean; quotes make it one",
        ),
        (
            {"template": {"metadata": {"labels": []}, "spec": {}}},
            "spec.template.metadata.labels",
            "expected object | null, got array",
        ),
    ],
)
def test_what_is_malformed_is_named(spec: Any, field: str, problem: str) -> None:
    with pytest.raises(FieldError) as caught:
        pod_of({"kind": "Deployment", "spec": spec}, ("spec", "template"))
    assert (caught.value.field, caught.value.problem) == (field, problem)


def test_items_of_a_typed_list_get_its_kind() -> None:
    listed = {"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"metadata": {}}]}
    items = items_of(listed)
    assert items is not None
    assert [*items] == [
        ("items[0]", {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}})
    ]


@pytest.mark.parametrize("obj", [{"kind": "Pod"}, {"kind": "WaitingList"}, {"items": []}])
def test_what_has_no_items_is_no_list(obj: Object) -> None:
    assert items_of(obj) is None


@pytest.mark.parametrize(
    ("items", "field"), [("text", "items"), ([{}, 3], "items[1]"), ({"a": 1}, "items")]
)
def test_items_must_be_objects(items: Any, field: str) -> None:
    found = items_of({"kind": "List", "items": items})
    assert found is not None
    with pytest.raises(FieldError) as caught:
        list(found)
    assert caught.value.field == field
