"""Joins a pod of ours, computed anew, with what became of it since: others' work is not undone.

Between two calls of the webhook the API server fills in defaults and runs its own admission
plugins over our containers (LimitRanger's resources, ServiceAccount's mount), and other webhooks
change them: images of a registry's mirror, resources, security. Source: Kubernetes, "Dynamic
Admission Control", reinvocation policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from injector.authorship import LISTS
from injector.model import Object

_THEIRS = ("image", "imagePullPolicy", "resources", "securityContext")
"""Fields of a container of which policies of the cluster have the last word."""


def rejoin(pod: Object, fresh: Object) -> Object:
    """``fresh`` with what others made of the same items in ``pod``, in the order they are in.

    Every name in the lists of ``pod`` must be in ``fresh`` too.
    """
    spec = dict(fresh["spec"])
    for name in LISTS:
        if spec.get(name):
            spec[name] = _items(pod["spec"].get(name) or [], spec[name], name == "volumes")
    return {**fresh, "spec": spec}


def _items(old: list[Object], new: list[Object], are_volumes: bool) -> list[Object]:
    before = {item["name"]: item for item in old}
    joined = {item["name"]: item for item in new}
    for name in joined.keys() & before.keys():
        kept = before[name]
        joined[name] = kept if are_volumes else _container(kept, joined[name])
    if joined.keys() == before.keys():
        return [joined[item["name"]] for item in old]
    return list(joined.values())


def _container(old: Object, new: Object) -> Object:
    """A container's args and env are all that it knows of its pod: where they are as they were,
    there is no news in the rest."""
    if old == new:
        return old
    result = {**new, **old} if _is_configured(old, new) else _reconfigured(old, new)
    resources = _both(new.get("resources"), old.get("resources"))
    if resources:
        result["resources"] = resources
    # The API server leaves out what is zero or empty: added again, it would be no change.
    return {key: value for key, value in result.items() if key in old or value}


def _is_configured(old: Object, new: Object) -> bool:
    variables = {variable["name"]: variable for variable in old.get("env") or ()}
    return (old.get("args") or []) == (new.get("args") or []) and all(
        _covers(variables.get(variable["name"]), variable) for variable in new.get("env") or ()
    )


def _covers(old: Any, new: Any) -> bool:
    """Whether ``old`` says all that ``new`` says; it may say more, defaults for instance."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_covers(old.get(key), value) for key, value in new.items())
    return old == new or not (old or new)


def _reconfigured(old: Object, new: Object) -> Object:
    result = {**old, **new, **{key: old[key] for key in _THEIRS if key in old}}
    for name, key in (("env", "name"), ("volumeMounts", "mountPath")):
        ours = {item[key] for item in new.get(name) or ()}
        theirs = [item for item in old.get(name) or () if item[key] not in ours]
        if theirs:
            result[name] = [*(new.get(name) or ()), *theirs]
    return result


def _both(lower: Mapping[str, Any] | None, upper: Mapping[str, Any] | None) -> Object:
    """Resources of both; where both name an amount, that of ``upper``."""
    lower, upper = lower or {}, upper or {}
    result = {**lower, **upper}
    for part in ("limits", "requests"):
        amounts = {**(lower.get(part) or {}), **(upper.get(part) or {})}
        if amounts:
            result[part] = amounts
    return result
