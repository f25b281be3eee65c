"""The agent's metrics, and the small HTTP server that shows them beside /livez and /readyz."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

_COMMANDS = frozenset({"ADD", "CHECK", "STATUS"})
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


LookupResult = Literal["memory", "fetched", "missing", "failed"]


class Measured(Protocol):
    """What is counted about an answered request."""

    @property
    def command(self) -> str:
        """``CNI_COMMAND``, as it came."""

    @property
    def result(self) -> str:
        """What was done, from a small fixed set of words."""

    @property
    def rules_seconds(self) -> float | None:
        """Time that the backend took, None where it was not asked."""


class Metrics:
    """Counters and histograms of one agent, in a registry of its own. All labels are bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "linkerd_cni_requests",
            "Calls of the CNI plugin that were answered.",
            ["command", "result"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "linkerd_cni_request_duration_seconds",
            "Time from accepting a call of the CNI plugin to its answer.",
            ["command"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._rules_seconds = Histogram(
            "linkerd_cni_rules_duration_seconds",
            "Time spent on a pod's traffic rules alone.",
            ["backend", "command"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._lookups = Counter(
            "linkerd_cni_pod_lookups",
            "Pods that did not bring their redirection along, by where they were found.",
            ["result"],
            registry=self.registry,
        )
        self._pods = Gauge(
            "linkerd_cni_pods",
            "Pods of this node held in memory, by the watch.",
            registry=self.registry,
        )
        self._contact = Gauge(
            "linkerd_cni_pods_last_contact_timestamp_seconds",
            "When the API server last told about this node's pods, as Unix time; 0: never.",
            registry=self.registry,
        )
        self._watch_failures = Counter(
            "linkerd_cni_pods_watch_failures",
            "Lists and watches of this node's pods that failed, by cause; each is tried again.",
            ["cause"],
            registry=self.registry,
        )
        self._refused = Counter(
            "linkerd_cni_connections_refused",
            "Connections that brought no request that could be answered.",
            registry=self.registry,
        )

    def answered(self, answer: Measured, backend: str, seconds: float) -> None:
        """Count one answered request; ``seconds`` is its whole time."""
        command = answer.command if answer.command in _COMMANDS else "other"
        self._requests.labels(command, answer.result).inc()
        self._seconds.labels(command).observe(seconds)
        if answer.rules_seconds is not None:
            self._rules_seconds.labels(backend, command).observe(answer.rules_seconds)

    def in_touch(self, known: int) -> None:
        """The API server has just told about this node's pods, of which ``known`` are held."""
        self._pods.set(known)
        self._contact.set_to_current_time()

    def watch_failed(self, cause: str) -> None:
        """A list or watch of this node's pods failed; ``cause`` is one of a few words."""
        self._watch_failures.labels(cause).inc()

    def looked_up(self, result: LookupResult) -> None:
        """A pod that did not bring its redirection along was looked up."""
        self._lookups.labels(result).inc()

    def refused(self) -> None:
        """Count a connection that was closed without an answer."""
        self._refused.inc()

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, in the format that the ``Accept`` header asks for, and its type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class MetricsServer:
    """Serves /metrics, /livez and /readyz in a thread; ``port`` 0 takes a free one."""

    def __init__(self, host: str, port: int, metrics: Metrics, ready: Callable[[], bool]) -> None:
        """Bind at once, so that an address in use is an error at the start.

        Raises:
            OSError: the address cannot be bound.
        """
        server_class = _IPv6Server if ":" in host else _Server
        self._server = server_class((host, port), _handler(metrics, ready))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():  # else shutdown would wait for good
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Bind, without the base class's look-up of our own name in DNS.

        It would hold up the agent's start while the cluster's DNS is down, which may be waiting
        for this very agent.
        """
        socketserver.TCPServer.server_bind(self)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


def _handler(metrics: Metrics, ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        """Seconds after which a silent client is dropped."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, *metrics.expose(self.headers.get("Accept", "")))
            elif path == "/livez":
                self._answer(200, b"ok\n")
            elif path == "/readyz":
                self._answer(*((200, b"ok\n") if ready() else (503, b"not serving\n")))
            else:
                self._answer(404, b"not found: try /metrics, /livez or /readyz\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes and scrapes are not worth a log line."""

    return Handler
