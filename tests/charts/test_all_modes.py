"""Whatever the settings: the charts render to what Kubernetes takes, and Helm's lint is silent."""

from __future__ import annotations

import copy
import re

import kubernetes_validate
import pytest
import yaml

from meshgraft.charts.helm import Tree
from meshgraft.charts.location import CHARTS, IN_CLONE, ChartName
from tests.charts.support import MODES, NAMESPACES, Object, objects, rendered
from vocabulary.version import __version__

CUSTOM = frozenset(("Issuer", "Certificate", "PodMonitor"))
"""Kinds that Kubernetes does not know by itself."""
CLUSTER = frozenset(
    ("Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration")
)
OLDEST = "1.29"
"""The charts' kubeVersion."""
NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])

in_all_modes = pytest.mark.parametrize(("chart", "values"), MODES.values(), ids=MODES)


@in_all_modes
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_fits_the_schemas_of_kubernetes(
    chart: ChartName, values: Tree, version: str
) -> None:
    for each in objects(chart, values):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(copy.deepcopy(each), version, strict=True)


def test_the_oldest_version_is_the_one_that_the_charts_ask_for() -> None:
    for chart in CHARTS:
        about = yaml.safe_load((IN_CLONE / chart / "Chart.yaml").read_text())
        assert about["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_charts_are_of_the_commands_version() -> None:
    for chart in CHARTS:
        about = yaml.safe_load((IN_CLONE / chart / "Chart.yaml").read_text())
        assert (about["version"], about["appVersion"]) == (__version__, __version__)


@in_all_modes
def test_objects_are_named_once_and_in_their_namespace(chart: ChartName, values: Tree) -> None:
    found = objects(chart, values)
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))
    for each in found:
        expected = None if each["kind"] in CLUSTER else NAMESPACES[chart]
        assert each["metadata"].get("namespace") == expected


@in_all_modes
def test_selectors_select_the_pods_that_they_are_for(chart: ChartName, values: Tree) -> None:
    found = objects(chart, values)
    pods = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in found
        if each["kind"] in ("Deployment", "DaemonSet")
    ]
    for each in found:
        selector = _selector(each)
        if selector:
            matching = [labels for labels in pods if selector.items() <= labels.items()]
            assert len(matching) == 1, each["kind"]


def _selector(obj: Object) -> Object:
    spec = obj.get("spec", {})
    found = spec.get("podSelector") or spec.get("selector") or {}
    labels: Object = found.get("matchLabels", found)
    return labels


@in_all_modes
def test_rendering_again_gives_the_same_to_the_byte(chart: ChartName, values: Tree) -> None:
    assert rendered(chart, values) == rendered(chart, values)


@in_all_modes
def test_helms_lint_finds_nothing(chart: ChartName, values: Tree) -> None:
    helm_python = pytest.importorskip("helm_python")
    report = helm_python.lint(
        IN_CLONE / chart, values, strict=True, kube_version=f"v{OLDEST}.0", namespace="meshgraft"
    )
    assert report["errors"] == []
    # 1 is information: that there is no icon.
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("chart", CHARTS)
def test_a_template_makes_one_object(chart: ChartName) -> None:
    values = MODES["everything" if chart == "meshgraft" else "cni, everything"][1]
    files = re.findall(r"^# Source: (.*)$", "".join(rendered(chart, values).objects), re.M)
    assert len(files) == len(set(files)) == len(objects(chart, values))
