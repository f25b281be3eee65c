"""Values files of people's own, and Linkerd's as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshgraft._errors import CommandError
from meshgraft.charts.values_files import read_values

LINKERDS = """\
cliVersion: linkerd/cli edge-26.10.1
linkerdVersion: edge-26.10.1
controllerReplicas: 3
webhookFailurePolicy: Fail
clusterDomain: example.org
policyController:
  image: {name: cr.l5d.io/linkerd/policy-controller}
proxy:
  capabilities: null
  logLevel: debug
  uid: "2103"
  cores: null
  resources:
    cpu: {request: 100m}
proxyInjector:
  caBundle: theirs
"""
ABOUT_PODS = {
    "linkerdVersion": "edge-26.10.1",
    "clusterDomain": "example.org",
    "proxy": {"logLevel": "debug", "uid": 2103, "resources": {"cpu": {"request": "100m"}}},
}


def test_ones_own_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("controllerReplicas: 3\nproxi: 1\nx: null\n")
    expected = {"controllerReplicas": 3, "proxi": 1, "x": None}
    assert read_values(tmp_path / "v.yaml") == expected


def test_of_linkerds_values_what_is_about_pods_is_taken(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text(LINKERDS)
    assert read_values(tmp_path / "v.yaml") == ABOUT_PODS


def test_linkerds_config_map_is_taken_too(tmp_path: Path) -> None:
    saved = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"values": LINKERDS}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(saved))
    assert read_values(tmp_path / "v.yaml") == ABOUT_PODS


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("# nothing yet\n")
    assert read_values(tmp_path / "v.yaml") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"a: [", "not YAML"),
        (b"\xff", "not YAML"),
        (b"- a\n", "values must be a mapping, not list"),
        (b"policyController: {}\nproxy: 1\n", "$.proxy"),
    ],
)
def test_what_is_no_values_file_is_told(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError) as caught:
        read_values(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
