"""The flags of ``cni-agent`` about pods that lack their rules, and the parts that see to them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter
from prometheus_client import CollectorRegistry

from cni_plugin.agent.metrics import RepairMetrics
from cni_plugin.agent.netconf import NetConf, decode_netconf
from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.expected import Expected
from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.pods.netns import RUN_NETNS, PodNetns
from cni_plugin.pods.source import NodePods
from cni_plugin.repair.repair import Repair, Tools
from cni_plugin.repair.report import ClusterReporter, LoggedReporter
from cni_plugin.repair.witness import Witness
from cni_plugin.spec import CniError
from meshgraft._errors import CommandError
from process.threads import Part


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RepairFlags:
    """What to do about pods of this node that lack their rules."""

    repair: bool = False
    """Give the rules to pods of this node that should have them and do not, where they run."""

    evict: bool = False
    """Evict pods that wait for rules and cannot be repaired, if something makes them anew;
    PodDisruptionBudgets hold. Implies --repair."""

    netns_dir: Path = RUN_NETNS
    """Where the node's runtime keeps the network namespaces of pods."""


def repair_parts(
    flags: RepairFlags,
    backend: Backend,
    expected: Expected,
    pods: NodePods,
    entry: Mapping[str, Any],
    api: ApiThread | None,
    registry: CollectorRegistry,
) -> list[Part]:
    """What goes on beside the calls: always a witness for validators, and the repair if wanted.

    Raises:
        CommandError: the plugin's entry is not usable.
    """
    parts = [Part("witness", Witness(backend, expected, flags.netns_dir).run)]
    if flags.repair or flags.evict:
        metrics = RepairMetrics(registry)
        instance = os.environ.get("POD_NAME", "")
        tools = Tools(
            pods=pods,
            backend=backend,
            netns=PodNetns(flags.netns_dir, home_of=expected.home_of),
            netconf=_netconf(entry),
            expected=expected,
            reporter=ClusterReporter(api, metrics, instance) if api else LoggedReporter(),
            metrics=metrics,
            evict=flags.evict,
        )
        parts.append(Part("repair", Repair(tools).run))
    return parts


def _netconf(entry: Mapping[str, Any]) -> NetConf:
    """The entry as an ADD has it from the runtime."""
    try:
        return decode_netconf(json.dumps({**entry, "cniVersion": "1.0.0"}).encode())
    except CniError as error:
        raise CommandError(f"--cni-network-config (CNI_NETWORK_CONFIG): {error.msg}") from error
