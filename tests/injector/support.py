"""Recorded admissions, and short ways to run the core on them."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

from injector.core.model import Namespace, Object, Origin, Outcome, Owner
from injector.core.mutate import mutate
from injector.core.values import Values, decode_values
from injector.profiles import PROFILES

DATA = Path(__file__).resolve().parent.parent / "data"
WEBHOOK = Origin(created_by="meshgraft/injector test", additions=True)
COMMAND = Origin(created_by="linkerd/cli dev-undefined", additions=False)
REVIEWS = tuple(sorted(path.stem for path in (DATA / "admission-reviews").glob("*.json")))
PODS = tuple(name for name in REVIEWS if name.startswith("pod-"))
INJECTED_PODS = (
    "pod-edge-gateway",
    "pod-legacy-opted-in",
    "pod-optout-opted-in",
    "pod-shop-api",
    "pod-shop-db-0",
    "pod-shop-debug-shell",
    "pod-shop-dry",
    "pod-shop-long-owner-name",
    "pod-shop-native-sidecar-app",
    "pod-shop-report",
    "pod-shop-web",
)


@functools.cache
def _text(name: str) -> str:
    return (DATA / f"{name}.json").read_text()


def request(name: str) -> Object:
    """The recorded request called ``name``, afresh."""
    found: Object = json.loads(_text(f"admission-reviews/{name}"))["request"]
    return found


def recorded(name: str) -> tuple[Object, Namespace, Owner]:
    """A recorded object, its namespace, and the owner that it names directly."""
    asked = request(name)
    return asked["object"], namespace(asked["namespace"]), owner(asked["object"])


def namespace(name: str) -> Namespace:
    """A recorded namespace."""
    for item in json.loads(_text("namespaces"))["items"]:
        if item["metadata"]["name"] == name:
            metadata = item["metadata"]
            return Namespace(name, metadata.get("annotations", {}), metadata.get("labels", {}))
    raise KeyError(name)


def owner(obj: Object) -> Owner:
    """The direct owner; a pod without is its own."""
    references = obj["metadata"].get("ownerReferences", [])
    if len(references) != 1:
        return Owner("pod", obj["metadata"].get("name", ""))
    one = references[0]
    return Owner(one["kind"].lower(), one["name"], one["apiVersion"], one["uid"])


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    """A small pod with one container ``app``, unless ``spec`` says otherwise."""
    metadata: Object = {"name": "app"}
    if annotations is not None:
        metadata["annotations"] = annotations
    containers = [{"name": "app", "image": "app:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
    }


def meshed(**annotations: str) -> Namespace:
    """A namespace with injection on."""
    return Namespace("shop", {"linkerd.io/inject": "enabled", **annotations})


def settings(**tree: Any) -> Values:
    """Settings from a tree shaped like the values file."""
    return decode_values({"linkerdVersion": "v1", **tree})


def inject(
    obj: Object,
    where: Namespace | None = None,
    values: Values | None = None,
    origin: Origin = WEBHOOK,
    whose: Owner | None = None,
    profile: str = "linkerd",
) -> Outcome:
    """The core; the object given must come out untouched."""
    before = copy.deepcopy(obj)
    outcome = mutate(
        obj,
        where or meshed(),
        whose or owner(obj),
        values or settings(),
        PROFILES[profile],
        origin,
    )
    assert obj == before, "the core changed its input"
    return outcome


def container(obj: Object, name: str) -> Object:
    """The container or init container called ``name``."""
    spec = obj["spec"]
    for one in (*spec.get("initContainers", []), *spec["containers"]):
        if one["name"] == name:
            found: Object = one
            return found
    raise KeyError(name)


def env(obj: Object, name: str = "linkerd-proxy") -> dict[str, Any]:
    """The environment of a container, by name: the value, or what it is taken from."""
    return {
        item["name"]: item.get("value", item.get("valueFrom"))
        for item in container(obj, name)["env"]
    }


def names(items: list[Object] | None) -> list[str]:
    """The names of containers or volumes, in order."""
    return [item["name"] for item in items or []]
