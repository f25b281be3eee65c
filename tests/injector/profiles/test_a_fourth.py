"""A profile that one module brings: who injects, takes back and audits knows it by its marks."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from injector import profiles
from injector.core import marks
from injector.core.marks import PROFILE, Marks
from injector.core.model import Additions, BuildInput
from injector.core.mutate import mutate
from injector.core.uninject import uninject
from injector.profiles import PROFILES, get_profile, register
from meshgraft.audit.judge import who_meshed
from tests.injector.manifest_support import how, inject, workload
from tests.injector.manifest_support import uninject as uninject_manifest
from tests.injector.support import WEBHOOK, meshed, names, owner, pod, settings

PROXY, VOLUME = "fourth-proxy", "fourth-data"


class Fourth:
    name = "fourth"
    ignores: frozenset[str] = frozenset()
    marks = Marks(profile="fourth", proxies=frozenset((PROXY,)), volumes=frozenset((VOLUME,)))

    def build(self, given: BuildInput) -> Additions:  # noqa: ARG002
        return Additions(
            proxy={"name": PROXY, "image": "fourth:1", "restartPolicy": "Always"},
            volumes=({"name": VOLUME, "emptyDir": {}},),
            annotations={PROFILE: self.name},
        )


@pytest.fixture(autouse=True)
def _fourth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = copy.deepcopy(marks._registry)
    register(Fourth())
    yield
    monkeypatch.setattr(marks, "_registry", before)
    monkeypatch.delitem(profiles._PROFILES, "fourth")
    monkeypatch.undo()
    marks._registry = before
    profiles._PROFILES.pop("fourth", None)


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
