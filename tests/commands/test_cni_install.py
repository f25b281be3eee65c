"""The agent's flags and environment about installation, and the entry that they come to."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from cni_plugin.agent.server import DEFAULT_SOCKET
from cni_plugin.install.installer import InstallSettings
from cni_plugin.spec import ANNOTATIONS_CAPABILITY
from meshgraft._errors import CommandError
from meshgraft.commands import _cni_install
from meshgraft.commands._cni_install import InstallFlags, install_settings

CAPABILITIES = {"capabilities": {ANNOTATIONS_CAPABILITY: True}}
DEFAULT_ENTRY = {"type": "linkerd-cni", "log_level": "info", **CAPABILITIES}
LINKERDS = {
    "type": "linkerd-cni",
    "name": "linkerd-cni",
    "log_level": "debug",
    "linkerd": {"incoming-proxy-port": 4143, "proxy-uid": 2102},
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "linkerd-cni"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEST_CNI_NET_DIR", "DEST_CNI_BIN_DIR", "CONTAINER_MOUNT_PREFIX",
                 "CNI_NETWORK_CONFIG"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def settings(
    *arguments: str, socket: Path = DEFAULT_SOCKET, namespace: str = "linkerd-cni"
) -> InstallSettings:
    """What the command line and the environment come to."""
    flags: list[InstallFlags] = []
    app = App(result_action="return_value")

    @app.default
    def command(*, install: InstallFlags | None = None) -> None:
        flags.append(install or InstallFlags())

    app(list(arguments))
    return install_settings(flags[0], socket, namespace)


def test_without_anything_the_defaults_are_linkerds(program: Path) -> None:
    found = settings("--program", str(program))
    assert (found.net_dir, found.bin_dir) == (Path("/etc/cni/net.d"), Path("/opt/cni/bin"))
    assert found.net_folder == Path("/host/etc/cni/net.d")
    assert (found.scope, found.method) == ("active", "rewrite")
    assert found.entry == DEFAULT_ENTRY
    assert found.program == program


@pytest.mark.parametrize(
    ("variable", "flag", "attribute"),
    [
        ("DEST_CNI_NET_DIR", "--dest-cni-net-dir", "net_dir"),
        ("DEST_CNI_BIN_DIR", "--dest-cni-bin-dir", "bin_dir"),
        ("CONTAINER_MOUNT_PREFIX", "--container-mount-prefix", "host_prefix"),
    ],
)
def test_a_flag_comes_before_the_environment_and_that_before_the_default(
    program: Path, monkeypatch: pytest.MonkeyPatch, variable: str, flag: str, attribute: str
) -> None:
    given = ("--program", str(program))
    default = getattr(settings(*given), attribute)
    monkeypatch.setenv(variable, "")
    assert getattr(settings(*given), attribute) == default
    monkeypatch.setenv(variable, "/env")
    assert getattr(settings(*given), attribute) == Path("/env")
    assert getattr(settings(*given, flag, "/flag"), attribute) == Path("/flag")


def test_the_entry_comes_from_the_environment_with_the_level_of_the_flag(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNI_NETWORK_CONFIG", json.dumps(LINKERDS))
    given = ("--program", str(program))
    assert settings(*given).entry == {**LINKERDS, **CAPABILITIES}
    assert settings(*given, "--cni-log-level", "warn").entry["log_level"] == "warn"
    other = json.dumps({"type": "linkerd-cni", "log_level": "info"})
    assert settings(*given, "--cni-network-config", other).entry == DEFAULT_ENTRY


@pytest.mark.parametrize(
    ("given", "flag", "namespace", "excluded"),
    [
        (None, None, "", None),
        (None, None, "linkerd-cni", None),
        (None, None, "mesh", ["kube-system", "linkerd-cni", "mesh"]),
        (None, "a, b,", "mesh", ["a", "b"]),
        (["x"], None, "mesh", ["x"]),
        (["x"], "a", "mesh", ["a"]),
        ([], None, "mesh", []),
    ],
)
def test_the_agents_own_namespace_is_excluded_unless_somebody_says_what_is(
    program: Path, given: Any, flag: str | None, namespace: str, excluded: list[str] | None
) -> None:
    entry = LINKERDS if given is None else {**LINKERDS, "meshgraft": {"excludeNamespaces": given}}
    arguments = ["--program", str(program), "--cni-network-config", json.dumps(entry)]
    if flag:
        arguments += ["--cni-exclude-namespaces", flag]
    found = settings(*arguments, namespace=namespace).entry
    assert found.get("meshgraft", {}).get("excludeNamespaces") == excluded


def test_the_entry_names_the_socket_where_it_is_not_the_usual_one(program: Path) -> None:
    given = ("--program", str(program))
    assert settings(*given, socket=Path("/x/a.sock")).entry["meshgraft"] == {"socket": "/x/a.sock"}
    stale = json.dumps({**LINKERDS, "meshgraft": {"socket": "/elsewhere", "other": 1}})
    found = settings(*given, "--cni-network-config", stale).entry
    assert found["meshgraft"] == {"other": 1}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--dest-cni-net-dir", "net.d"), "--dest-cni-net-dir 'net.d': expected a path that"),
        (("--dest-cni-bin-dir", "./x"), "--dest-cni-bin-dir './x'"),
        (("--container-mount-prefix", "host"), "--container-mount-prefix 'host'"),
        (("--cni-network-config", "{"), "CNI_NETWORK_CONFIG): not JSON"),
        (("--cni-network-config", '{"type":"calico"}'), "its type is 'calico'"),
        (("--cni-network-config", '{"type":"linkerd-cni","meshgraft":[1]}'), "meshgraft is not"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(
    program: Path, arguments: tuple[str, ...], text: str
) -> None:
    with pytest.raises(CommandError) as caught:
        settings("--program", str(program), *arguments)
    assert text in str(caught.value)


def test_the_program_is_the_one_beside_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "scripts"))
    with pytest.raises(CommandError, match=r"no program linkerd-cni in .*scripts.*--program"):
        _cni_install._program()
    for folder in ("bin", "scripts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "linkerd-cni").touch()
        assert settings().program == tmp_path / folder / "linkerd-cni"
