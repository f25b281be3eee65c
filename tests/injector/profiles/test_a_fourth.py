"""A profile that one module brings: inject, uninject and audit know it by its marks."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest

from injector import profiles
from injector.core import marks
from injector.core.mutate import mutate
from injector.core.uninject import uninject
from injector.profiles import PROFILES, get_profile, register
from meshgraft.audit.judge import who_meshed
from tests.injector.manifest_support import how, inject, workload
from tests.injector.manifest_support import uninject as uninject_manifest
from tests.injector.profiles.fourth import PROXY, VOLUME, Fourth
from tests.injector.support import WEBHOOK, meshed, names, owner, pod, settings

PROGRAM = """
import sys
from injector.profiles import register
from tests.injector.profiles.fourth import Fourth
register(Fourth())
"""


@pytest.fixture(autouse=True)
def _fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_registry", copy.deepcopy(marks._registry))
    monkeypatch.setitem(profiles._PROFILES, "fourth", Fourth())
    register(Fourth())


def test_it_is_one_of_the_profiles() -> None:
    assert "fourth" in PROFILES
    assert get_profile("fourth").name == "fourth"


def test_the_webhook_injects_it_once_and_it_is_taken_back() -> None:
    given = pod()
    args = (meshed(), owner(given), settings(), get_profile("fourth"), WEBHOOK)
    once = mutate(given, *args).patched
    assert names(once["spec"]["initContainers"]) == [PROXY]
    assert mutate(once, *args).patched == once
    assert uninject(once)["spec"] == given["spec"]
    assert who_meshed(once) == "webhook"


def test_the_command_injects_it_and_takes_it_back() -> None:
    given = workload("Deployment", {"spec": pod()["spec"]})
    injected, report = inject(given, how("fourth", manual=True))
    assert report.status == "injected"
    assert uninject_manifest(injected) == given


def test_an_applications_own_of_that_name_is_left_alone() -> None:
    own = pod(volumes=[{"name": VOLUME, "hostPath": {"path": "/"}}])
    assert uninject(own) == own


def _meshgraft(code: str, *args: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, *args],
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_the_command_line_has_it_among_its_choices() -> None:
    given: dict[str, Any] = workload("Deployment", {"spec": pod()["spec"]})
    code = "from meshgraft.cli import main; main()"
    flags = ("inject", "--profile", "fourth", "--manual", "-o", "json", "-")
    patched = json.loads(_meshgraft(code, *flags, stdin=json.dumps(given)))
    template = patched["spec"]["template"]
    assert [one["name"] for one in template["spec"]["initContainers"]] == [PROXY]
    assert "fourth" in _meshgraft(code, "completion", "bash")
    assert "fourth" in _meshgraft(code, "webhook", "--help")


def test_the_charts_schema_takes_it() -> None:
    code = (
        "import json; from meshgraft.charts.schema import values_schema;"
        "print(json.dumps(values_schema('meshgraft')))"
    )
    ours = json.loads(_meshgraft(code))["$defs"]["MeshgraftValues"]["properties"]
    assert ours["profile"] == {"enum": ["envoy", "fourth", "linkerd", "node"]}
