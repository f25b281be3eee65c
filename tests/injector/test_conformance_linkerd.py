"""Profile ``linkerd`` gives what Linkerd's own ``inject --manual`` gives, document for document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from injector.annotations.parse import BadValue, parse_quantity
from injector.core import mutate
from injector.model import Namespace, Object, Owner
from injector.profiles.linkerd import LinkerdProfile
from injector.values import Values, decode_values
from tests.injector.support import COMMAND
from tests.shared import conformance_cases, require_conformance

SUITE = "linkerd-inject"
NEEDS_THE_COMMAND = frozenset(
    ("already_injected", "cronjob", "deployment_inbound_policy", "namespace")
)
"""Cases about what the command does around the core: uninject, or annotate only."""

# Flags of ``inject`` that the cases use: the setting, and the annotation that is left behind.
FLAGS = {
    "proxy-version": "proxy.image.version",
    "skip-inbound-ports": "proxyInit.ignoreInboundPorts",
    "skip-outbound-ports": "proxyInit.ignoreOutboundPorts",
    "proxy-cpu-request": "proxy.resources.cpu.request",
    "proxy-cpu-limit": "proxy.resources.cpu.limit",
    "proxy-memory-request": "proxy.resources.memory.request",
    "proxy-memory-limit": "proxy.resources.memory.limit",
    "enable-debug-sidecar": "enableDebugSidecar",
}


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _settings(folder: Path, args: list[str]) -> tuple[Values, dict[str, str]]:
    """The settings that a case's arguments give, and the annotations that they leave behind."""
    tree = yaml.safe_load((folder / "values.yaml").read_text())
    annotations: dict[str, str] = {}
    for arg in args:
        flag, _, value = arg.removeprefix("--").partition("=")
        if flag == "set":
            path, _, text = value.partition("=")
            _put(tree, path, yaml.safe_load(text))
        elif flag != "manual":
            _put(tree, FLAGS[flag], value or "true")
            annotations[f"config.linkerd.io/{flag}"] = value or "true"
    return decode_values(tree), annotations


def _documents(path: Path) -> list[Object]:
    found: list[Object] = []
    for document in filter(None, yaml.safe_load_all(path.read_text())):
        found += document["items"] if document["kind"] == "List" else [document]
    return found


def _injected(document: Object, values: Values, annotations: dict[str, str]) -> Object:
    metadata = document["metadata"]
    is_pod = document["kind"] == "Pod"
    template = document if is_pod else document["spec"]["template"]
    outcome = mutate(
        {"apiVersion": "v1", "kind": "Pod", **template},
        Namespace(metadata.get("namespace", "")),
        Owner(document["kind"].lower(), metadata["name"]),
        values,
        LinkerdProfile(),
        COMMAND,
    )
    assert outcome.injected, outcome.reasons
    patched = outcome.patched
    patched["metadata"].setdefault("annotations", {}).update(annotations)
    if is_pod:
        return patched
    bare = {"metadata": patched["metadata"], "spec": patched["spec"]}
    return {**document, "spec": {**document["spec"], "template": bare}}


_UNCOUNTED = frozenset(("status", "creationTimestamp", "linkerd.io/created-by"))


def normal(node: Any) -> Any:
    """A document without what does not count; quantities by what they are worth."""
    if isinstance(node, dict):
        pairs = {key: normal(value) for key, value in node.items() if key not in _UNCOUNTED}
        for section in ("limits", "requests"):
            if isinstance(pairs.get(section), dict):
                pairs[section] = {key: _worth(value) for key, value in pairs[section].items()}
        return {key: value for key, value in pairs.items() if value not in (None, "", [], {}, 0)}
    if isinstance(node, list):
        return [normal(item) for item in node]
    return node


def _worth(amount: Any) -> Any:
    try:
        return parse_quantity(str(amount))
    except BadValue:
        return amount


@pytest.mark.parametrize("case", conformance_cases(SUITE) or ["absent"])
def test_manual_injection_gives_linkerds_documents(case: str) -> None:
    folder = require_conformance(SUITE)
    if case in NEEDS_THE_COMMAND:
        pytest.skip(f"{case} is about the command, not the core")
    args = json.loads((folder / case / "case.json").read_text())["args"]
    values, annotations = _settings(folder, args)
    given = _documents(folder / case / "input.yml")
    expected = _documents(folder / case / "expected.yml")
    found = [_injected(document, values, annotations) for document in given]
    assert [normal(one) for one in found] == [normal(one) for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert _pod_env(ours) == _pod_env(theirs)


def _pod_env(document: Object) -> list[Object]:
    """The proxy's variables with their empty values, which `normal` leaves out."""
    spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
    every = (*spec.get("initContainers", []), *spec["containers"])
    return next(
        [{"value": "", **item} for item in one["env"]]
        for one in every
        if one["name"] == "linkerd-proxy"
    )
