"""What the webhook works on: a cluster behind an API server, or a file in its place."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from injector.cluster.events import EventSink, LoggedEvents
from injector.cluster.kube_events import KubeEvents
from injector.cluster.lookups import KubeCluster
from injector.cluster.metrics import ClusterMetrics
from injector.cluster.namespaces import Namespaces
from injector.cluster.source import Cluster, load_offline_objects
from kubeapi.client import ApiServer
from kubeapi.config import KubeconfigError, in_cluster, load_config
from process.background import Work
from process.health import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A cluster, where its Events go, and what has to run and be well for that."""

    cluster: Cluster
    events: EventSink
    api: ApiServer | None = None
    """The API server, where there is one."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    background: Mapping[str, Work] = field(default_factory=dict)


def offline(path: Path) -> Connection:
    """A kubectl List instead of an API server; Events go to the log.

    Raises:
        FileError: as `load_offline_objects`.
    """
    return Connection(cluster=load_offline_objects(path), events=LoggedEvents())


def online(kubeconfig: Path | None, registry: CollectorRegistry) -> Connection:
    """The API server of a kubeconfig, or of the cluster that this runs in.

    Raises:
        KubeconfigError: neither is there, or it is not usable.
    """
    if kubeconfig is None and not in_cluster():
        raise KubeconfigError(
            "this is no pod of a cluster: name the cluster with --kubeconfig FILE, or give the "
            "cluster's Namespaces with --offline-objects FILE "
            "(kubectl get namespaces,replicasets,jobs -A -o yaml > FILE)"
        )
    api, metrics = (
        ApiServer(load_config(kubeconfig), "meshgraft-injector"),
        ClusterMetrics(registry),
    )
    namespaces = Namespaces(api, metrics)
    cluster = KubeCluster(api, namespaces, metrics)
    # In a pod the host's name is the pod's.
    events = KubeEvents(api, metrics, instance=socket.gethostname(), is_there=cluster.is_there)
    return Connection(
        cluster=cluster,
        events=events,
        api=api,
        checks={"namespaces": namespaces.problem},
        background={"namespaces": namespaces.run, "events": events.run},
    )
