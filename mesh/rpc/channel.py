"""How one process of the mesh calls another: by TLS to roots and with tokens that change."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from grpclib.client import Channel
from grpclib.config import Configuration

from mesh.xds.rpc import Codec
from vocabulary.errors import MeshgraftError


class NotReadyError(MeshgraftError):
    """A call cannot be made yet; the text says what is missing."""


class Peer:
    """A server of the mesh, by its Service's address."""

    def __init__(
        self, address: str, roots_file: Path, token_file: Path, server_name: str = ""
    ) -> None:
        """``address`` is HOST:PORT; ``server_name`` is what its certificate must say, where that is
        not the host. Both files are read at each call."""
        host, _, port = address.rpartition(":")
        self.address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._roots_file = roots_file
        self._token_file = token_file
        self._server_name = server_name or self._host

    def roots(self) -> bytes:
        """Whom to trust at this moment, PEM; empty where that is not known yet."""
        try:
            return self._roots_file.read_bytes()
        except OSError:
            return b""

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[tuple[Channel, Mapping[str, str]]]:
        """A channel, and what goes with each call; made anew, so that new roots count.

        Raises:
            NotReadyError: there are no roots yet, or no token.
        """
        context = client_context(self.roots())
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise NotReadyError(f"{self._token_file}: {error.strerror or error}") from error
        named = Configuration(ssl_target_name_override=self._server_name)
        channel = Channel(self._host, self._port, ssl=context, codec=Codec(), config=named)
        try:
            yield channel, {"authorization": f"Bearer {token}"}
        finally:
            channel.close()


def client_context(roots: bytes) -> ssl.SSLContext:
    """TLS 1.3 to whoever these roots vouch for.

    Raises:
        NotReadyError: there are none.
    """
    if not roots.strip():
        raise NotReadyError("the mesh's roots are not known yet: identity publishes them")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    return context
