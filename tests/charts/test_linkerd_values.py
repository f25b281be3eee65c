"""Linkerd's own values files are taken: what means something by name, the rest with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshgraft.charts.linkerd_values import understood
from tests.commands.support import Shell

HA = {
    "controllerReplicas": 3,
    "enablePodAntiAffinity": True,
    "webhookFailurePolicy": "Fail",
    "highAvailability": True,
    "proxy": {"resources": {"cpu": {"request": "100m"}}},
    "proxyInjectorResources": {"memory": {"limit": "250Mi"}},
    "destinationResources": {"memory": {"limit": "250Mi"}},
}
CNI = {
    "proxyUID": 2103,
    "image": {"name": "cr.l5d.io/linkerd/cni-plugin", "version": "v1.7.0"},
    "repairController": {"enabled": True, "resources": {"cpu": {"limit": ""}}},
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}},
}


def test_what_has_a_counterpart_stays_by_our_name() -> None:
    found = understood("meshgraft", HA)
    assert found.unused == ("destinationResources", "highAvailability")
    assert found.tree["controllerResources"] == HA["proxyInjectorResources"]
    assert found.tree["proxy"] == HA["proxy"]
    cni = understood("meshgraft-cni", CNI)
    assert cni.unused == ("repairController", "updateStrategy.type", "image")
    wanted = {"proxyUID": 2103, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}
    assert cni.tree == wanted


@pytest.mark.parametrize(
    "given", [{}, {"proxyInit": None}, {"podMonitor": {"controller": {"enabled": True}}}, {"x": 1}]
)
def test_values_are_not_changed_and_typing_errors_stay(given: dict[str, Any]) -> None:
    before = yaml.safe_dump(given)
    found = understood("meshgraft", given)
    assert yaml.safe_dump(given) == before
    assert found.tree.get("x") == given.get("x")
    own = {"image": {"name": "registry.example/meshgraft"}}
    assert understood("meshgraft-cni", own).tree == own


@pytest.mark.parametrize(
    ("command", "values", "named", "has"),
    [
        ("install", HA, "destinationResources, highAvailability", "memory: 250Mi"),
        ("install-cni", CNI, "repairController, updateStrategy.type, image", "maxUnavailable: 2"),
    ],
)
def test_the_command_takes_the_file_with_one_warning(
    command: str, values: dict[str, Any], named: str, has: str, shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    offline = ["--ignore-cluster"] if command == "install" else []
    run = shell(command, *offline, "--values", path)
    assert run.code == 0, run.stderr
    assert run.stderr.count("Warning:") == 1
    assert f"not used: {named}\n" in run.stderr
    assert has in run.stdout
    path.write_text(yaml.safe_dump({**values, "mistyped": 1}))
    assert shell(command, *offline, "--values", path).code == 1
