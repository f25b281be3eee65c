"""Helm's library and the program ``helm`` are asked for the same; without either it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshgraft._errors import CommandError
from meshgraft.charts import helm, location
from meshgraft.charts.helm import Request, explain, merge, render
from meshgraft.charts.location import chart_dir
from tests.charts.support import INJECTOR, one

REQUEST = Request(
    chart=INJECTOR,
    namespace="meshgraft",
    layers=[{"controllerReplicas": 2}, {"proxy": {"logLevel": "debug"}}],
    set=["a.b=c"],
    set_string=["d=1"],
    set_file=["e=/f"],
)

# Started by the shell: the path of an interpreter behind #! may have no space in it.
PROGRAM = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, pathlib, sys
given = sys.argv[1:]
files = [given[i + 1] for i, flag in enumerate(given) if flag == "--values"]
here = pathlib.Path({folder!r})
(here / "asked").write_text(json.dumps([given, [open(name).read() for name in files]]))
sys.stderr.write({stderr!r})
sys.stdout.write("---\\nkind: Service\\n---\\nkind: Namespace\\n")
sys.exit({code})
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, without Helm's library."""
    monkeypatch.setattr(helm, "_library", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def make_helm(folder: Path, stderr: str = "", code: int = 0) -> None:
    """A program that notes what it was asked for."""
    text = PROGRAM.format(python=sys.executable, folder=str(folder), stderr=stderr, code=code)
    (folder / "helm").write_text(text)
    (folder / "helm").chmod(0o755)


def test_without_the_library_the_program_renders(program: Path) -> None:
    make_helm(program)
    assert render(REQUEST).objects == ["kind: Namespace\n", "kind: Service\n"]
    arguments, files = json.loads((program / "asked").read_text())
    assert arguments[:5] == [
        "template",
        "meshgraft",
        str(chart_dir("meshgraft")),
        "--namespace",
        "meshgraft",
    ]
    assert arguments[-6:] == ["--set", "a.b=c", "--set-string", "d=1", "--set-file", "e=/f"]
    assert [yaml.safe_load(text) for text in files] == REQUEST.layers


def test_what_the_program_complains_of_is_told(program: Path) -> None:
    make_helm(program, "Error: x:\n- at '/proxy/uid': minimum: got 0, want 1\n", 1)
    with pytest.raises(CommandError, match=r"^proxy\.uid: minimum: got 0, want 1$"):
        render(REQUEST)


def test_with_neither_it_is_said_what_to_install(program: Path) -> None:
    with pytest.raises(CommandError, match=r"extra `install`.*helm\.sh"):
        render(REQUEST)


def test_a_library_for_another_platform_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    helm_python = pytest.importorskip("helm_python")

    def fail() -> str:
        raise helm_python.HelmLibraryError("no library here")

    monkeypatch.setattr(helm_python, "helm_sdk_version", fail)
    assert helm._library() is None


def test_no_library_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", None)
    assert helm._library() is None


def test_assignments_win_over_layers_and_later_layers_over_earlier() -> None:
    asked = Request(
        chart=INJECTOR,
        namespace="meshgraft",
        layers=[{"controllerReplicas": 2, "revisionHistoryLimit": 7}, {"controllerReplicas": 3}],
        set=["controllerReplicas=4"],
        set_string=["podLabels.tier=1"],
    )
    found = one([yaml.safe_load(each) for each in render(asked).objects], "Deployment")
    assert found["spec"]["replicas"] == 4
    assert found["spec"]["revisionHistoryLimit"] == 7
    assert found["spec"]["template"]["metadata"]["labels"]["tier"] == "1"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("controllerReplicas", '--set controllerReplicas: key "controllerReplicas" has no value'),
        ("a[-1]=2", "--set a[-1]=2: "),
    ],
)
def test_an_assignment_that_is_none_is_named(assignment: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        render(Request(chart=INJECTOR, namespace="meshgraft", set=[assignment]))
    assert message in str(caught.value)


TREES = st.recursive(
    st.none() | st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merging_keeps_all_that_is_above_and_leaves_what_it_was_given(
    low: dict[str, object], middle: dict[str, object], high: dict[str, object]
) -> None:
    before = json.dumps([low, high])
    assert merge(low, {}) == low == merge({}, low)
    assert merge(merge(low, high), high) == merge(low, high)
    assert set(merge(low, high)) == {*low, *high}
    assert json.dumps([low, high]) == before
    assert merge(merge(low, middle), high).keys() == merge(low, merge(middle, high)).keys()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "values don't meet the specifications of the schema(s):\nmeshgraft:\n"
            "- at '': additional properties 'a', 'b' not allowed\n- at '/x/0/y~1z': got null\n",
            "the values: additional properties 'a', 'b' not allowed; x[0].y/z: got null",
        ),
        (
            "- at '/x': 'anyOf' failed\n  - at '/x': got string\n  - at '/x': got no percentage\n",
            "x: got string; x: got no percentage",
        ),
        (
            "execution error at (meshgraft/templates/validate.yaml:3:4): set this or that",
            "set this or that",
        ),
        ("something else\n", "something else"),
    ],
)
def test_helms_errors_are_told_by_their_keys(error: str, expected: str) -> None:
    assert explain(error) == expected


def test_an_installation_without_charts_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "IN_CLONE", tmp_path)
    monkeypatch.setattr(location, "IN_WHEEL", tmp_path)
    with pytest.raises(CommandError, match="install meshgraft again"):
        chart_dir("meshgraft")


def test_the_wheel_has_the_charts_where_they_are_looked_for() -> None:
    import tomllib

    root = location.IN_CLONE.parents[1]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    places = wheel["targets"]["wheel"]["force-include"]
    where = {root / source: root / to for source, to in places.items()}
    assert where[location.IN_CLONE] == location.IN_WHEEL
