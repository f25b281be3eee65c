"""The docs say what the code says: pages made from it are as it is, and names in them are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from certificates.metrics import CertMetrics
from cni_plugin.agent.metrics import InstallMetrics, RepairMetrics, TaintMetrics
from cni_plugin.agent.metrics import Metrics as AgentMetrics
from injector.cluster.metrics import ClusterMetrics
from injector.service.metrics import Metrics
from mesh.control.catalog import Catalog
from mesh.control.feed import Metrics as FeedMetrics
from mesh.control.service import Control
from mesh.identity.service import Metrics as IdentityMetrics
from mesh.model.world import World
from mesh.relay.node import Metrics as RelayMetrics
from mesh.rpc.callers import OfflineCallers
from meshgraft.reference import PAGES
from tests.docs.markdown import ROOT, name_of, pages
from vocabulary.annotations import BY_KEY, is_unknown

_KEY = re.compile(
    r"\b(?:config(?:\.alpha|\.beta)?\.linkerd\.io/[a-z][a-z0-9-]*|linkerd\.io/inject\b)"
)
_NO_ANNOTATIONS = {
    "config.linkerd.io/admission-webhooks",  # a label
    "config.linkerd.io/skip-inbound-prots",  # an example of a typing error
}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_made_from_the_code_is_as_the_code(path: Path) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), "run: python -m meshgraft.reference"


def test_the_metrics_page_names_every_metric_and_no_other() -> None:
    registry = Metrics("test").registry
    ClusterMetrics(registry)
    CertMetrics(registry)
    agent = AgentMetrics()
    agent.show_calls(lambda: 0, lambda: 0)
    InstallMetrics(agent.registry)
    TaintMetrics(agent.registry)
    RepairMetrics(agent.registry)
    mesh = CollectorRegistry()
    FeedMetrics(mesh)
    Control(Catalog(World(), "x", lambda _: ""), OfflineCallers(), ("a", "b"), mesh)
    IdentityMetrics(mesh)
    RelayMetrics(mesh)
    CertMetrics(mesh, "mesh_identity")
    registries = (registry, agent.registry, mesh)
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for each in registries
        for family in each.collect()
        if not family.name.startswith("process_")
    }
    page = (ROOT / "docs/reference/metrics.md").read_text()
    assert set(re.findall(r"^\| `(\w+)`", page, re.M)) == exposed


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_each_annotation_that_a_page_names_is_known(page: Path) -> None:
    named = set(_KEY.findall(page.read_text())) - _NO_ANNOTATIONS
    assert {key for key in named if key not in BY_KEY} == set()


def test_the_example_of_a_typing_error_is_one() -> None:
    assert is_unknown("config.linkerd.io/skip-inbound-prots")


def test_the_commands_of_the_readme_are_there() -> None:
    commands = re.findall(r"^\$ (scripts/\w+)", (ROOT / "README.md").read_text(), re.M)
    assert {"scripts/demo", "scripts/test"} <= set(commands)
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)
