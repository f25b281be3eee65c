"""The findings as people and scripts read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from meshgraft.audit.report import Output, render
from tests.audit.support import finding, pod


def test_no_findings_are_one_line() -> None:
    assert render([], 1, "table") == "1 pod looked at: each is as it should be\n"


def test_the_table_has_a_line_for_each_and_the_advice_once() -> None:
    found = finding(pod())
    assert found
    lines = render([found, found], 5, "table").splitlines()
    assert lines[0].split() == ["NAMESPACE", "POD", "OWNER", "FINDING", "REASON"]
    assert lines[1].startswith("shop        web-1-x   deployment/web   not meshed   created while")
    assert "5 pods looked at, 2 findings" in lines
    assert sum("Restart its owner" in line for line in lines) == 1


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_scripts_get_codes_texts_and_fixes(output: Output) -> None:
    found = finding(pod(spec={"hostNetwork": True}))
    assert found
    text = render([found], 3, output)
    tree: Any = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert tree["audited"] == 3
    (one,) = tree["findings"]
    assert (one["namespace"], one["pod"]) == ("shop", "web-1-x")
    assert one["owner"] == {"kind": "deployment", "name": "web"}
    assert (one["finding"], one["restartHelps"]) == ("not meshed", False)
    assert one["reasons"][0]["code"] == "host-network-enabled"
