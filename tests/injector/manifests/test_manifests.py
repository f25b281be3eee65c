"""Rules are applied to documents and Lists; problems name the object and the field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from injector.core.model import Object
from injector.manifests.inject import inject_rule
from injector.manifests.objects import Problem, transform, uninject_rule
from tests.injector.manifest_support import how, pod_in, workload
from tests.injector.support import pod

POD: Object = {"spec": {"containers": [{"name": "app", "image": "app:1"}]}}


def _annotations(obj: Object) -> dict[str, str]:
    found: dict[str, str] = pod_in(obj)["metadata"]["annotations"]
    return found


def _list(*items: Any, kind: str = "List") -> Object:
    return {"apiVersion": "v1", "kind": kind, "items": list(items), "metadata": {}}


def test_each_item_of_a_list_is_injected() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    given = _list(workload("Deployment", POD), config, _list(pod()))
    before = copy.deepcopy(given)
    result = transform(given, inject_rule(how()))
    assert given == before
    assert [report.status for report in result.reports] == ["injected", "skipped", "injected"]
    deployment, same, inner = result.document["items"]
    assert _annotations(deployment)["linkerd.io/inject"] == "enabled"
    assert same is config
    assert _annotations(inner["items"][0])["linkerd.io/inject"] == "enabled"
    assert transform(result.document, uninject_rule).document == before


def test_a_typed_list_stays_typed() -> None:
    item = workload("Deployment", POD)
    del item["apiVersion"], item["kind"]
    given = {**_list(item, kind="DeploymentList"), "apiVersion": "apps/v1"}
    result = transform(given, inject_rule(how()))
    assert [report.resource for report in result.reports] == ["deployment/web"]
    assert result.document["items"][0].keys() == item.keys()


@pytest.mark.parametrize("items", [[], None])
def test_an_empty_list_is_nothing_to_do(items: Any) -> None:
    given = {"kind": "List", "items": items}
    result = transform(given, inject_rule(how()))
    assert result.document is given
    assert (result.reports, result.problems) == ((), ())


@pytest.mark.parametrize(
    ("document", "message", "field"),
    [
        ([], "a Kubernetes object is expected here", ""),
        ("text", "a Kubernetes object is expected here", ""),
        ({"kind": 3}, "a text is expected", "kind"),
        ({"kind": "Pod", "metadata": []}, "missing", "spec"),  # Empty metadata is none.
        ({"kind": "Pod", "metadata": "x"}, "an object is expected", "metadata"),
        (
            {"kind": "Pod", "metadata": {"name": "p"}},
            "pod/p: missing",
            "spec",
        ),
        (
            {"kind": "Namespace", "metadata": {"name": "n", "annotations": {"a": 1}}},
            "namespace/n: a text is expected, not a number; quotes make it one",
            "metadata.annotations[a]",
        ),
        (_list(pod(), 3), "an object is expected, not a number", "items[1]"),
        (
            _list(pod(hostNetwork=True)),
            "failed to inject pod/app: hostNetwork is enabled",
            "items[0].spec.hostNetwork",
        ),
    ],
)
def test_problems_name_the_object_and_the_field(document: Any, message: str, field: str) -> None:
    result = transform(document, inject_rule(how()))
    assert result.document is document
    assert result.problems == (Problem(message, field),)


def test_one_bad_item_does_not_hide_the_others() -> None:
    result = transform(_list(pod(hostNetwork=True), pod(hostNetwork=True)), inject_rule(how()))
    assert [problem.field for problem in result.problems] == [
        "items[0].spec.hostNetwork",
        "items[1].spec.hostNetwork",
    ]


def test_an_empty_document_is_nothing() -> None:
    assert transform(None, inject_rule(how())).reports == ()


def test_a_null_among_a_lists_items_is_handed_on() -> None:
    obj = {"apiVersion": "v1", "kind": "List", "items": [None, workload("Pod", POD), None]}
    result = transform(obj, inject_rule(how()))
    assert result.problems == ()
    assert [each is None for each in result.document["items"]] == [True, False, True]
    assert len(result.reports) == 1
