"""Where pods are looked up that brought no redirection along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugin.pods.source import MIRROR_ANNOTATION, KnownPods, PodsFileError, pods_from_file

LIST = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: web-0}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-0, namespace: shop, uid: u1, annotations: null}
  spec:
    containers: [{name: app, image: x}, {name: linkerd-proxy}]
    initContainers: [{name: linkerd-init}]
- {apiVersion: example.com/v1, kind: Pod, metadata: {name: pea, namespace: shop}}
"""


@pytest.fixture
def source(tmp_path: Path) -> KnownPods:
    path = tmp_path / "objects.yaml"
    path.write_text(LIST)
    return pods_from_file(path)


def test_the_pods_of_a_list_are_known(source: KnownPods) -> None:
    pod = source.get("shop", "web-0", "u1")
    assert pod is not None
    assert pod.container_names == {"app", "linkerd-proxy"}
    assert pod.init_container_names == {"linkerd-init"}
    assert (pod.annotations, pod.labels) == ({}, {})
    assert "objects.yaml" in source.name


@pytest.mark.parametrize(
    ("namespace", "name", "uid"),
    [("shop", "web-1", ""), ("other", "web-0", ""), ("shop", "web-0", "u2"), ("shop", "pea", "")],
)
def test_other_pods_are_not(source: KnownPods, namespace: str, name: str, uid: str) -> None:
    assert source.get(namespace, name, uid) is None


def test_a_call_without_uid_matches_by_name(source: KnownPods) -> None:
    assert source.get("shop", "web-0", "") is not None


def test_a_typed_list_and_an_object_by_itself_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "pods.json"
    path.write_text(json.dumps({"kind": "PodList", "items": [{"metadata": {"name": "a"}}]}))
    assert pods_from_file(path).get("default", "a", "any") is not None
    path.write_text(json.dumps({"kind": "Pod", "metadata": {"name": "b", "namespace": "c"}}))
    assert pods_from_file(path).get("c", "b", "") is not None


def test_a_static_pod_is_known_by_the_uid_of_its_mirror(tmp_path: Path) -> None:
    path = tmp_path / "pods.json"
    metadata = {"name": "etcd", "uid": "api", "annotations": {MIRROR_ANNOTATION: "hash"}}
    path.write_text(json.dumps({"kind": "Pod", "metadata": metadata}))
    assert pods_from_file(path).get("default", "etcd", "hash") is not None
    assert pods_from_file(path).get("default", "etcd", "else") is None


@pytest.mark.parametrize("text", ["{", "- 3", "kind: Pod\nmetadata: []", "kind: Pod\n", "plain"])
def test_a_file_that_cannot_be_used_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    with pytest.raises(PodsFileError, match=r"objects\.yaml"):
        pods_from_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PodsFileError, match="No such file"):
        pods_from_file(tmp_path / "absent.yaml")
