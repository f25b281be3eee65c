"""``meshgraft inject --profile=linkerd`` gives what Linkerd's own ``inject`` gives, document for
document, and ``uninject`` gives back what was there before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from injector.core.model import Object
from tests.commands.support import Run, Shell
from tests.shared import conformance_cases, require_conformance
from vocabulary.annotations.parse import BadValue, parse_quantity

SUITE = "linkerd-inject"
CASES = conformance_cases(SUITE) or ["absent"]
ALREADY_MESHED = frozenset(("already_injected",))
"""Cases of which the input is what an earlier injection left."""


def _inject(shell: Shell, folder: Path, case: str, *more: str) -> Run:
    args = json.loads((folder / case / "case.json").read_text())["args"]
    values = folder / "values.yaml"
    run = shell(
        *("inject", "--ignore-cluster", "--profile=linkerd", "--values", values),
        *args,
        *more,
        folder / case / "input.yml",
    )
    assert run.code == 0, run.stderr
    return run


def _documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


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


@pytest.mark.parametrize("case", CASES)
def test_injection_gives_linkerds_documents(case: str, shell: Shell) -> None:
    folder = require_conformance(SUITE)
    found = _inject(shell, folder, case).documents
    expected = _documents(folder / case / "expected.yml")
    assert [normal(one) for one in found] == [normal(one) for one in expected]
    assert _envs(found) == _envs(expected)


def _envs(node: Any) -> list[list[Object]]:
    """The proxies' variables, in order, with their empty values, which `normal` leaves out."""
    if isinstance(node, list):
        return [env for item in node for env in _envs(item)]
    if not isinstance(node, dict):
        return []
    if node.get("name") == "linkerd-proxy" and "env" in node:
        return [[{"value": "", **item} for item in node["env"]]]
    return [env for value in node.values() for env in _envs(value)]


@pytest.mark.parametrize("case", [case for case in CASES if case not in ALREADY_MESHED])
def test_uninjection_gives_the_input_back(case: str, shell: Shell) -> None:
    folder = require_conformance(SUITE)
    injected = _inject(shell, folder, case).stdout
    given_back = shell("uninject", "-", stdin=injected)
    assert given_back.code == 0, given_back.stderr
    assert given_back.documents == _documents(folder / case / "input.yml")


@pytest.mark.parametrize("case", CASES)
def test_a_second_injection_changes_nothing(case: str, shell: Shell) -> None:
    folder = require_conformance(SUITE)
    once = _inject(shell, folder, case).stdout
    args = json.loads((folder / case / "case.json").read_text())["args"]
    values = folder / "values.yaml"
    twice = shell(*("inject", "--profile=linkerd", "--values", values, *args, "-"), stdin=once)
    assert twice.stdout == once


@pytest.mark.parametrize("case", CASES)
def test_json_holds_the_same_documents(case: str, shell: Shell) -> None:
    folder = require_conformance(SUITE)
    expected = _inject(shell, folder, case).documents
    text, found = _inject(shell, folder, case, "-o", "json").stdout, []
    while text:
        document, end = json.JSONDecoder().raw_decode(text)
        found.append(document)
        text = text[end:].lstrip()
    assert found == expected


@pytest.mark.parametrize("manual", [(), ("--manual",)], ids=["annotations", "manual"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ALREADY_MESHED])
def test_a_manifest_comes_back_byte_for_byte(
    case: str, manual: tuple[str, ...], shell: Shell, tmp_path: Path
) -> None:
    path = require_conformance(SUITE) / case / "input.yml"
    _comes_back(path, manual, shell, tmp_path)


@pytest.mark.parametrize("manual", [(), ("--manual",)], ids=["annotations", "manual"])
@pytest.mark.parametrize("value", ["enabled", "ingress"])
def test_its_owners_own_inject_comes_back_byte_for_byte(
    value: str, manual: tuple[str, ...], shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "own.yml"
    path.write_text(
        f"""# Mine.
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    a.example/first: "1"
    linkerd.io/inject: {value}
    z.example/last: '2'
spec:
  containers:
  - {{name: app, image: "app:1"}}
"""
    )
    _comes_back(path, manual, shell, tmp_path)


def _comes_back(path: Path, manual: tuple[str, ...], shell: Shell, folder: Path) -> None:
    injected = shell("inject", "--ignore-cluster", *manual, path)
    assert injected.code == 0, injected.stderr
    (folder / "injected.yml").write_text(injected.stdout)
    assert injected.stdout != path.read_text()
    back = shell("uninject", folder / "injected.yml")
    assert back.stdout == path.read_text()
