"""Servers and clients for the dataplane tests: sockets inside a pod, threads outside of it."""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.config
import h2.connection
import h2.events

from meshgraft.lab.netns import Netns

Handler = Callable[[socket.socket], None]
_ports = iter(range(20000, 30000))


def free_port() -> int:
    """A port that no other test uses, neither opaque nor skipped."""
    return next(_ports)


def listener(netns: Netns, port: int) -> socket.socket:
    """A listening socket inside a pod, for both families."""
    sock = netns.tcp_socket(socket.AF_INET6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.listen(512)
    return sock


@contextlib.contextmanager
def serving(netns: Netns, handler: Handler, port: int | None = None) -> Iterator[int]:
    """Give each connection to ``handler``, in a thread of its own; yields the port.

    At the end of the block connections that are still open (a proxy keeps them for a while) are
    ended too.
    """
    port = port or free_port()
    server = _Server(listener(netns, port), handler)
    try:
        yield port
    finally:
        server.close()


class _Server:
    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self._sock = sock
        self._handler = handler
        self._open: set[socket.socket] = set()
        self._pool = ThreadPoolExecutor(256)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listening socket was closed
            while True:
                connection, _ = self._sock.accept()
                self._open.add(connection)
                self._pool.submit(self._run, connection)

    def _run(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        # A client that goes away is the test's own doing; what it saw is asserted there.
        with connection, contextlib.suppress(OSError):
            self._handler(connection)
        self._open.discard(connection)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._accepting.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown()


class _Web(http.server.BaseHTTPRequestHandler):
    """Answers GET with the request's head as it arrived, POST with the request's body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        head = f"{self.requestline}\n{self.headers}".encode()
        self._answer(head)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("X-MixedCase", "kept")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The proxies count the requests."""


def web(connection: socket.socket) -> None:
    """An HTTP/1.1 server."""
    _Web(connection, ("", 0), None)  # type: ignore[arg-type]


def reset(connection: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the peer ends its side."""
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer if the peer ends before."""
    data = bytearray()
    while len(data) < size and (chunk := connection.recv(size - len(data))):
        data += chunk
    return bytes(data)


# --- HTTP/2 with prior knowledge, as gRPC speaks it ----------------------------------------------


def h2_echo(connection: socket.socket) -> None:
    """An HTTP/2 server: the request's body back, then a trailer, as gRPC ends a call."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer.initiate_connection()
    connection.sendall(peer.data_to_send())
    bodies: dict[int, bytearray] = {}
    while data := connection.recv(65536):
        for event in peer.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                headers = [(":status", "200"), ("content-type", "application/grpc")]
                peer.send_headers(event.stream_id, headers)
                _send_body(peer, connection, event.stream_id, bytes(bodies.pop(event.stream_id)))
                peer.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        connection.sendall(peer.data_to_send())


def h2_call(connection: socket.socket, body: bytes) -> tuple[bytes, dict[str, str]]:
    """One HTTP/2 request with prior knowledge: the response's body and trailers."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    peer.initiate_connection()
    stream = peer.get_next_available_stream_id()
    headers = [(":method", "POST"), (":path", "/echo.Echo/Call"), (":scheme", "http")]
    peer.send_headers(stream, [*headers, (":authority", "server"), ("te", "trailers")])
    _send_body(peer, connection, stream, body)
    peer.end_stream(stream)
    connection.sendall(peer.data_to_send())
    received = bytearray()
    trailers: dict[str, str] = {}
    while True:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the server ended before its response did")
        for event in peer.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                received += event.data
                peer.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = {str(name): str(value) for name, value in event.headers or []}
            elif isinstance(event, h2.events.StreamReset):
                raise ConnectionError(f"stream reset: {event.error_code}")
            elif isinstance(event, h2.events.StreamEnded):
                return bytes(received), trailers
        connection.sendall(peer.data_to_send())


def _send_body(
    peer: h2.connection.H2Connection, connection: socket.socket, stream: int, body: bytes
) -> None:
    """Send within the peer's flow control: read its window updates while there is no room."""
    view = memoryview(body)
    while view:
        room = min(peer.local_flow_control_window(stream), peer.max_outbound_frame_size)
        if room == 0:
            connection.sendall(peer.data_to_send())
            peer.receive_data(connection.recv(65536))
            continue
        peer.send_data(stream, bytes(view[:room]))
        view = view[room:]
    connection.sendall(peer.data_to_send())
