"""Linkerd's chart values that mean nothing here, or that something of ours stands for.

An operator hands over the files that Linkerd is installed with. What its charts know is no typing
error here, and what has a counterpart takes effect under Linkerd's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshgraft.charts.helm import Tree
from meshgraft.charts.location import ChartName

_INJECTOR = """
additionalEnv cliVersion configReaders controller.tracing controllerGID controllerImage
controllerImageVersion controllerUID destinationController destinationResources disableHeartBeat
egress enableEndpointSlices enableH2Upgrade enablePSP enablePprof experimentalEnv extraManifests
heartbeatResources heartbeatSchedule highAvailability identity.additionalEnv
identity.experimentalEnv identity.externalCA identity.issuer identity.kubeAPI identity.livenessProbe
identity.podAnnotations identity.readinessProbe identityResources installNamespace kubeAPI
nodeAffinity podMonitor.controller podMonitor.proxy podMonitor.scrapeTimeout
podMonitor.serviceMirror policyController policyValidator profileValidator prometheusUrl
proxy.outboundTransportMode proxyInit.kubeAPIServerPorts proxyInit.xtMountPath
proxyInjector.additionalEnv proxyInjector.experimentalEnv proxyInjector.livenessProbe
proxyInjector.podAnnotations proxyInjector.readinessProbe runtimeClassName spValidator
spValidatorResources
"""
_CNI = """
enablePSP installNamespace kubeAPI proxyInit repairController updateStrategy.type
"""
_UNUSED: dict[ChartName, tuple[str, ...]] = {
    "meshgraft": tuple(_INJECTOR.split()),
    "meshgraft-cni": tuple(_CNI.split()),
}
"""Paths; what is below one goes with it."""
_RENAMED: dict[ChartName, dict[str, str]] = {
    "meshgraft": {"proxyInjectorResources": "controllerResources"},
    "meshgraft-cni": {},
}
_THEIR_IMAGE = "linkerd/cni-plugin"


@dataclass(frozen=True, slots=True)
class Understood:
    """Values by our names, and the names of those that are not used."""

    tree: Tree
    unused: tuple[str, ...] = ()


def understood(chart: ChartName, given: Tree) -> Understood:
    """What a file of values means to this chart; keys that neither knows stay, to be refused."""
    tree, unused = given, list[str]()
    for name, ours in _RENAMED[chart].items():
        if name in tree:
            tree = {key: value for key, value in tree.items() if key != name}
            tree.setdefault(ours, given[name])
    for path in _UNUSED[chart]:
        without = _without(tree, path.split("."))
        if without is not tree:
            tree, unused = without, [*unused, path]
    if chart == "meshgraft-cni" and _is_theirs(tree.get("image")):
        # Their image has neither our program nor our agent.
        tree, unused = _without(tree, ["image"]), [*unused, "image"]
    return Understood(tree, tuple(unused))


def _is_theirs(image: Any) -> bool:
    return isinstance(image, dict) and str(image.get("name", "")).endswith(_THEIR_IMAGE)


def _without(tree: Tree, path: list[str]) -> Tree:
    """The tree without what is at the path; itself where nothing is."""
    first, *rest = path
    if first not in tree:
        return tree
    if not rest:
        return {key: value for key, value in tree.items() if key != first}
    below = tree[first]
    if not isinstance(below, dict):
        return tree
    left = _without(below, rest)
    if left is below:
        return tree
    if not left:
        return {key: value for key, value in tree.items() if key != first}
    return {**tree, first: left}
