"""Odd reviews, and what must hold of the webhook's answer to any of them.

Reviews are the recorded ones, changed here and there: a field gone, of another type, doubled or
renamed, an annotation with a strange value, bytes flipped. The choices come from a `Source`, so
that a fuzzer (`tests.fuzz.run`) and a plain test (random numbers) drive the same code.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import Callable
from typing import Any, Protocol

import httpx
import jsonpatch

from tests.injector.core.test_recordings import PROFILES, app, review
from tests.injector.support import REVIEWS
from vocabulary.annotations import ANNOTATIONS

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 65536, 2**63, 2**70, 1.5, 1e300),
    *(
        "",
        "x",
        "\0",
        "💥",
        "a" * 300,
        "$(POD_NAME)",
        "~1/0",
        "\ud800".encode("utf-8", "replace").decode(),
    ),
    *([], {}, [None], [[]], [{}], {"": None}, {"name": 1}, {"name": "linkerd-proxy"}),
    {"name": "envoy-proxy", "image": "x"},
    {"httpGet": {"port": "web"}},
    {"containerPort": "80"},
)
_TEXTS = (
    *("enabled", "disabled", "ingress", "yes please", "true", "1h", "-5s", "100m", "1e9Gi"),
    *("80,443-", "1-65535", "0", "99999999999999999999", "10.0.0.0/8,::/0", '[{"name":"A"}]'),
    *("{", "[" * 200, '"', "\n", "🚀" * 50, "a,b," * 100),
)
_KEYS = (
    *(row.key for row in ANNOTATIONS),
    "config.linkerd.io/typo",
    "linkerd.io/created-by",
    "meshgraft.io/redirect",
)


class Source(Protocol):
    """Where choices come from."""

    def integer(self, lower: int, upper: int) -> int:
        """A whole number, both ends included."""


def body_from(source: Source) -> bytes:
    """The body of an odd review."""
    tree = review(_pick(source, REVIEWS))
    for _ in range(source.integer(0, 6)):
        _pick(source, _CHANGES)(source, tree)
    if source.integer(0, 30) == 0:
        tree["apiVersion"] = "admission.k8s.io/v1beta1"
    body = bytearray(json.dumps(tree).encode())
    if source.integer(0, 15) == 0:
        for _ in range(source.integer(1, 4)):
            body[source.integer(0, len(body) - 1)] = source.integer(0, 255)
    return bytes(body)


def check(body: bytes, profile: Any, *, cni: bool) -> None:
    """What must hold: a defined status; a whole answer; a patch that applies, and only once."""
    response = asyncio.run(_post(body, profile, cni))
    if response.status_code == 500 and "is not known to the injector" in response.text:
        return  # a namespace that is not among the recorded ones: failurePolicy is to decide
    assert response.status_code in (200, 400), f"{response.status_code}: {response.text}"
    if response.status_code == 400:
        assert response.text.strip()
        return
    answer = response.json()["response"]
    assert answer["allowed"] is True
    if "patch" not in answer:
        return
    tree = json.loads(body.decode(errors="replace"))  # bytes that nobody reads need not be text
    given = tree["request"]["object"]
    patched = jsonpatch.apply_patch(
        copy.deepcopy(given), json.loads(base64.b64decode(answer["patch"]))
    )
    _check_lists(given, patched)
    tree["request"]["object"] = patched
    again = asyncio.run(_post(json.dumps(tree).encode(), profile, cni))
    assert again.status_code == 200, again.text
    assert "patch" not in again.json()["response"], base64.b64decode(
        again.json()["response"]["patch"]
    )


def _check_lists(before: Any, after: Any) -> None:
    """Nothing of the pod's own is lost, and no name is there twice that was not before."""
    if before.get("kind") != "Pod":
        return
    for field in ("initContainers", "containers", "volumes"):
        old = [item["name"] for item in before["spec"].get(field) or ()]
        new = [item["name"] for item in after["spec"].get(field) or ()]
        assert set(old) <= set(new), (field, old, new)
        assert len(new) - len(set(new)) <= len(old) - len(set(old)), (field, old, new)


async def _post(body: bytes, profile: Any, cni: bool) -> httpx.Response:
    # An exception that the application does not handle reaches us here, as a finding.
    transport = httpx.ASGITransport(app(profile, cni), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
        return await client.post("/mutate", content=body)


def profile_from(source: Source) -> Any:
    """One of the profiles that add containers."""
    return _pick(source, PROFILES)


# --- changes ------------------------------------------------------------------------------------


def _pick(source: Source, items: Any) -> Any:
    return items[source.integer(0, len(items) - 1)]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return found


def _place(source: Source, tree: Any) -> tuple[Any, Any]:
    """Mostly within what the injector reads, at times anywhere in the review."""
    request = tree.get("request")
    pod = request.get("object") if isinstance(request, dict) else None
    if isinstance(pod, dict) and source.integer(0, 9):
        metadata, spec = pod.get("metadata"), pod.get("spec")
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)  # half of the review, and of no interest
        tree = {"metadata": metadata, "spec": spec}
    place: tuple[Any, Any] = _pick(source, _places(tree) or [({"": None}, "")])
    return place


def _replace(source: Source, tree: Any) -> None:
    node, key = _place(source, tree)
    node[key] = copy.deepcopy(_pick(source, _ODD))


def _remove(source: Source, tree: Any) -> None:
    node, key = _place(source, tree)
    del node[key]


def _double(source: Source, tree: Any) -> None:
    node, key = _place(source, tree)
    if isinstance(node, list):
        node.append(copy.deepcopy(node[key]))


def _rename(source: Source, tree: Any) -> None:
    node, key = _place(source, tree)
    if isinstance(node, dict):
        node[_pick(source, ("name", "annotations", "spec", "", key.upper()))] = node.pop(key)


def _annotate(source: Source, tree: Any) -> None:
    node: Any = tree
    for key in ("request", "object", "metadata"):
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return
    if not isinstance(node.get("annotations"), dict):
        node["annotations"] = {}
    node["annotations"]["linkerd.io/inject"] = "enabled"
    node["annotations"][_pick(source, _KEYS)] = _pick(source, _TEXTS)


_CHANGES: tuple[Callable[[Source, Any], None], ...] = (
    _replace,
    _remove,
    _double,
    _rename,
    _annotate,
    _annotate,
)
