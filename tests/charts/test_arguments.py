"""The command line takes what the manifests hand to it, flag by flag."""

from __future__ import annotations

import pytest

from meshgraft.charts.helm import Tree
from meshgraft.charts.location import ChartName
from meshgraft.cli import app
from tests.charts.support import INJECTOR, MODES, container, objects


@pytest.mark.parametrize(("chart", "values"), MODES.values(), ids=MODES)
def test_the_containers_arguments_are_the_commands(
    chart: ChartName, values: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = objects(chart, values)
    (workload,) = [
        each
        for each in found
        if each["metadata"]["name"] in ("meshgraft-injector", "linkerd-cni")
        and each["kind"] in ("Deployment", "DaemonSet")
    ]
    config = next(each["data"] for each in found if each["kind"] == "ConfigMap")
    for variable in container(workload)["env"]:
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        text = config[reference["key"]] if reference else variable.get("value", "a-name")
        monkeypatch.setenv(variable["name"], text)
    arguments = container(workload)["args"]
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    expected = "webhook" if chart == INJECTOR else "cni_agent"
    assert command.__name__ == expected
    assert len(bound.arguments) >= 5
