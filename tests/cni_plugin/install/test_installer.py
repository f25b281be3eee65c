"""The installer over temporary folders: what a node's folders may hold, and what becomes of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.install import host_files, installer
from cni_plugin.install.backoff import Backoff
from cni_plugin.install.conflist import default_entry, render
from cni_plugin.install.host_files import HostFileError, Snapshot
from cni_plugin.install.installer import Installer, InstallSettings
from cni_plugin.install.netdir import DROP_IN, ORIGINAL_SUFFIX

ENTRY = default_entry()
BRIDGE = {"type": "bridge", "zeta": 1, "alpha": {"unknown": True}}
LIST = {"name": "net", "cniVersion": "1.0.0", "plugins": [BRIDGE]}
CONF = {"name": "net", "cniVersion": "0.3.1", **BRIDGE}
CHAINED = {**LIST, "plugins": [BRIDGE, ENTRY]}
OTHER = {"type": "must-be-last"}


def unproven(program: Path) -> None:
    """These tests are about files: their program is none."""


@dataclass
class Node:
    """A node's folders, a clock that stands until it is moved, and our installer."""

    root: Path
    now: float = 1000.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.net.mkdir(parents=True)
        self.bin.mkdir(parents=True)
        (self.root / "linkerd-cni").write_bytes(b"\x7fELF new")
        self.backoff = Backoff(lambda: self.now)
        self.configure()

    def configure(self, **options: Any) -> None:
        settings = InstallSettings(
            program=self.root / "linkerd-cni", host_prefix=self.root / "host", **options
        )
        self.installer = Installer(settings, self.backoff, prove=unproven)

    @property
    def net(self) -> Path:
        return self.root / "host/etc/cni/net.d"

    @property
    def bin(self) -> Path:
        return self.root / "host/opt/cni/bin"

    @property
    def program(self) -> Path:
        return self.bin / "linkerd-cni"

    def put(self, name: str, content: Any) -> Path:
        path = self.net / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def get(self, name: str) -> Any:
        return json.loads((self.net / name).read_bytes())

    def files(self) -> dict[str, tuple[bytes, int, int]]:
        found = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return {
            str(path.relative_to(self.root)): (
                path.read_bytes(),
                path.stat().st_ino,
                stat.S_IMODE(path.stat().st_mode),
            )
            for path in found
        }


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@dataclass(frozen=True)
class Case:
    """What is in net.d, the settings, and what must be there afterwards (None: nothing)."""

    id: str
    files: dict[str, Any]
    after: dict[str, Any]
    ready: str | None
    problem: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


FOREIGN_LAST = {**LIST, "plugins": [ENTRY, BRIDGE]}
TWICE = {**LIST, "plugins": [ENTRY, BRIDGE, {"type": "linkerd-cni", "name": "old"}]}
UPSTREAM = {
    "type": "linkerd-cni",
    "kubernetes": {"kubeconfig": "/etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig"},
}
CONVERTED: dict[str, Any] = {
    "name": "net",
    "cniVersion": "0.3.1",
    "plugins": [{"name": "net", **BRIDGE}, ENTRY],
}
DROP = {"method": "drop-in"}
ALL = {"scope": "all"}

CASES = [
    Case("no primary CNI yet", {}, {}, None, "waiting"),
    Case("a list", {"10-a.conflist": LIST}, {"10-a.conflist": CHAINED}, "10-a.conflist"),
    Case("chained already", {"a.conflist": CHAINED}, {"a.conflist": CHAINED}, "a.conflist"),
    Case("we are not last", {"a.conflist": FOREIGN_LAST}, {"a.conflist": CHAINED}, "a.conflist"),
    Case("we are there twice", {"a.conflist": TWICE}, {"a.conflist": CHAINED}, "a.conflist"),
    Case(
        "Linkerd's own entry is there",
        {"a.conflist": {**LIST, "plugins": [BRIDGE, UPSTREAM]}},
        {"a.conflist": CHAINED},
        "a.conflist",
    ),
    Case(
        "only the active one",
        {"10-a.conflist": LIST, "20-b.conflist": LIST},
        {"10-a.conflist": CHAINED, "20-b.conflist": LIST},
        "10-a.conflist",
    ),
    Case(
        "all, by setting",
        {"10-a.conflist": LIST, "20-b.conflist": LIST, "30-c.conf": CONF},
        {"10-a.conflist": CHAINED, "20-b.conflist": CHAINED, "30-c.conflist": CONVERTED},
        "10-a.conflist",
        options=ALL,
    ),
    Case(
        "a single .conf",
        {"10-a.conf": CONF},
        {"10-a.conf": None, "10-a.conflist": CONVERTED, "10-a.conf" + ORIGINAL_SUFFIX: CONF},
        "10-a.conflist",
    ),
    Case(
        "a single .json",
        {"10-a.json": CONF},
        {"10-a.json": None, "10-a.conflist": CONVERTED},
        "10-a.conflist",
    ),
    Case(
        "a conversion that was cut off before its end",
        {"a.conf": CONF, "a.conflist": CONVERTED},
        {"a.conf": None, "a.conflist": CONVERTED, "a.conf" + ORIGINAL_SUFFIX: CONF},
        "a.conflist",
    ),
    Case(
        "the primary wrote its .conf anew after we made it a list",
        {
            "a.conf": {**CONF, "zeta": 2},
            "a.conflist": CONVERTED,
            "a.conf" + ORIGINAL_SUFFIX: CONF,
        },
        {"a.conf": None, "a.conf" + ORIGINAL_SUFFIX: {**CONF, "zeta": 2}},
        "a.conflist",
    ),
    Case(
        "a .conf beside a list of somebody else",
        {"a.conf": CONF, "a.conflist": LIST},
        {"a.conf": CONF, "a.conflist": LIST},
        None,
        "another making",
    ),
    Case(
        "the same, and another tool had chained itself too",
        {
            "a.conf": CONF,
            "a.conflist": {**CONVERTED, "plugins": [*CONVERTED["plugins"], OTHER]},
            "a.conf" + ORIGINAL_SUFFIX: CONF,
        },
        {"a.conf": None, "a.conflist": CONVERTED},
        "a.conflist",
    ),
    Case(
        "somebody else's list where ours was",
        {"a.conf": CONF, "a.conflist": LIST, "a.conf" + ORIGINAL_SUFFIX: CONF | {"zeta": 9}},
        {"a.conf": CONF, "a.conflist": LIST},
        None,
        "another making",
    ),
    Case("half-written", {"a.conflist": b'{"name": "x", "pl'}, {}, None, "half"),
    Case("empty", {"a.conflist": b""}, {}, None, "empty"),
    Case("binary rubbish", {"a.conflist": b"\xff\x00"}, {}, None, "not JSON"),
    Case("not an object", {"a.conflist": b"[]"}, {"a.conflist": []}, None, "object"),
    Case("too long", {"a.conflist": b" " * (16 << 20) + b"{}"}, {}, None, "longer"),
    Case("no plugins", {"a.conflist": {"name": "x"}}, {"a.conflist": {"name": "x"}}, None, "no li"),
    Case(
        "nothing but us, as Cilium or an uninstall may leave it",
        {"a.conflist": {**LIST, "plugins": [ENTRY]}},
        {"a.conflist": {**LIST, "plugins": [ENTRY]}},
        None,
        "nothing but",
    ),
    Case(
        "a broken file before the good one",
        {"00-a.conflist": b"{", "10-b.conflist": LIST},
        {"10-b.conflist": CHAINED},
        "10-b.conflist",
        "00-a.conflist",
    ),
    Case(
        "files that no runtime reads",
        {"a.conflist.bak": LIST, ".a.conflist.x.install": LIST, "b.yaml": LIST},
        {"a.conflist.bak": LIST, "b.yaml": LIST},
        None,
        "waiting",
    ),
    Case(
        "Cilium's exclusive mode",
        {"05-cilium.conflist": LIST, "10-calico.conflist.cilium_bak": LIST},
        {"05-cilium.conflist": CHAINED, "10-calico.conflist.cilium_bak": LIST},
        "05-cilium.conflist",
        "cni.exclusive=false",
    ),
    Case(
        "a drop-in",
        {"a.conflist": LIST},
        {"a.conflist": LIST, f"net/{DROP_IN}": ENTRY},
        "a.conflist",
        options=DROP,
    ),
    Case(
        "a drop-in where the entry was in the list",
        {"a.conflist": CHAINED},
        {"a.conflist": LIST, f"net/{DROP_IN}": ENTRY},
        "a.conflist",
        options=DROP,
    ),
    Case(
        "the list again where there was a drop-in",
        {"a.conflist": LIST, f"net/{DROP_IN}": ENTRY},
        {"a.conflist": CHAINED, f"net/{DROP_IN}": None},
        "a.conflist",
    ),
    Case(
        "somebody's drop-in after ours",
        {"a.conflist": LIST, "net/zzzz.conf": OTHER},
        {f"net/{DROP_IN}": ENTRY, "net/zzzz.conf": OTHER},
        "a.conflist",
        "zzzz.conf comes after",
        options=DROP,
    ),
    Case(
        "drop-ins are turned off",
        {"a.conflist": {**LIST, "loadOnlyInlinedPlugins": True}},
        {"a.conflist": {**LIST, "loadOnlyInlinedPlugins": True}, f"net/{DROP_IN}": None},
        None,
        "loadOnlyInlinedPlugins",
        options=DROP,
    ),
    Case("a drop-in for a .conf", {"a.conf": CONF}, {"a.conf": CONF}, None, "only", options=DROP),
    Case(
        "a network's name that leads elsewhere",
        {"a.conflist": {**LIST, "name": "../.."}},
        {"a.conflist": {**LIST, "name": "../.."}},
        None,
        "name",
        options=DROP,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_each_situation_comes_to_its_end_and_stays_there(node: Node, case: Case) -> None:
    node.configure(**case.options)
    for name, content in case.files.items():
        node.put(name, content)
    report = node.installer.reconcile()
    assert node.installer.ready == report.active == case.ready
    assert bool(report.problems) == (case.problem is not None)
    assert (case.problem or "") in " ".join(report.problems)
    for name, content in case.after.items():
        if content is None:
            assert not (node.net / name).exists()
        else:
            assert node.get(name) == content
    settled = node.files()
    again = node.installer.reconcile()
    assert not again.done
    assert node.files() == settled
    assert again.problems == report.problems


def _folder_in_the_way(node: Node) -> None:
    (node.net / "00-x.conf").mkdir()


def _dangling_link(node: Node) -> None:
    (node.net / "00-x.conflist").symlink_to("nowhere")


def _link_in_a_circle(node: Node) -> None:
    (node.net / "00-x.conflist").symlink_to("00-x.conflist")


def _pipe(node: Node) -> None:
    os.mkfifo(node.net / "00-x.conflist")


@pytest.mark.parametrize("obstacle", [_folder_in_the_way, _dangling_link, _link_in_a_circle, _pipe])
def test_what_is_no_file_stops_nothing(node: Node, obstacle: Callable[[Node], None]) -> None:
    obstacle(node)
    node.put("10-a.conflist", LIST)
    node.installer.reconcile()
    assert node.get("10-a.conflist") == CHAINED
    assert node.installer.ready == "10-a.conflist"


def test_a_link_that_only_the_node_can_follow_may_be_what_pods_are_started_with(
    node: Node,
) -> None:
    (node.net / "05-x.conflist").symlink_to("/usr/lib/vendor/x.conflist")
    node.put("10-a.conflist", LIST)
    report = node.installer.reconcile()
    assert node.get("10-a.conflist") == CHAINED
    assert node.installer.ready is None
    (problem,) = node.installer.missing()
    assert "a link to /usr/lib/vendor/x.conflist, which this container does not see" in problem
    assert report.problems == [problem]
    (node.net / "05-x.conflist").rename(node.net / "20-x.conflist")
    node.installer.reconcile()
    assert node.installer.ready == "10-a.conflist"


def test_a_link_is_written_through_and_stays_one(node: Node) -> None:
    (node.net / "store").mkdir()
    real = node.put("store/real", LIST)
    (node.net / "a.conflist").symlink_to("store/real")
    node.installer.reconcile()
    assert json.loads(real.read_bytes()) == CHAINED
    assert (node.net / "a.conflist").is_symlink()


@pytest.mark.parametrize("name", ["a.conflist", "a.conf"])
def test_mode_owner_and_the_order_of_keys_stay(node: Node, name: str) -> None:
    path = node.put(name, LIST if name == "a.conflist" else CONF)
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    before = path.stat()
    node.installer.reconcile()
    after = (node.net / "a.conflist").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert list(node.get("a.conflist")["plugins"][0])[-2:] == ["zeta", "alpha"]


def test_the_program_is_put_in_whole_and_executable_and_put_back(node: Node) -> None:
    node.put("a.conflist", LIST)
    node.program.write_bytes(b"old")
    old = node.program.open("rb")  # as a runtime that is executing it holds it
    node.installer.reconcile()
    assert old.read() == b"old"
    old.close()
    assert node.program.read_bytes() == b"\x7fELF new"
    assert stat.S_IMODE(node.program.stat().st_mode) == 0o755
    node.program.unlink()
    assert node.installer.reconcile().done == [f"copied the program to {node.program}"]
    assert node.program.exists()


def test_without_a_place_for_the_program_no_entry_is_written(node: Node) -> None:
    node.put("a.conflist", LIST)
    node.bin.rmdir()
    report = node.installer.reconcile()
    assert str(node.program) in report.problems[0]
    assert node.get("a.conflist") == LIST
    assert node.installer.ready is None
    assert not node.bin.exists()


@pytest.mark.parametrize("what", ["net.d", "program"])
def test_a_missing_folder_or_program_is_said_and_waited_for(node: Node, what: str) -> None:
    missing = node.net if what == "net.d" else node.root / "linkerd-cni"
    missing.rename(missing.with_name("away"))
    report = node.installer.reconcile()
    assert str(missing) in report.problems[0]
    missing.with_name("away").rename(missing)
    node.put("a.conflist", LIST)
    assert node.installer.reconcile().active == "a.conflist"


def test_a_rewrite_by_the_primary_is_mended_and_a_renamed_or_removed_file_followed(
    node: Node,
) -> None:
    path = node.put("10-a.conflist", LIST)
    node.installer.reconcile()
    node.put("10-a.conflist", {**LIST, "cniVersion": "0.4.0"})
    node.installer.reconcile()
    assert node.get("10-a.conflist") == {**CHAINED, "cniVersion": "0.4.0"}
    path.rename(node.net / "05-b.conflist")
    assert node.installer.reconcile().active == "05-b.conflist"
    (node.net / "05-b.conflist").unlink()
    assert node.installer.reconcile().active is None
    assert list(node.net.iterdir()) == []


def test_two_tools_that_both_want_to_be_last_do_not_loop(node: Node) -> None:
    rewrites = 0
    for _ in range(200):
        node.put("a.conflist", {**LIST, "plugins": [BRIDGE, ENTRY, OTHER]})
        report = node.installer.reconcile()
        rewrites += bool([done for done in report.done if "last" in done])
        node.now += 0.1
    assert 3 <= rewrites <= 6
    assert "another tool writes it too" in report.problems[0]
    assert report.retry_seconds is not None
    assert node.installer.ready == "a.conflist"  # not last, but in the chain
    node.now += report.retry_seconds
    assert node.installer.reconcile().done
    assert node.get("a.conflist")["plugins"] == [BRIDGE, OTHER, ENTRY]


def test_one_that_takes_our_entry_out_is_told_of_as_what_it_is(node: Node) -> None:
    for _ in range(9):
        node.put("a.conflist", {**LIST, "plugins": [{"type": "cilium-cni"}]})
        report = node.installer.reconcile()
    assert "NOT MESHED" in report.problems[0]
    assert "cni.exclusive=false" in report.problems[0]
    assert node.installer.ready is None


def test_one_that_chains_us_beside_our_drop_in_is_not_fought_over(node: Node) -> None:
    node.configure(method="drop-in")
    taken_out = 0
    for _ in range(50):
        node.put("a.conflist", CHAINED)
        taken_out += any("took" in done for done in node.installer.reconcile().done)
    assert taken_out == 3
    assert node.installer.ready == "a.conflist"


def test_a_conf_that_comes_again_and_again_is_not_fought_over(node: Node) -> None:
    made = 0
    for _ in range(50):
        node.put("a.conf", CONF)
        made += any("made" in done for done in node.installer.reconcile().done)
    assert made == 3
    assert "NOT MESHED" in node.installer.problems[0]
    assert node.installer.ready is None


def test_a_program_that_is_replaced_again_and_again_is_not_fought_over(node: Node) -> None:
    node.put("a.conflist", LIST)
    copies = 0
    for _ in range(50):
        node.program.write_bytes(b"Linkerd's")
        report = node.installer.reconcile()
        copies += any("program" in done for done in report.done)
    assert copies == 3
    assert "another tool keeps replacing it" in report.problems[0]


def test_rewrites_now_and_then_are_no_fight(node: Node) -> None:
    for _ in range(20):
        node.put("a.conflist", LIST)
        assert node.installer.reconcile().active == "a.conflist"
        node.now += Backoff.ANSWER_SECONDS + 1


def test_what_somebody_writes_under_our_hands_is_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = node.put("a.conflist", LIST)
    newer = {**LIST, "name": "newer"}
    real = Snapshot.check_unchanged

    def write_first(snapshot: Snapshot) -> None:
        path.write_text(json.dumps(newer))
        real(snapshot)

    monkeypatch.setattr(Snapshot, "check_unchanged", write_first)
    report = node.installer.reconcile()
    monkeypatch.undo()
    assert node.get("a.conflist") == newer
    assert report.retry_seconds == installer._AT_ONCE
    assert report.active is None
    node.installer.reconcile()
    assert node.get("a.conflist")["name"] == "newer"
    assert node.get("a.conflist")["plugins"] == [BRIDGE, ENTRY]
    assert [item.name for item in node.net.iterdir()] == ["a.conflist"]


def test_a_full_disk_leaves_the_file_as_it_was_and_no_litter(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.put("a.conflist", LIST)
    node.installer.reconcile()
    node.put("a.conflist", LIST)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    report = node.installer.reconcile()
    assert "No space left on device" in report.problems[0]
    assert node.get("a.conflist") == LIST
    assert [item.name for item in node.net.iterdir()] == ["a.conflist"]


def test_file_and_folder_are_synced_the_file_before_the_rename(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(fd: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_sync(fd)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    node.put("a.conflist", LIST)
    node.installer.reconcile()
    assert events == ["file", "rename", "folder"] * 2


def test_litter_of_an_installer_that_was_killed_is_swept_once_it_is_old(node: Node) -> None:
    old, young = node.put(".a.conflist.1.install", b"{"), node.put(".a.conflist.2.install", b"{")
    os.utime(old, (1, 1))
    node.installer.reconcile()
    assert not old.exists()
    assert young.exists()


UNINSTALLED = [
    ("a list", {"a.conflist": LIST}, {}, {"a.conflist": LIST}),
    ("a .conf", {"a.conf": CONF}, {}, {"a.conf": CONF}),
    ("a .json", {"a.json": CONF}, {}, {"a.json": CONF}),
    ("a drop-in", {"a.conflist": LIST}, DROP, {"a.conflist": LIST}),
    (
        "all",
        {"a.conflist": LIST, "b.conf": CONF},
        ALL,
        {"a.conflist": LIST, "b.conf": CONF},
    ),
    (
        "beside others' drop-ins",
        {"a.conflist": LIST, "net/x.conf": OTHER},
        DROP,
        {"a.conflist": LIST, "net/x.conf": OTHER},
    ),
]


@pytest.mark.parametrize(
    ("files", "options", "after"),
    [case[1:] for case in UNINSTALLED],
    ids=[case[0] for case in UNINSTALLED],
)
def test_uninstalling_gives_back_what_was_there(
    node: Node, files: dict[str, Any], options: dict[str, Any], after: dict[str, Any]
) -> None:
    node.configure(**options)
    for name, content in files.items():
        node.put(name, content)
    assert node.installer.reconcile().active
    assert not node.installer.uninstall().problems
    left = [path for path in node.net.rglob("*") if path.is_file()]
    assert {str(path.relative_to(node.net)): json.loads(path.read_bytes()) for path in left} == (
        after
    )
    assert not node.program.exists()
    assert not node.installer.uninstall().done


def test_the_original_conf_comes_back_byte_for_byte(node: Node) -> None:
    raw = b'{"type":"bridge",\n\t"name" : "net"}\n'
    node.put("a.conf", raw).chmod(0o640)
    node.installer.reconcile()
    node.installer.uninstall()
    assert (node.net / "a.conf").read_bytes() == raw
    assert stat.S_IMODE((node.net / "a.conf").stat().st_mode) == 0o640


def test_a_converted_list_that_was_changed_since_stays_a_list(node: Node) -> None:
    node.put("a.conf", CONF)
    node.installer.reconcile()
    made = node.get("a.conflist")
    node.put("a.conflist", {**made, "plugins": [*made["plugins"], {"type": "portmap"}]})
    node.installer.uninstall()
    assert not (node.net / "a.conf").exists()
    assert [plugin["type"] for plugin in node.get("a.conflist")["plugins"]] == ["bridge", "portmap"]


def test_the_entry_goes_before_the_program(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    path = node.put("a.conflist", LIST)
    node.installer.reconcile()
    seen: list[bool] = []
    real = host_files.remove

    def remove(target: Path) -> bool:
        if target == node.program:
            seen.append(b"linkerd-cni" in path.read_bytes())
        return real(target)

    monkeypatch.setattr(host_files, "remove", remove)
    node.installer.uninstall()
    assert seen == [False]


@pytest.mark.parametrize("raw", [b'{"plugins": [{"type": "linkerd-cni"', render(ENTRY)])
def test_the_program_stays_while_a_file_that_cannot_be_mended_names_it(
    node: Node, raw: bytes
) -> None:
    node.put("a.conflist", LIST)
    node.installer.reconcile()
    node.put("b.conflist", raw)
    report = node.installer.uninstall()
    assert "b.conflist" in report.problems[0]
    assert node.get("a.conflist") == LIST
    assert node.program.exists()


NESTED = {
    "cniVersion": "0.3.1",
    "name": "multus-cni-network",
    "type": "multus",
    "delegates": [{"name": "net", "cniVersion": "1.0.0", "plugins": [BRIDGE, ENTRY]}],
}


@pytest.mark.parametrize("name", ["00-multus.conf", "10-net.conflist.cilium_bak", "net/00-a.json"])
def test_what_names_us_in_another_place_is_found(node: Node, name: str) -> None:
    node.put("a.conflist", LIST)
    node.installer.reconcile()
    node.put(name, CHAINED if "bak" in name else NESTED)
    report = node.installer.uninstall()
    assert not report.problems
    assert not node.program.exists()
    left = [path for path in node.net.rglob("*") if path.is_file()]
    assert not any(b"linkerd-cni" in path.read_bytes() for path in left)
    assert b"bridge" in (node.net / name).read_bytes()


def test_what_names_us_and_cannot_be_without_keeps_the_program(node: Node) -> None:
    node.put("a.conflist", LIST)
    node.installer.reconcile()
    wrapped = {"cniVersion": "0.3.1", "name": "x", "type": "wrapper", "delegate": ENTRY}
    path = node.put("b.conf", wrapped)
    report = node.installer.uninstall()
    assert str(path) in report.problems[0]
    assert node.program.exists()
    assert node.get("b.conf") == wrapped


def test_our_entry_in_the_active_ones_delegates_is_not_doubled(node: Node) -> None:
    node.put("00-multus.conf", NESTED)
    assert node.installer.reconcile().active == "00-multus.conf"
    assert node.get("00-multus.conf") == NESTED


@pytest.mark.parametrize("step", ["replace", "remove", "remove again"])
def test_an_uninstallation_that_was_cut_off_is_finished_by_the_next(
    node: Node, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    node.put("a.conf", CONF)
    node.installer.reconcile()
    name, count = step.split()[0], len(step.split())
    real, calls = getattr(host_files, name), []

    def cut_off(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(host_files, name, cut_off)
        with pytest.raises(KeyboardInterrupt):
            node.installer.uninstall()
    assert not node.installer.uninstall().problems
    assert [path.name for path in node.net.iterdir()] == ["a.conf"]
    assert node.get("a.conf") == CONF
    assert not node.program.exists()


def test_plugins_in_the_networks_folder_are_the_lists_own(node: Node) -> None:
    listed = {"name": "net", "cniVersion": "1.0.0"}
    node.put("a.conflist", listed)
    node.put("b.conflist", {**LIST, "name": "other"})
    assert node.installer.reconcile().active == "b.conflist", "so far it is none"
    node.put("net/10-bridge.conf", BRIDGE)
    assert node.installer.reconcile().active == "a.conflist"
    assert node.get("a.conflist") == listed
    assert node.get(f"net/{DROP_IN}")["type"] == "linkerd-cni"
    node.put("net/20-bad.conf", {"type": 1})
    report = node.installer.reconcile()
    assert report.active == "b.conflist"
    assert any("20-bad.conf" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("files", "active"),
    [
        ({"crio.conf": '[crio.network]\ncni_default_network = "second"\n'}, "b.conflist"),
        (
            {
                "crio.conf": '[crio.network]\ncni_default_network = "other"\n',
                "crio.conf.d/10-a.conf": '[crio.network]\ncni_default_network = "second"\n',
                "crio.conf.d/20-b.conf": "[crio.runtime]\n",
            },
            "b.conflist",
        ),
        ({"crio.conf": '[crio.network]\ncni_default_network = "absent"\n'}, None),
        ({"crio.conf": "[crio.network]\n"}, "a.conflist"),
        ({}, "a.conflist"),
        ({"crio.conf": "[broken"}, "a.conflist"),
    ],
)
def test_crios_default_network_is_what_pods_are_started_with(
    node: Node, files: dict[str, str], active: str | None
) -> None:
    node.put("a.conflist", LIST)
    node.put("b.conflist", {**LIST, "name": "second"})
    for name, text in files.items():
        path = node.root / "host/etc/crio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    report = node.installer.reconcile()
    assert report.active == active
    if active is None or "[broken" in files.values():
        assert report.problems
    node.configure(default_network="second")
    assert node.installer.reconcile().active == "b.conflist"


def _program(node: Node, text: str) -> None:
    (node.root / "linkerd-cni").write_text(text)
    settings = InstallSettings(program=node.root / "linkerd-cni", host_prefix=node.root / "host")
    node.installer = Installer(settings, node.backoff)


ANSWERS = """#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ANSWERS, ""),
        ("\x7fELF of another architecture", "another architecture"),
        ("#!/nowhere/interpreter\n", "another architecture"),
        ("#!/bin/sh\necho broken; exit 3\n", "status 3"),
        ("#!/bin/sh\necho '{}'\n", "does not say its version"),
    ],
)
def test_no_configuration_names_a_program_that_does_not_run(
    node: Node, text: str, said: str
) -> None:
    node.put("a.conflist", LIST)
    _program(node, text)
    report = node.installer.reconcile()
    if not said:
        assert report.active == "a.conflist"
        assert node.get("a.conflist") == CHAINED
        return
    assert report.active is None
    assert said in report.problems[0]
    assert report.retry_seconds
    assert node.get("a.conflist") == LIST
    _program(node, ANSWERS)
    assert node.installer.reconcile().active == "a.conflist"


@pytest.mark.root
def test_a_folder_that_is_mounted_noexec_is_said(node: Node) -> None:
    node.put("a.conflist", LIST)
    _program(node, ANSWERS)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", node.bin], check=True)
    try:
        report = node.installer.reconcile()
    finally:
        subprocess.run(["umount", node.bin], check=True)
    assert report.active is None
    assert "noexec" in report.problems[0]
    assert node.get("a.conflist") == LIST


def test_a_primary_that_starts_again_and_again_is_no_quarrel(node: Node) -> None:
    for pause in (2, 10, 20, 40, 80, 160, 300, 300, 300):
        node.put("a.conflist", LIST)
        assert node.installer.reconcile().active == "a.conflist"
        node.now += pause


def test_a_replaced_file_is_never_seen_half_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    reader = path.open("rb")
    host_files.replace(path, b"newer", host_files.read(path))
    assert (reader.read(), path.read_bytes()) == (b"old", b"newer")
    reader.close()
    with pytest.raises(HostFileError, match="cannot be written"):
        host_files.write(tmp_path / "missing/x", b"", 0o644)


# In an upgrade, and for /readyz and metrics


def test_of_two_releases_only_the_one_in_charge_writes(node: Node) -> None:
    node.put("10-net.conflist", LIST)
    in_charge = False
    idle = Installer(node.installer._settings, in_charge=lambda: in_charge, prove=unproven)
    before = node.files()
    assert idle._beat() is not None  # asks again
    assert node.files() == before
    assert idle.missing() == ["the node's CNI folders were not looked at yet"]
    in_charge = True
    idle._beat()
    assert node.get("10-net.conflist") == CHAINED
    assert idle.missing() == []


def test_what_is_missing_is_what_was_in_the_way(node: Node) -> None:
    node.installer.reconcile()
    [missing] = node.installer.missing()
    assert "no network configuration" in missing
    node.put("10-net.conflist", LIST)
    node.put("99-broken.conflist", b"{")
    node.installer.reconcile()
    assert len(node.installer.problems) == 1
    assert node.installer.missing() == []  # pods are started with us all the same


def test_each_look_is_counted(node: Node) -> None:
    looks: list[tuple[bool, int, int]] = []

    class Counts:
        def looked(self, ready: bool, changes: int, problems: int) -> None:
            looks.append((ready, changes, problems))

    counted = Installer(node.installer._settings, observer=Counts(), prove=unproven)
    counted._beat()
    node.put("10-net.conflist", LIST)
    counted._beat()
    counted._beat()
    assert looks == [(False, 1, 1), (True, 1, 0), (True, 0, 0)]
