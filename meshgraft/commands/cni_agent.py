"""``meshgraft cni-agent``: the long-running node part, behind the static plugin program."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import structlog
from cyclopts import Parameter

from cni_plugin.agent.metrics import InstallMetrics, Metrics, TaintMetrics
from cni_plugin.agent.server import DEFAULT_SOCKET, Agent, AgentSettings
from cni_plugin.dataplane.backends import Mode, choose
from cni_plugin.dataplane.expected import Expected, RememberingBackend
from cni_plugin.install.installer import Installer, InstallSettings
from cni_plugin.install.leaving import OwnDaemonSet
from cni_plugin.install.taint import Untainter
from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.pods.cluster_pods import ClusterPods
from cni_plugin.pods.source import (
    KnownPods,
    NodePods,
    pods_from_file,
)
from kubeapi.client import ApiServer
from kubeapi.config import in_cluster, load_config
from meshgraft._errors import CommandError
from meshgraft.commands._cni_install import InstallFlags, install_settings, plugin_entry
from meshgraft.commands._cni_repair import RepairFlags, repair_parts
from meshgraft.commands._cni_sockets import socket_keeper
from process.heap import settle
from process.logs import LogFormat, LogLevel, configure
from process.metrics_server import MetricsServer
from process.threads import Background, Part

_DAEMONSET = "linkerd-cni"
_WAKE_SECONDS = 1.0
_NOT_INSTALLING = InstallFlags()
_NOT_REPAIRING = RepairFlags()
_log = structlog.get_logger("cni_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """What was asked for on the command line."""

    socket: Path
    metrics_listen: str | None
    iptables_mode: Mode
    kubeconfig: Path | None
    node: str | None
    offline_objects: Path | None
    installation: InstallSettings | None
    daemonset: tuple[str, str] | None
    """Namespace and name."""
    startup_taint: str | None
    relay: Path | None
    repair: RepairFlags
    entry: Mapping[str, Any]
    """The plugin's, as ADDs have it."""


def cni_agent(
    *,
    socket: Path = DEFAULT_SOCKET,
    metrics_listen: Annotated[str | None, Parameter(help="HOST:PORT; none by default.")] = None,
    iptables_mode: Mode = "auto",
    kubeconfig: Path | None = None,
    node_name: Annotated[str | None, Parameter(env_var="NODE_NAME")] = None,
    offline_objects: Path | None = None,
    install: InstallFlags = _NOT_INSTALLING,
    daemonset: str | None = None,
    startup_taint: str | None = None,
    relay_socket: Path | None = None,
    repair: RepairFlags = _NOT_REPAIRING,
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
    daemonset
        NAMESPACE/NAME of the DaemonSet that runs this agent. When it is gone at the agent's end,
        what --install installed is taken out of the node. Default: linkerd-cni in the namespace
        of POD_NAMESPACE; without either, everything stays in place.
    startup_taint
        Key of a taint that is removed from this node once the agent is ready.
    relay_socket
        Where the mesh's relay on this node listens; the sockets by which pods' proxies reach it are
        handed over there. Default: there is no mesh.
    log_format
        One JSON object a line, or text for people.
    log_level
        The lowest level that is logged.
    """
    configure(log_format, log_level)
    namespace = os.environ.get("POD_NAMESPACE", "")
    if install.install and install.uninstall:
        raise CommandError("--install and --uninstall exclude each other")
    if install.uninstall:
        _uninstall(install_settings(install, socket, namespace))
        return
    flags = _Flags(
        socket=socket,
        metrics_listen=metrics_listen,
        iptables_mode=iptables_mode,
        kubeconfig=kubeconfig,
        node=node_name or None,
        offline_objects=offline_objects,
        installation=install_settings(install, socket, namespace) if install.install else None,
        daemonset=_daemonset(daemonset, namespace),
        startup_taint=startup_taint or None,
        relay=relay_socket,
        repair=repair,
        entry=plugin_entry(install, socket, namespace),
    )
    _run(flags)


def _uninstall(settings: InstallSettings) -> None:
    report = Installer(settings).uninstall()
    for sentence in report.done:
        print(sentence)
    for problem in report.problems:
        print(f"Error: {problem}", file=sys.stderr)
    if report.problems:
        raise CommandError("the plugin is not wholly uninstalled; run this again after fixing")


def _daemonset(text: str | None, namespace: str) -> tuple[str, str] | None:
    if not text:
        return (namespace, _DAEMONSET) if namespace else None
    namespace, _, name = text.partition("/")
    if not namespace or not name:
        raise CommandError(f"--daemonset {text!r}: expected NAMESPACE/NAME")
    return namespace, name


def _run(flags: _Flags) -> None:
    """Put the parts together, and serve until a signal. The agent serves before it installs."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    metrics = Metrics()
    with ExitStack() as stack:
        api = _api(flags)
        pods = _pod_source(flags, api, metrics)
        if api is not None:
            api.start()
            stack.callback(api.stop)
        expected = Expected()
        backend = RememberingBackend(choose(flags.iptables_mode), expected)
        keeper, on_meshed = socket_keeper(flags.relay, pods, expected, flags.repair.netns_dir)
        agent = Agent(AgentSettings(flags.socket), backend, pods, metrics, expected, on_meshed)
        beside = repair_parts(
            flags.repair, backend, expected, pods, flags.entry, api, metrics.registry
        )
        if keeper is not None:
            beside = [*beside, Part("sockets", keeper.run)]
        node = _NodeAgent(flags, api, agent, metrics, pods, beside)
        port = None
        if flags.metrics_listen is not None:
            server = _metrics_server(flags.metrics_listen, metrics, node)
            stack.callback(server.stop)
            server.start()
            port = server.port
        settle()
        agent.start()
        stack.callback(agent.stop)
        metrics.show_calls(lambda: agent.in_flight, agent.waiting)
        node.background.start()
        stack.callback(node.background.stop)
        _log.info(
            "serving",
            socket=str(flags.socket),
            backend=agent.backend_name,
            pods=pods.name,
            metricsPort=port,
        )
        # Not one wait without end: the kernel may give the signal to another thread, and Python
        # runs its handler in this one, once that wakes up.
        while not stop.wait(_WAKE_SECONDS):
            pass
        _log.info("stopping")
        node.background.stop()
        node.leave()  # while calls are still answered: none may meet an entry without an agent


class _NodeAgent:
    """The agent with what goes on beside it."""

    def __init__(
        self,
        flags: _Flags,
        api: ApiThread | None,
        agent: Agent,
        metrics: Metrics,
        pods: NodePods,
        beside: Sequence[Part],
    ) -> None:
        self._agent = agent
        self._pods = pods
        self._api = api
        self._installer: Installer | None = None
        self._daemonset: OwnDaemonSet | None = None
        parts = list(beside)
        if flags.installation is not None:
            self._installer = Installer(
                flags.installation,
                in_charge=lambda: not agent.is_superseded(),
                observer=InstallMetrics(metrics.registry),
            )
            parts.append(Part("installer", self._installer.run))
            if api is not None and flags.daemonset is not None:
                self._daemonset = OwnDaemonSet(api, *flags.daemonset)
                parts.append(Part("daemonset", self._daemonset.run))
        if flags.startup_taint is not None:
            if api is None or flags.node is None:
                raise CommandError(
                    "--startup-taint needs an API server, and --node-name (or NODE_NAME)"
                )
            observer = TaintMetrics(metrics.registry)
            untainter = Untainter(
                api, flags.node, flags.startup_taint, lambda: not self.not_ready(), observer
            )
            parts.append(Part("untainter", untainter.run))
        self.background = Background(parts)

    def not_ready(self) -> list[str]:
        """Why pods of this node cannot count on the agent, for /readyz."""
        missing = self._installer.missing() if self._installer else []
        unknown = self._pods.problem()
        return [*self._agent.problems(), *missing, *([unknown] if unknown else [])]

    def failures(self) -> list[str]:
        """What only a new start fixes, for /livez."""
        found = [*self._agent.failures(), *self.background.problems()]
        if self._api is not None and not self._api.is_alive():
            found.append("the thread that asks the API server has ended")
        return found

    def leave(self) -> None:
        """Take the plugin out of the node if it is being uninstalled; else leave all in place."""
        if self._installer is None:
            return
        if self._agent.is_superseded():
            _log.info("leaving the plugin installed", reason="a later agent has taken over")
            return
        if self._daemonset is None:
            _log.info("leaving the plugin installed", reason="the agent's DaemonSet is not known")
            return
        verdict = self._daemonset.verdict()
        if not verdict.uninstall:
            _log.info("leaving the plugin installed", reason=verdict.reason)
            return
        _log.info("uninstalling the plugin", reason=verdict.reason)
        report = self._installer.uninstall()
        for sentence in report.done:
            _log.info("changed on the node", what=sentence)
        for problem in report.problems:
            _log.error("not uninstalled: run cni-agent --uninstall on the node", problem=problem)


def _api(flags: _Flags) -> ApiThread | None:
    """The connection to the API server; None where there is none to be had."""
    if flags.offline_objects is not None:
        if flags.kubeconfig is not None:
            raise CommandError("--kubeconfig and --offline-objects exclude each other")
        return None
    if flags.kubeconfig is None and not in_cluster():
        return None
    return ApiThread(ApiServer(load_config(flags.kubeconfig), "meshgraft-cni-agent"))


def _pod_source(flags: _Flags, api: ApiThread | None, metrics: Metrics) -> NodePods:
    if flags.offline_objects is not None:
        return pods_from_file(flags.offline_objects)
    if api is None:
        where = "this is no pod of a cluster and there is no --kubeconfig"
        return KnownPods(name=f"the pod's annotations only, as {where}")
    if flags.node is None:
        _log.warning("no --node-name (or NODE_NAME): pods are asked for one by one")
    return ClusterPods(api, flags.node, metrics)


def _metrics_server(listen: str, metrics: Metrics, node: _NodeAgent) -> MetricsServer:
    host, _, port = listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CommandError(f"--metrics-listen {listen!r}: expected HOST:PORT, as in 127.0.0.1:9990")
    try:
        return MetricsServer(
            host.strip("[]"), int(port), metrics, live=node.failures, ready=node.not_ready
        )
    except OSError as error:
        raise CommandError(f"--metrics-listen {listen}: {error.strerror or error}") from error
