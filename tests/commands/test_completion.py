"""``meshgraft completion``: what the shells themselves make of the scripts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cyclopts import App

from meshgraft import cli
from meshgraft.commands.completion import completion
from tests.commands.support import Shell

SHELLS = ("bash", "zsh", "fish")
COMMANDS = sorted(name for name in cli.app if not name.startswith("-"))


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"""
        source {script}
        COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE="{" ".join(words)}"
        COMP_POINT=${{#COMP_LINE}}
        _meshgraft meshgraft "{words[-1]}" "{words[-2]}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stderr == ""
    return [word.strip() for word in done.stdout.split()]


@pytest.fixture
def bash_script(shell: Shell, tmp_path: Path) -> Path:
    path = tmp_path / "meshgraft.bash"
    path.write_text(shell("completion", "bash").stdout)
    return path


def test_bash_completes_every_command(bash_script: Path) -> None:
    assert set(COMMANDS) <= set(completed(bash_script, "meshgraft", ""))
    assert completed(bash_script, "meshgraft", "au") == ["audit"]


def test_bash_completes_flags_and_their_choices(bash_script: Path) -> None:
    assert "--linkerd-cni-enabled" in completed(bash_script, "meshgraft", "check", "--")
    assert set(completed(bash_script, "meshgraft", "audit", "--output", "")) == {
        "table",
        "json",
        "yaml",
    }


@pytest.mark.parametrize("name", SHELLS)
def test_each_shell_reads_its_script(name: str, shell: Shell, tmp_path: Path) -> None:
    ended = shell("completion", name)
    assert (ended.code, ended.stderr) == (0, "")
    assert all(command in ended.stdout for command in COMMANDS)
    if not shutil.which(name):
        pytest.skip(f"there is no {name} here")
    script = tmp_path / "script"
    script.write_text(ended.stdout)
    subprocess.run([name, "-n", str(script)], check=True, timeout=20, capture_output=True)


def test_a_command_whose_extra_is_not_installed_completes_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    app = App(name="meshgraft")
    app.command("module_of_an_extra:command", name="node-half")
    app.command("meshgraft.commands.audit:audit", name="audit")
    monkeypatch.setattr(cli, "app", app)
    completion("bash")
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "meshgraft", "node") == ["node-half"]
    assert "--all-namespaces" in completed(script, "meshgraft", "audit", "--")


@pytest.mark.parametrize("args", [(), ("powershell",)])
def test_other_shells_get_a_sentence(shell: Shell, args: tuple[str, ...]) -> None:
    ended = shell("completion", *args)
    assert (ended.code, ended.stdout) == (2, "")
    assert "SHELL" in ended.stderr
