"""The application of a lab pod: a plain HTTP server that says what it is, and its client.

It uses nothing but the standard library and is run as source by the system's own interpreter,
because a user without rights may not be able to reach this file or the virtual environment.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import sys
import threading
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET with a description of itself, and POST with the body that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Who serves, with which rights, and the headers of the request."""
        status = dict(
            line.split(":\t", 1)
            for line in Path("/proc/self/status").read_text().splitlines()
            if ":\t" in line
        )
        described = {
            "pod": os.environ.get("POD_NAME", ""),
            "uid": os.getuid(),
            "capabilities": {k: status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd")},
            "headers": dict(self.headers.items()),
        }
        self._answer(json.dumps(described).encode(), "application/json")

    def do_POST(self) -> None:
        """The same bytes back."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(body, "application/octet-stream")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the proxies count the requests."""


class Server(http.server.ThreadingHTTPServer):
    """Takes many connections at once, each in a thread."""

    request_queue_size = 512
    daemon_threads = True


def serve(ports: list[str]) -> None:
    """Serve on each of the ports until killed."""
    servers = [Server(("0.0.0.0", int(port)), Handler) for port in ports]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


def get(host: str, port: str, count: str) -> None:
    """Send requests, each over a connection of its own; print each answer as a line of JSON."""
    for _ in range(int(count)):
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/", headers={"X-From": str(os.getuid())})
        response = connection.getresponse()
        print(json.dumps({"status": response.status, "body": response.read().decode()}))
        connection.close()


if __name__ == "__main__":
    {"serve": lambda *ports: serve(list(ports)), "get": get}[sys.argv[1]](*sys.argv[2:])
