"""The small HTTP server that shows /metrics, and /livez and /readyz with what is wrong."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

MAX_CONNECTIONS = 32

Check = Callable[[], Sequence[str]]
"""What is wrong now, one sentence each; nothing where all is well."""


class Exposed(Protocol):
    """Metrics that can be shown."""

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Text in the format that the scraper asked for, and its content type."""


class MetricsServer:
    """Serves /metrics, /livez and /readyz in a thread; ``port`` 0 takes a free one."""

    def __init__(
        self, host: str, port: int, metrics: Exposed, *, live: Check, ready: Check
    ) -> None:
        """Bind at once, so that an address in use is an error at the start.

        What ``live`` finds is fixed by a new start; what ``ready`` finds, by waiting or by hand.

        Raises:
            OSError: the address cannot be bound.
        """
        server_class = _IPv6Server if ":" in host else _Server
        self._server = server_class(
            (host, port), _handler(metrics, {"/livez": live, "/readyz": ready})
        )
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
    """At most `MAX_CONNECTIONS` at once: any pod may connect, and each takes a descriptor and a
    thread, which the calls of the plugin need."""

    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, *args: Any) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        """Connections, the oldest first, and the host at the other end."""
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread; the host with most connections loses its oldest for it."""
        with self._lock:
            self._open[request] = client_address[0]
            if len(self._open) > MAX_CONNECTIONS:
                host, _ = Counter(self._open.values()).most_common(1)[0]
                oldest = next(each for each, other in self._open.items() if other == host)
                del self._open[oldest]
                with contextlib.suppress(OSError):  # the other end has just hung up
                    oldest.shutdown(socket.SHUT_RDWR)  # which ends its thread
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is not worth a traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Bind, without the base class's look-up of our own name in DNS.

        It would hold up the agent's start while the cluster's DNS is down, which may be waiting
        for this very agent.
        """
        socketserver.TCPServer.server_bind(self)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


def _handler(metrics: Exposed, checks: dict[str, Check]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        """Seconds after which a silent client is dropped."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, *metrics.expose(self.headers.get("Accept", "")))
            elif path in checks:
                problems = checks[path]()
                text = "".join(f"{problem}\n" for problem in problems or ["ok"])
                self._answer(503 if problems else 200, text.encode())
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
