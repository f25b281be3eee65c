"""The docs are true: pages made from the code are as the code is, and no link is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cni_plugin.metrics import Metrics as AgentMetrics
from injector.cluster_metrics import ClusterMetrics
from injector.metrics import Metrics
from meshgraft.reference import ANNOTATIONS_PAGE, annotations_page

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")


def test_the_annotations_page_is_as_the_table() -> None:
    assert (ROOT / ANNOTATIONS_PAGE).read_text() == annotations_page(), (
        "run: python -m meshgraft.reference"
    )


def test_the_metrics_page_names_every_metric_and_no_other() -> None:
    registry = Metrics("test").registry
    ClusterMetrics(registry)
    registries = (registry, AgentMetrics().registry)
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for each in registries
        for family in each.collect()
        if not family.name.startswith("process_")
    }
    page = (ROOT / "docs/reference/metrics.md").read_text()
    assert set(re.findall(r"^\| `(\w+)`", page, re.M)) == exposed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_within_the_repository_is_dead(page: Path) -> None:
    targets = [match[1] for match in _LINK.finditer(page.read_text())]
    dead = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not dead


def test_the_commands_of_the_readme_are_there() -> None:
    commands = re.findall(r"^\$ (scripts/\w+)", (ROOT / "README.md").read_text(), re.M)
    assert set(commands) == {"scripts/demo", "scripts/test"}
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)
