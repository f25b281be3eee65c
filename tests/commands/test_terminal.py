"""What tenants write into a cluster is shown on a terminal, and does nothing there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshgraft._terminal import shown
from meshgraft.cli import main

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: "web\\e[2J\\e]0;owned\\a"
  annotations: {config.linkerd.io/proxy-cpu-limit: "\\e[31mred"}
spec: {containers: [{name: web, image: web}]}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain √ ‼ ünï", "plain √ ‼ ünï"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J", "\\u001b[2J"),
        ("over\rwritten", "over\\u000dwritten"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\x7f\x00\x08", "\\u007f\\u0000\\u0008"),
    ],
)
def test_control_characters_are_written_out(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text())
def test_json_means_the_same_afterwards(text: str) -> None:
    assert json.loads(shown(json.dumps(text, ensure_ascii=False))) == text


@given(st.text())
def test_it_is_shown_once_and_for_all(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert all(char.isprintable() or char in "\n\t" or ord(char) > 0x9F for char in shown(text))


def test_the_report_of_inject_sends_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pod.yaml").write_text(POD)
    with pytest.raises(SystemExit):
        main(["inject", str(tmp_path / "pod.yaml")])
    report = capsys.readouterr().err
    assert "red" in report
    assert "\x1b" not in report
