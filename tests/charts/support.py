"""Renders the charts as the commands do, and finds objects in what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshgraft.charts.helm import Rendered, Request, Tree, merge, render
from meshgraft.charts.location import IN_CLONE, ChartName
from meshgraft.charts.values_files import read_values

Object = dict[str, Any]

INJECTOR: ChartName = "meshgraft"
CNI: ChartName = "meshgraft-cni"
NAMESPACES: Mapping[ChartName, str] = {INJECTOR: "meshgraft", CNI: "linkerd-cni"}
HA = read_values(IN_CLONE / INJECTOR / "values-ha.yaml")

pytest.importorskip("helm_python", reason="Helm's library (extra install) is not here")

PROVIDED = {"crtPEM": "a certificate", "keyPEM": "a key"}
EVERYTHING: Tree = {
    "createNamespace": True,
    "podMonitor": {"enabled": True},
    "resourceQuota": {"enabled": True},
    "commonLabels": {"team": "net", "app.kubernetes.io/part-of": "platform"},
    "podLabels": {"team": "edge"},
    "podAnnotations": {"prometheus.io/scrape": "false"},
    "imagePullSecrets": [{"name": "registry"}],
    "disableIPv6": False,
}
MODES: Mapping[str, tuple[ChartName, Tree]] = {
    "default": (INJECTOR, {}),
    "ha": (INJECTOR, HA),
    "cert-manager": (INJECTOR, {"certificates": {"mode": "cert-manager"}}),
    "cert-manager, own issuer": (
        INJECTOR,
        {
            "certificates": {
                "mode": "cert-manager",
                "certManager": {"issuerRef": {"name": "corp", "kind": "ClusterIssuer"}},
            }
        },
    ),
    "provided": (INJECTOR, {"certificates": {"mode": "provided"}, "proxyInjector": PROVIDED}),
    "provided, own Secret": (
        INJECTOR,
        {
            "certificates": {"mode": "provided"},
            "proxyInjector": {"externalSecret": True, "injectCaFrom": "certs/injector"},
        },
    ),
    "opt-in by label": (INJECTOR, {"meshgraft": {"optIn": "label"}}),
    "cni enabled": (INJECTOR, {"cniEnabled": True}),
    "profile linkerd": (
        INJECTOR,
        {"meshgraft": {"profile": "linkerd"}, "linkerdVersion": "edge-26.10.1"},
    ),
    "profile node": (
        INJECTOR,
        {"meshgraft": {"profile": "node"}, "nodeProxy": {"enabled": True}},
    ),
    "everything": (
        INJECTOR,
        merge(
            merge(EVERYTHING, HA),
            {
                "nodeProxy": {"enabled": True, "accessLog": True},
                "networkPolicy": {"metricsFrom": [{"podSelector": {}}], "egress": [{}]},
                "tolerations": [{"operator": "Exists"}],
            },
        ),
    ),
    "cni": (CNI, {}),
    "cni, legacy": (CNI, {"iptablesMode": "legacy", "repair": {"enabled": False}}),
    "cni, one folder": (CNI, {"destCNINetDir": "/etc/cni", "destCNIBinDir": "/etc/cni"}),
    "cni, everything": (
        CNI,
        {
            **EVERYTHING,
            "startupTaint": {"enabled": True},
            "repair": {"evict": True},
            "seLinuxOptions": {"type": "spc_t"},
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "mesh", "operator": "Exists"}]}
                    ]
                }
            },
            "extraInitContainers": [{"name": "wait", "image": "busybox"}],
            "resources": {"cpu": {"request": "100m"}, "memory": {"limit": "200Mi"}},
        },
    ),
    "cni, privileged": (CNI, {"privileged": True}),
}
"""What is rendered in every test of the charts as a whole."""


def rendered(chart: ChartName, values: Tree, *sets: str) -> Rendered:
    """The chart with these values over its own."""
    return render(
        Request(chart=chart, namespace=NAMESPACES[chart], layers=[values], set=list(sets))
    )


def objects(chart: ChartName, values: Tree | None = None, *sets: str) -> list[Object]:
    """The chart's objects."""
    return [yaml.load(text, NoRepeats) for text in rendered(chart, values or {}, *sets).objects]


def one(found: Sequence[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind, or of a kind and a name."""
    (found_one,) = [
        each
        for each in found
        if each["kind"] == kind and (not name or each["metadata"]["name"] == name)
    ]
    return found_one


def container(workload: Object) -> Object:
    """The only container of a Deployment or DaemonSet."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def golden(name: str) -> Path:
    """A rendered object as it was last looked at."""
    return Path(__file__).parent / "golden" / name


class NoRepeats(yaml.SafeLoader):
    """YAML in which no key is given twice: kubectl refuses that, and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """The mapping.

        Raises:
            ValueError: a key is there twice.
        """
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise ValueError(f"given twice: {repeated}")
        return super().construct_mapping(node, deep)
