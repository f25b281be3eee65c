"""Snapshots of clusters that are well, and what one check makes of a changed one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from injector.core.model import Object
from kubeapi.client import ApiServerError
from meshgraft.checks.catalog import CATEGORIES
from meshgraft.checks.model import Options, Ref, Result, Snapshot
from meshgraft.checks.run import run, selected
from tests.commands.cluster_support import installation, thing
from tests.kubeapi.fake_cluster import KINDS, meshed, rolled_out

Change = Callable[[list[Object]], None]
CNI = "linkerd-cni"


def find(objects: list[Object], kind: str, name: str = "") -> Object:
    """The first object of a kind, to be changed in place."""
    return next(
        one for one in objects if one["kind"] == kind and name in ("", one["metadata"]["name"])
    )


def gone(kind: str, name: str = "") -> Change:
    return lambda objects: objects.remove(find(objects, kind, name))


def replica(name: str, node: str = "n1", **status: Any) -> Object:
    labels = {
        "app.kubernetes.io/name": "meshgraft",
        "app.kubernetes.io/component": "injector",
    }
    return thing("Pod", name, "meshgraft", labels=labels, spec={"nodeName": node}, status=status)


def cni() -> list[Object]:
    """All objects of a CNI plugin that is well."""
    daemon_set = thing("DaemonSet", CNI, CNI)
    return [
        thing("ConfigMap", "linkerd-cni-config", CNI),
        thing("ClusterRole", CNI),
        thing("ClusterRoleBinding", CNI),
        thing("ServiceAccount", CNI, CNI),
        {**daemon_set, "status": rolled_out(daemon_set)},
    ]


def _holds(obj: Object, ref: Ref) -> bool:
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    wanted = [part.partition("=") for part in ref.selector.split(",") if part]
    return (
        KINDS[obj["kind"]] == ref.kind
        and ref.name in ("", meta["name"])
        and ref.namespace in ("", meta.get("namespace", ""))
        and all(key in labels and value in ("", labels[key]) for key, _, value in wanted)
    )


def snapshot(
    objects: Iterable[Object],
    options: Options | None = None,
    denied: str = "",
    **more: Any,
) -> Snapshot:
    """The cluster that holds these objects; one plural may be forbidden to look at."""
    options, objects = options or Options(), list(objects)
    categories = selected(CATEGORIES, options)
    error = ApiServerError(f"not allowed to get {denied}", status=403)

    def answer(ref: Ref, found: Any) -> Any:
        return error if ref.kind.plural == denied else found

    def one(ref: Ref) -> Any:
        return answer(ref, next((obj for obj in objects if _holds(obj, ref)), None))

    def many(ref: Ref) -> Any:
        keep = ref.keep or (lambda obj: obj)
        return answer(ref, tuple(keep(obj) for obj in objects if _holds(obj, ref)))

    given: dict[str, Any] = {
        "now": datetime.now(UTC),
        "version": {"gitVersion": "v1.36.1"},
        "access": {access: True for each in categories for access in each.access(options)},
        "trials": {
            trial: meshed({"metadata": {}}) for each in categories for trial in each.trials(options)
        },
        "lists": {ref: many(ref) for each in categories for ref in each.lists(options)},
        **more,
    }
    known = {ref: one(ref) for each in categories for ref in each.objects(options)}
    first = Snapshot(options=options, objects=known, **given)
    later = {ref: one(ref) for each in categories for ref in each.later(first)}
    return Snapshot(options=options, objects={**known, **later}, **given)


def results(found: Snapshot) -> dict[str, Result]:
    return {result.check.id: result for result in run(CATEGORIES, found)}


def faults(
    change: Change = lambda _: None,
    options: Options | None = None,
    objects: list[Object] | None = None,
    **more: Any,
) -> dict[str, Result]:
    """What is not well after a change, by id."""
    objects = copy.deepcopy(installation() if objects is None else objects)
    change(objects)
    found = results(snapshot(objects, options, **more))
    return {name: result for name, result in found.items() if result.status != "success"}
