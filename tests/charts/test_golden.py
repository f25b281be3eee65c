"""Rendered objects as last looked at; ``python -m tests.charts.test_golden`` renews them."""

from __future__ import annotations

import pytest

from meshgraft.charts.helm import Tree
from meshgraft.charts.location import ChartName
from tests.charts.support import CNI, HA, INJECTOR, golden, rendered

MESH: Tree = {"cniEnabled": True, "meshgraft": {"mesh": {"enabled": True}}}
GOLDEN: dict[str, tuple[ChartName, Tree, str]] = {
    "webhook.yaml": (INJECTOR, {}, "templates/mutatingwebhookconfiguration.yaml"),
    "deployment-ha.yaml": (INJECTOR, HA, "templates/deployment.yaml"),
    "cni-daemonset.yaml": (CNI, {}, "templates/daemonset.yaml"),
    "cni-daemonset-mesh.yaml": (CNI, {"mesh": {"enabled": True}}, "templates/daemonset.yaml"),
    "control-deployment.yaml": (INJECTOR, MESH, "templates/control-deployment.yaml"),
    "identity-rbac.yaml": (INJECTOR, MESH, "templates/identity-rbac.yaml"),
    "node-proxy-daemonset.yaml": (
        INJECTOR,
        {"nodeProxy": {"enabled": True}},
        "templates/node-proxy-daemonset.yaml",
    ),
}


def document(name: str) -> str:
    chart, values, template = GOLDEN[name]
    source = f"# Source: {chart}/{template}\n"
    return "---\n".join(each for each in rendered(chart, values).objects if each.startswith(source))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_object_is_as_it_was_last_looked_at(name: str) -> None:
    assert document(name) == golden(name).read_text(), "run: python -m tests.charts.test_golden"


def main() -> None:
    """Renew them."""
    for name in GOLDEN:
        golden(name).write_text(document(name))


if __name__ == "__main__":
    main()
