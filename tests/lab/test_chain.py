"""The lab's CNI runtime follows libcni: order, prevResult, DEL in reverse, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY, Attachment, Chain, PluginError

_PLUGIN = """#!/usr/bin/env python3
import json, os, sys
me = os.path.basename(sys.argv[0])
conf = json.load(sys.stdin)
with open(os.environ["JOURNAL"], "a") as journal:
    journal.write(json.dumps([me, os.environ["CNI_COMMAND"], conf]) + "\\n")
if os.environ["CNI_COMMAND"] == "ADD":
    if conf.get("fail"):
        print(json.dumps({"code": 11, "msg": "not now", "details": "later"}))
        sys.exit(1)
    by = conf.get("prevResult", {}).get("by", []) + [me]
    print(json.dumps({"cniVersion": conf["cniVersion"], "by": by}))
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        plugin = tmp_path / name
        plugin.write_text(_PLUGIN)
        plugin.chmod(0o755)
    return tmp_path / "journal"


def chain(journal: Path, *plugins: dict[str, Any]) -> Chain:
    conflist = {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins)}
    return Chain(conflist, [journal.parent], environment={"JOURNAL": str(journal)})


def attachment(annotations: dict[str, str] | None = None) -> Attachment:
    return Attachment("c1", Path("/run/netns/none"), "ns", "pod", annotations)


def entries(journal: Path) -> list[tuple[str, str, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in journal.read_text().splitlines()]


def test_results_are_handed_on_in_order(journal: Path) -> None:
    result, runs = chain(journal, {"type": "one"}, {"type": "two"}).add(attachment())
    assert result == {"cniVersion": "1.0.0", "by": ["one", "two"]}
    assert [run.plugin for run in runs] == ["one", "two"]
    assert "prevResult" not in entries(journal)[0][2]
    assert entries(journal)[1][2]["prevResult"]["by"] == ["one"]
    assert entries(journal)[1][2]["name"] == "net"


def test_del_runs_in_reverse_with_the_cached_result(journal: Path) -> None:
    subject = chain(journal, {"type": "one"}, {"type": "two"})
    result, _ = subject.add(attachment())
    subject.delete(attachment(), result)
    assert [(name, command) for name, command, _ in entries(journal)[2:]] == [
        ("two", "DEL"),
        ("one", "DEL"),
    ]
    assert entries(journal)[2][2]["prevResult"] == result


def test_a_failed_add_is_followed_by_del_of_all(journal: Path) -> None:
    with pytest.raises(PluginError, match="code 11: not now: later") as caught:
        chain(journal, {"type": "one", "fail": True}, {"type": "two"}).add(attachment())
    assert (caught.value.code, caught.value.run.plugin) == (11, "one")
    assert [(name, command) for name, command, _ in entries(journal)] == [
        ("one", "ADD"),
        ("two", "DEL"),
        ("one", "DEL"),
    ]


@pytest.mark.parametrize("declared", [True, False])
def test_annotations_go_to_the_plugin_that_declares_the_capability(
    journal: Path, declared: bool
) -> None:
    entry = {"type": "one", "capabilities": {ANNOTATIONS_CAPABILITY: True} if declared else {}}
    chain(journal, entry).add(attachment({"a": "b"}))
    got = entries(journal)[0][2].get("runtimeConfig")
    assert got == ({ANNOTATIONS_CAPABILITY: {"a": "b"}} if declared else None)


def test_a_plugin_that_is_nowhere_is_named(journal: Path) -> None:
    with pytest.raises(FileNotFoundError, match="CNI plugin three is in none of"):
        chain(journal, {"type": "three"}).add(attachment())
