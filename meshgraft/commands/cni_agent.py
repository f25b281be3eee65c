"""``meshgraft cni-agent``: the long-running node part, behind the static plugin program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
from cyclopts import Parameter

from cni_plugin.agent import DEFAULT_SOCKET, Agent, AgentError, AgentSettings
from cni_plugin.backends import Mode, choose
from cni_plugin.cluster_pods import ClusterPods
from cni_plugin.errors import DataplaneError
from cni_plugin.metrics import Metrics, MetricsServer
from cni_plugin.pods import KnownPods, PodsFileError, PodSource, PodSourceError, pods_from_file
from injector.logs import LogFormat, LogLevel, configure
from kubeapi.client import ApiServer
from kubeapi.config import KubeconfigError, in_cluster, load_config
from meshgraft._errors import CommandError

_log = structlog.get_logger("cni_agent")


def cni_agent(
    *,
    socket: Path = DEFAULT_SOCKET,
    metrics_listen: Annotated[str | None, Parameter(help="HOST:PORT; none by default.")] = None,
    iptables_mode: Mode = "auto",
    kubeconfig: Path | None = None,
    node_name: Annotated[str | None, Parameter(env_var="NODE_NAME")] = None,
    offline_objects: Path | None = None,
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Serve the CNI plugin of this node until SIGTERM or SIGINT.

    Parameters
    ----------
    socket
        The Unix socket that the program linkerd-cni calls.
    metrics_listen
        Where to show /metrics, /livez and /readyz.
    iptables_mode
        How to set traffic rules; auto takes nftables where the kernel has it.
    kubeconfig
        The cluster of this node, by the file's current context. Default: the cluster of the pod
        that this runs in; elsewhere no API server is asked.
    node_name
        This node's name in the cluster, to watch its pods. Without it each is asked for by name.
    offline_objects
        A kubectl List (YAML or JSON) whose Pods stand in for the API server's.
    log_format
        One JSON object a line, or text for people.
    log_level
        The lowest level that is logged.
    """
    configure(log_format, log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    metrics = Metrics()
    try:
        with _pod_source(offline_objects, kubeconfig, node_name or None, metrics) as pods:
            _serve(
                AgentSettings(socket_path=socket),
                metrics_listen,
                iptables_mode,
                pods,
                metrics,
                stop,
            )
    except (AgentError, DataplaneError, KubeconfigError, PodsFileError, PodSourceError) as error:
        raise CommandError(str(error)) from error


def _serve(
    settings: AgentSettings,
    metrics_listen: str | None,
    mode: Mode,
    pods: PodSource,
    metrics: Metrics,
    stop: threading.Event,
) -> None:
    backend = choose(mode)
    agent = Agent(settings, backend, pods, metrics)
    server = _metrics_server(metrics_listen, metrics, agent)
    agent.start()
    try:
        if server:
            server.start()
        _log.info("serving", socket=str(settings.socket_path), backend=backend.name, pods=pods.name)
        stop.wait()
        _log.info("stopping")
    finally:
        agent.stop()
        if server:
            server.stop()


@contextmanager
def _pod_source(
    offline_objects: Path | None, kubeconfig: Path | None, node: str | None, metrics: Metrics
) -> Iterator[PodSource]:
    if offline_objects is not None and kubeconfig is not None:
        raise CommandError("--kubeconfig and --offline-objects exclude each other")
    if offline_objects is not None:
        yield pods_from_file(offline_objects)
    elif kubeconfig is None and not in_cluster():
        where = "this is no pod of a cluster and there is no --kubeconfig"
        yield KnownPods(name=f"the pod's annotations only, as {where}")
    else:
        api = ApiServer(load_config(kubeconfig), "meshgraft-cni-agent")
        pods = ClusterPods(api, node, metrics)
        if node is None:
            _log.warning("no --node-name (or NODE_NAME): pods are asked for one by one")
        pods.start()
        try:
            yield pods
        finally:
            pods.stop()


def _metrics_server(listen: str | None, metrics: Metrics, agent: Agent) -> MetricsServer | None:
    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CommandError(f"--metrics-listen {listen!r}: expected HOST:PORT, as in 127.0.0.1:9990")
    try:
        return MetricsServer(host.strip("[]"), int(port), metrics, agent.is_ready)
    except OSError as error:
        raise CommandError(f"--metrics-listen {listen}: {error.strerror or error}") from error
