"""What differs between a live pod and the one that today's settings would give, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from injector.core.authorship import LISTS
from injector.core.marks import DEFAULT_CONTAINER, PROFILE, SAFE_TO_EVICT
from injector.core.model import Object
from injector.core.pods import annotations_of
from meshgraft.audit.compare import Difference, differences, same_image
from meshgraft.audit.model import is_ours, labels_of
from vocabulary.annotations import REDIRECT_ANNOTATION
from vocabulary.annotations.redirect import CREATED_BY

_LONGEST = 48
"""Characters of a value that are shown: an Envoy's configuration is 12 KiB."""
_NO_NEWS = frozenset((CREATED_BY, "linkerd.io/proxy-version", DEFAULT_CONTAINER, SAFE_TO_EVICT))
"""Annotations of ours that say nothing of how the proxy works, or that others have a say in."""
_NAMES = {
    REDIRECT_ANNOTATION: "the traffic rules",
    "linkerd.io/trust-root-sha256": "the trust anchors",
}
_ONLY_OURS = ("command", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
"""Fields of our containers that nobody adds to: there and no longer wanted, they are old."""
_OUR_VARIABLES = "LINKERD2_PROXY_"
_WORDS = {"initContainers": "init container", "containers": "container", "volumes": "volume"}


def drift(live: Object, wanted: Object) -> list[str]:
    """Each difference in a few words; none where the live pod is as it should be.

    ``wanted`` is the pod made anew from what the live one was made of.
    """
    profiles = [annotations_of(pod).get(PROFILE, "linkerd") for pod in (live, wanted)]
    if profiles[0] != profiles[1]:
        # Nothing is as it was then.
        return [f"profile {_change(*profiles)}"]
    return [
        *_annotations(annotations_of(live), annotations_of(wanted)),
        *_labels(labels_of(live), labels_of(wanted)),
        *_items(live["spec"], wanted["spec"]),
    ]


def _annotations(live: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    for key, text in wanted.items():
        if key in _NO_NEWS or live.get(key) == text:
            continue
        if key == REDIRECT_ANNOTATION:
            yield from _redirect(live.get(key), text)
        elif key in _NAMES:
            yield f"{_NAMES[key]} are others"
        else:
            yield f"annotation {key}: {_change(live.get(key), text)}"
    for key in live.keys() - wanted.keys():
        if key in _NAMES or is_ours(key):
            yield f"annotation {key}: {_change(live[key], None)}"


def _redirect(live: str | None, wanted: str) -> Iterator[str]:
    if live is None:
        yield f"annotation {REDIRECT_ANNOTATION} would be added"
        return
    try:
        before = json.loads(live)
    except ValueError:
        before = live
    if not isinstance(before, dict):
        yield f"annotation {REDIRECT_ANNOTATION} is not readable"
        return
    after = json.loads(wanted)
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield f"the traffic rules: {key} {_change(before.get(key), after.get(key))}"


def _labels(live: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    for key, text in wanted.items():
        if live.get(key) != text:
            yield f"label {key}: {_change(live.get(key), text)}"


def _items(live: Object, wanted: Object) -> Iterator[str]:
    """Containers and volumes; one that changes from container to native sidecar is compared with
    its namesake, wherever that is."""
    places = [(name, item) for name in LISTS for item in live.get(name) or ()]
    olds = {(name == "volumes", item["name"]): (name, item) for name, item in places}
    for name in LISTS:
        for item in wanted.get(name) or ():
            place, old = olds.pop((name == "volumes", item["name"]), ("", {}))
            if not place:
                yield f"{_WORDS[name]} {item['name']} would be added"
                continue
            if place != name:
                yield f"{item['name']} would be {_position(name)}, and is {_position(place)}"
            if old is not item:
                yield from (f"{item['name']}: {text}" for text in _item(old, item, name))
    yield from (f"{_WORDS[name]} {item['name']} would be gone" for name, item in olds.values())


def _position(name: str) -> str:
    return "a native sidecar" if name == "initContainers" else "a container"


def _item(old: Object, new: Object, name: str) -> Iterator[str]:
    if name == "volumes":
        yield from map(_told, differences(old, new))
        return
    special = {"image", "imagePullPolicy", "args", "env"}
    if not same_image(old.get("image", ""), new.get("image", "")):
        yield f"image {_change(old.get('image'), new.get('image'))}"
    # The admission plugin AlwaysPullImages makes it Always.
    policies = (old.get("imagePullPolicy"), new.get("imagePullPolicy"))
    if policies[1] and policies[0] not in (policies[1], "Always"):
        yield f"imagePullPolicy {_change(*policies)}"
    yield from _args(old.get("args") or [], new.get("args") or [])
    yield from _env(old.get("env") or [], new.get("env") or [])
    rest = {key: value for key, value in new.items() if key not in special}
    yield from map(_told, differences(old, rest))
    for key in _ONLY_OURS:
        if key in old and not new.get(key):
            yield f"{key} would be gone"


def _told(difference: Difference) -> str:
    path = ".".join(difference.path).replace(".[", "[")
    return f"{path} {_change(difference.live, difference.wanted)}"


def _env(old: list[Object], new: list[Object]) -> Iterator[str]:
    before = {variable["name"]: variable for variable in old}
    for variable in new:
        live = before.pop(variable["name"], None)
        if live is None:
            if variable.get("value") != "":
                yield f"env {variable['name']} {_change(None, _value(variable))}"
        elif any(differences(live, variable)):
            yield f"env {variable['name']} {_change(_value(live), _value(variable))}"
    for name in before:
        if name.startswith(_OUR_VARIABLES):
            yield f"env {name} {_change(_value(before[name]), None)}"


def _value(variable: Object) -> Any:
    return variable.get("valueFrom") or variable.get("value", "")


def _args(old: list[str], new: list[str]) -> Iterator[str]:
    if old == new:
        return
    before, after = _flags(old), _flags(new)
    for name in dict.fromkeys((*before, *after)):
        was, wanted = before.get(name), after.get(name)
        if was == wanted:
            continue
        where = _first_difference(was, wanted)
        yield f"{name} {where}" if where else f"{name} {_change(was, wanted)}"
    if before == after:
        yield "the order of its arguments"


def _flags(args: list[str]) -> dict[str, str]:
    """Arguments by flag: ``--name value`` and ``--name=value``."""
    found: dict[str, str] = {}
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        if arg.startswith("--"):
            name, equals, text = arg.partition("=")
            found[name] = text if equals or following.startswith("--") else following
    return found


def _first_difference(was: str | None, wanted: str | None) -> str | None:
    """Where two texts that are JSON differ first; None where they are not both that."""
    try:
        pair = [json.loads((text or "").replace("$$", "$")) for text in (was, wanted)]
    except ValueError:
        return None
    if not all(isinstance(one, dict) for one in pair):
        return None
    found = next(iter((*differences(*pair), *differences(*reversed(pair)))), None)
    if found is None:
        return None
    path = ".".join(found.path).replace(".[", "[")
    return f"differs, first at {path}"


def _change(live: Any, wanted: Any) -> str:
    return f"{_shown(live)} → {_shown(wanted)}"


def _shown(value: Any) -> str:
    """A value for people: short, and no certificates."""
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if "-----BEGIN " in text:
        return "(certificates)"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
