"""Owners and namespaces: whom a pod belongs to, from ownerReferences and a kubectl List."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from injector.cluster.source import OfflineObjects, load_offline_objects
from injector.core.model import Namespace, Owner
from injector.core.owners import ObjectMeta, OwnerReference, resolve_owner
from process.files import FileError

NAMESPACES = Path(__file__).parents[2] / "data" / "namespaces.json"

REPLICA_SET = OwnerReference(kind="ReplicaSet", name="web-5d", api_version="apps/v1", uid="r")
JOB = OwnerReference(kind="Job", name="report-1", api_version="batch/v1", uid="j")
DEPLOYMENT = OwnerReference(kind="Deployment", name="web", api_version="apps/v1", uid="d")
CRON_JOB = OwnerReference(kind="CronJob", name="report", api_version="batch/v1", uid="c")
ROLLOUT = OwnerReference(kind="Rollout", name="web", api_version="argoproj.io/v1alpha1", uid="o")
STATEFUL_SET = OwnerReference(kind="StatefulSet", name="db", api_version="apps/v1", uid="s")
VOLCANO_JOB = OwnerReference(kind="Job", name="train", api_version="batch.volcano.sh/v1alpha1")


@pytest.mark.parametrize(
    ("references", "above", "expected"),
    [
        (None, None, ("pod", "p")),
        ([], None, ("pod", "p")),
        ([REPLICA_SET, JOB], [DEPLOYMENT], ("pod", "p")),
        ([STATEFUL_SET], None, ("statefulset", "db")),
        ([STATEFUL_SET], [DEPLOYMENT], ("statefulset", "db")),
        ([REPLICA_SET], [DEPLOYMENT], ("deployment", "web")),
        ([REPLICA_SET], [ROLLOUT], ("rollout", "web")),
        ([REPLICA_SET], [], ("replicaset", "web-5d")),
        ([REPLICA_SET], [DEPLOYMENT, ROLLOUT], ("replicaset", "web-5d")),
        ([REPLICA_SET], None, ("replicaset", "web-5d")),
        ([JOB], [CRON_JOB], ("cronjob", "report")),
        ([JOB], [], ("job", "report-1")),
        ([VOLCANO_JOB], [CRON_JOB], ("job", "train")),
    ],
)
def test_the_owner_follows_linkerds_rule(
    references: list[OwnerReference] | None,
    above: list[OwnerReference] | None,
    expected: tuple[str, str],
) -> None:
    owner = resolve_owner(ObjectMeta(name="p", owner_references=references), above)
    assert (owner.kind, owner.name) == expected


def test_the_owner_can_be_addressed_by_events() -> None:
    owner = resolve_owner(ObjectMeta(owner_references=[REPLICA_SET]), [DEPLOYMENT])
    assert owner == Owner("deployment", "web", api_version="apps/v1", uid="d")


def test_a_pod_of_its_own_goes_by_its_prefix_until_it_has_a_name() -> None:
    assert resolve_owner(ObjectMeta(generate_name="web-"), None) == Owner("pod", "web-")


def workload(kind: str, api_version: str, name: str, *owners: OwnerReference) -> dict[str, Any]:
    references = [
        {"kind": o.kind, "name": o.name, "apiVersion": o.api_version, "uid": o.uid} for o in owners
    ]
    meta = {"name": name, "namespace": "shop", "ownerReferences": references}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta}


def owner_of(objects: OfflineObjects, reference: OwnerReference, namespace: str = "shop") -> Owner:
    meta = ObjectMeta(name="p", namespace=namespace, owner_references=[reference])
    return asyncio.run(objects.owner(meta))


def test_offline_replica_sets_and_jobs_lead_to_their_owners() -> None:
    objects = OfflineObjects(
        [
            workload("ReplicaSet", "apps/v1", "web-5d", DEPLOYMENT),
            workload("Job", "batch/v1", "report-1", CRON_JOB),
        ]
    )
    assert owner_of(objects, REPLICA_SET).kind == "deployment"
    assert owner_of(objects, JOB).kind == "cronjob"
    assert owner_of(objects, REPLICA_SET, namespace="other").kind == "replicaset"


def test_a_replica_set_that_is_not_known_is_the_owner_itself() -> None:
    assert owner_of(OfflineObjects([]), REPLICA_SET) == Owner(
        "replicaset", "web-5d", api_version="apps/v1", uid="r"
    )


def test_the_recorded_namespaces_are_read() -> None:
    objects = load_offline_objects(NAMESPACES)
    edge = asyncio.run(objects.namespace("edge"))
    assert edge == Namespace(
        "edge",
        annotations={"linkerd.io/inject": "ingress"},
        labels={"kubernetes.io/metadata.name": "edge"},
    )
    assert asyncio.run(objects.namespace("nowhere")) is None


def _documents() -> dict[str, str]:
    listed = json.loads(NAMESPACES.read_text())
    typed = {
        "kind": "NamespaceList",
        "apiVersion": "v1",
        "items": [{"metadata": item["metadata"]} for item in listed["items"]],
    }
    return {
        "json": json.dumps(listed),
        "yaml": yaml.safe_dump(listed),
        "several documents": yaml.safe_dump_all(listed["items"]),
        "a typed list": json.dumps(typed),
        "a list in a list": json.dumps({"kind": "List", "items": [listed]}),
    }


@pytest.mark.parametrize("form", _documents())
def test_every_form_that_kubectl_writes_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "objects"
    path.write_text(_documents()[form])
    shop = asyncio.run(load_offline_objects(path).namespace("shop"))
    assert shop is not None
    assert shop.annotations["config.linkerd.io/skip-outbound-ports"] == "3306,4222"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("just text", "not a list of Kubernetes objects"),
        ("kind: List\nitems: 3\n", "items of a List must be a list"),
        ("kind: Namespace\n", "missing required field `metadata`"),
        ("kind: Namespace\nmetadata: {annotations: {a: 1}}", "$.metadata.annotations"),
    ],
)
def test_a_file_that_is_no_list_of_objects_is_named(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as problem:
        load_offline_objects(path)
    assert str(path) in str(problem.value)
    assert sentence in str(problem.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read: No such file"):
        load_offline_objects(tmp_path / "absent")
