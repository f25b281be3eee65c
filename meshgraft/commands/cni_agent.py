"""``meshgraft cni-agent``: the long-running node part, behind the static plugin program."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import structlog
from cyclopts import Parameter

from cni_plugin.agent import DEFAULT_SOCKET, Agent, AgentError, AgentSettings
from cni_plugin.backends import Mode, choose
from cni_plugin.errors import DataplaneError
from cni_plugin.metrics import Metrics, MetricsServer
from cni_plugin.pods import KnownPods, PodsFileError, PodSource, pods_from_file
from injector.logs import LogFormat, LogLevel, configure
from meshgraft._errors import CommandError

_log = structlog.get_logger("cni_agent")


def cni_agent(
    *,
    socket: Path = DEFAULT_SOCKET,
    metrics_listen: Annotated[str | None, Parameter(help="HOST:PORT; none by default.")] = None,
    iptables_mode: Mode = "auto",
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
    try:
        _serve(
            AgentSettings(socket_path=socket), metrics_listen, iptables_mode, offline_objects, stop
        )
    except (AgentError, DataplaneError, PodsFileError) as error:
        raise CommandError(str(error)) from error


def _serve(
    settings: AgentSettings,
    metrics_listen: str | None,
    mode: Mode,
    offline_objects: Path | None,
    stop: threading.Event,
) -> None:
    backend = choose(mode)
    pods = _pod_source(offline_objects)
    metrics = Metrics()
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


def _pod_source(offline_objects: Path | None) -> PodSource:
    if offline_objects is not None:
        return pods_from_file(offline_objects)
    return KnownPods(name="the pod's annotations only, as no source of pods is configured")


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
