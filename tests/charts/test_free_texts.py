"""Texts that people give as values come out of the charts as they went in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from meshgraft import installed
from meshgraft.charts.helm import Tree, merge
from meshgraft.charts.location import ChartName, chart_dir
from meshgraft.charts.schema import TYPES
from tests.charts.support import CNI, INJECTOR, objects, one

ISSUER = {"issuerRef": {"name": "corp"}}
ODD = "a: \"b\" 'c' # {{ .Values.d }}\n- `e`"
"""Whatever YAML and templates give a meaning to."""


def free_texts(chart: ChartName) -> Tree:
    """The chart's values with `ODD` wherever any text may stand."""
    defaults = yaml.safe_load((chart_dir(chart) / "values.yaml").read_text())

    def odd(part: Any, *path: str) -> Any:
        if isinstance(part, dict):
            return {key: odd(value, *path, key) for key, value in part.items()}
        tree: Any = ODD
        for key in reversed(path):
            tree = {key: tree}
        try:
            msgspec.convert(tree, TYPES[chart])
        except msgspec.ValidationError:
            return part
        # The networks are taken apart, a certificate of another mode is refused, and a profile is
        # one that is registered.
        if path == ("meshgraft", "profile"):
            return part
        return part if path[0] in ("clusterNetworks", "proxyInjector") else ODD

    return {key: odd(value, key) for key, value in defaults.items()}


@pytest.mark.parametrize(
    ("chart", "values"),
    [
        (INJECTOR, {"nodeProxy": {"enabled": True}}),
        (INJECTOR, {"certificates": {"mode": "cert-manager", "certManager": ISSUER}}),
        (CNI, {"startupTaint": {"enabled": True}}),
    ],
)
def test_a_text_stays_what_it_is_whatever_is_in_it(chart: ChartName, values: Tree) -> None:
    given = merge({**free_texts(chart), "createNamespace": True}, values)
    found = objects(chart, given)
    usual = objects(chart, merge({"createNamespace": True}, values))
    assert [each["kind"] for each in found] == [each["kind"] for each in usual]
    specs = [each.get("spec", {}) for each in found]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    assert pods
    for pod in pods:
        assert (pod["containers"][0]["image"], pod["priorityClassName"]) == (f"{ODD}:{ODD}", ODD)
    for each in found:
        if each["kind"] == "Certificate" and "dnsNames" in each["spec"]:
            assert each["spec"]["dnsNames"][1] == f"meshgraft-injector.meshgraft.svc.{ODD}"
    if chart == INJECTOR:
        config = one(found, "ConfigMap", installed.CONFIG_MAP)["data"]["values"]
        assert yaml.safe_load(config)["clusterDomain"] == ODD


@pytest.mark.parametrize(
    ("chart", "values"),
    [(INJECTOR, {"deploymentStrategy": None}), (CNI, {"updateStrategy": {"rollingUpdate": None}})],
)
def test_a_strategy_that_is_taken_away_is_kubernetes_own(chart: ChartName, values: Tree) -> None:
    name = "strategy" if chart == INJECTOR else "updateStrategy"
    specs = [each.get("spec", {}) for each in objects(chart, values)]
    (strategy,) = [spec[name] for spec in specs if name in spec]
    assert strategy == {"type": "RollingUpdate"}
