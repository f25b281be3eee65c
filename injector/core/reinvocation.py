"""Joins a pod of ours, computed anew, with what became of it since: others' work is not undone.

Between two calls of the webhook the API server fills in defaults and runs its own admission
plugins over our containers (LimitRanger's resources, ServiceAccount's mount), and other webhooks
change them: images of a registry's mirror, resources, security. Source: Kubernetes, "Dynamic
Admission Control", reinvocation policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from injector.core.authorship import LISTS
from injector.core.marks import all_marks
from injector.core.model import Object
from injector.core.pods import containers
from vocabulary.annotations import PREFIX

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


def broken_by_others(pod: Object, fresh: Object) -> Iterator[str]:
    """A warning for each thing that others made of what we added, and that keeps it from working:
    ``pod`` is as it came again, ``fresh`` as it would be without them."""
    marks = all_marks()
    inits = pod["spec"].get("initContainers") or ()
    present = {each.get("name"): each for each in containers(pod)}
    for ours in containers(fresh):
        name = ours.get("name")
        if name in marks.proxies and name in present:
            yield from _of_user(name, _user(present[name]), _user(ours), present)
    natives = [number for number, each in enumerate(inits) if each.get("name") in marks.proxies]
    # With a validator, the rules are there before all of them.
    if natives and not marks.validators.isdisjoint(present):
        for each in inits[: natives[0]]:
            if each.get("name") not in marks.containers:
                yield (
                    f'initContainers "{each.get("name")}" was put in front of the proxy, where '
                    "nothing takes its connections. Have its webhook put it last, or skip the "
                    f"ports that it needs ({PREFIX}skip-outbound-ports)"
                )


def _of_user(
    name: str, found: object, wanted: object, present: Mapping[Any, Object]
) -> Iterator[str]:
    if found != wanted and wanted is not None:
        yield (
            f'container "{name}" has runAsUser {found}, by a policy or webhook; the traffic rules '
            f"are for {wanted}, so it would catch its own traffic. Name a uid that the policy "
            f"allows, and nobody else in the pod has ({PREFIX}proxy-uid)"
        )
    for validator in sorted(all_marks().validators & present.keys()):
        if found is not None and _user(present[validator]) == found:
            yield (
                f'initContainers "{validator}" has runAsUser {found}, as the proxy: it would never '
                f"see its connections redirected. Give the proxy another uid ({PREFIX}proxy-uid)"
            )


def _user(container: Object) -> object:
    return (container.get("securityContext") or {}).get("runAsUser")


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
