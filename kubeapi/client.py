"""The connection to the API server: bounded in time, patient with one that is busy or restarts.

Kubeconfig, service account, client certificates and exec plugins are lightkube's. Its client is
not used beyond that, because it reads whole objects where metadata is enough, knows no bookmarks,
and waits without end on a watch whose connection died silently.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from kubeapi.config import KubeconfigError
from process.backoff import Backoff
from vocabulary.errors import MeshgraftError

_META = "g=meta.k8s.io;v=v1,application/json"
METADATA = f"application/json;as=PartialObjectMetadata;{_META}"
"""Asks for one object's metadata, without the rest."""
METADATA_LIST = f"application/json;as=PartialObjectMetadataList;{_META}"
"""Asks for the metadata of the objects of a list."""

JSON_PATCH = "application/json-patch+json"
"""A patch as RFC 6902 has it."""

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
"""For a page of a list; what a pod waits for has its own, shorter limit."""
IDLE_SECONDS = 60.0
"""An idle connection is kept this long, so that the next look-up needs no handshake."""
MAX_CONNECTIONS = 32
"""Requests beyond wait for a free one: an API server that is busy is not helped by more."""
RETRY_AFTER_SECONDS = 60.0
"""No longer than this is waited, whatever the API server asks for."""

# A connection that died silently (a node gone, a firewall's table lost) is noticed within half a
# minute: a watch only listens, and would never find out by itself.
_KEEPALIVE: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


_CAUSES = {0: "unreachable", 401: "denied", 403: "denied", 410: "expired", 429: "throttled"}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_AUTH_ERRORS = (ConfigError, OSError, KeyError, ValueError)
"""How lightkube fails where a token's file is gone, or an exec plugin fails or answers nonsense."""


class ApiServerError(MeshgraftError):
    """The API server refused, or could not be reached (``status`` is 0 then)."""

    def __init__(self, text: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        """Seconds that the API server asked us to wait."""

    @property
    def cause(self) -> str:
        """One of a few words, for metrics."""
        return _CAUSES.get(self.status, "other")

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well succeed a little later."""
        return self.status in (0, 408, 429) or self.status >= 500


class Status(msgspec.Struct, frozen=True):
    """An error, as the API server words it (meta/v1 Status)."""

    message: str = ""
    reason: str = ""
    code: int = 0


class _TokenFile(httpx2.Auth):
    """A token that rotates, read for each request. lightkube's waits for a 401, and the API
    server takes old tokens for a year, but reports who sends them."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


def _trust(config: SingleConfig, user: User) -> ssl.SSLContext:
    """Whom to believe that it is the API server: as lightkube, and as lenient as Go's clients.

    Python 3.13 asks for what RFC 5280 has beside the signatures (``VERIFY_X509_STRICT``), an
    Authority Key Identifier for one. Clusters have certificates without it, which kubectl, kubelet
    and every operator accept.
    """
    context = verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _client(config: SingleConfig, user_agent: str) -> httpx2.AsyncClient:
    user = config.user or User()
    transport = httpx2.AsyncHTTPTransport(
        verify=_trust(config, user),
        limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        socket_options=_KEEPALIVE,
    )
    return httpx2.AsyncClient(
        base_url=config.cluster.server,
        transport=transport,
        auth=_TokenFile(user.token_file) if user.token_file else user_auth(user),
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        headers={"user-agent": user_agent},
    )


class ApiServer:
    """Requests to one API server; every failure is an `ApiServerError` that can be read."""

    def __init__(self, config: SingleConfig, user_agent: str = "meshgraft") -> None:
        """Prepare; nothing is sent yet, so the API server need not be there.

        ``user_agent`` is what its audit log calls us.

        Raises:
            KubeconfigError: a certificate or key of the configuration is not usable.
        """
        self.address = config.cluster.server
        try:
            self._http = _client(config, user_agent)
        except (ConfigError, OSError, ValueError, httpx2.InvalidURL) as error:
            raise KubeconfigError(f"cannot connect to {self.address}: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(
        self, path: str, *, accept: str, params: Mapping[str, str | int] | None = None
    ) -> bytes:
        """The body of one answer.

        Raises:
            ApiServerError: it refused, or did not answer.
        """
        request = self._http.build_request("GET", path, params=params, headers={"accept": accept})
        async with self._answer(request) as response:
            return await response.aread()

    async def get_within(self, path: str, *, accept: str, seconds: float) -> bytes:
        """`get`, again and again while the fault may pass and there is time left.

        Raises:
            ApiServerError: the last failure, or that ``seconds`` were not enough.
        """
        deadline, backoff = time.monotonic() + seconds, Backoff(first=0.1)
        failure: ApiServerError | None = None
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    return await self.get(path, accept=accept)
            except TimeoutError:
                late = f"the API server at {self.address} did not answer within {seconds:g} s"
                # What went wrong before says more than that the last attempt had no time left.
                raise (failure or ApiServerError(late)) from None
            except ApiServerError as error:
                failure = error
                wait = backoff.next(error.retry_after)
                if not error.is_passing or time.monotonic() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)

    async def post(self, path: str, body: Any) -> None:
        """Create an object.

        Raises:
            ApiServerError: it refused, or did not answer.
        """
        await self.send("POST", path, body)

    async def send(
        self, method: str, path: str, body: Any, *, content_type: str = "application/json"
    ) -> bytes:
        """Create (POST), replace (PUT) or change (PATCH) an object; the body of the answer.

        Raises:
            ApiServerError: it refused, or did not answer.
        """
        request = self._http.build_request(
            method,
            path,
            content=msgspec.json.encode(body),
            headers={"content-type": content_type, "accept": "application/json"},
        )
        async with self._answer(request) as response:
            return await response.aread()

    async def watch(
        self, path: str, *, accept: str, params: Mapping[str, str | int], seconds: int
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a watch, until the API server ends it after ``seconds``.

        Raises:
            ApiServerError: it refused, or the connection broke.
        """
        asked = {**params, "watch": "1", "timeoutSeconds": seconds}
        request = self._http.build_request(
            "GET",
            path,
            params=asked,
            headers={"accept": accept},
            # It may have nothing to say for long; that it is over, it must say in time.
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=seconds + 15.0),
        )
        async with self._answer(request) as response:
            rest = b""
            async for chunk in response.aiter_bytes():
                # Not by the client's notion of lines: it ends one at U+0085 too, which JSON lets
                # stand within a text, so that anybody's annotation could break everybody's watch.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield line

    @asynccontextmanager
    async def _answer(self, request: httpx2.Request) -> AsyncIterator[httpx2.Response]:
        try:
            # A watch may be silent for minutes, but not before it has begun.
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    raise _refusal(request, response, await response.aread())
                yield response
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, *_AUTH_ERRORS) as error:
            why = str(error) or type(error).__name__
            raise ApiServerError(
                f"the API server at {self.address} does not answer: {why}"
            ) from error


def is_name(text: str) -> bool:
    """Whether it can be an object's name: whoever chose it must not lead us to another path."""
    return _NAME.fullmatch(text) is not None


def _refusal(request: httpx2.Request, response: httpx2.Response, body: bytes) -> ApiServerError:
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError:
        status = Status(message=body[:200].decode(errors="replace"))
    code = response.status_code
    return ApiServerError(
        f"the API server answers {request.method} {request.url.path} with {code}: "
        f"{status.message.strip() or response.reason_phrase}",
        status=code,
        retry_after=_retry_after(response),
    )


def _retry_after(response: httpx2.Response) -> float:
    """What ``Retry-After`` asks for, in seconds; one where a 429 forgot to say."""
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdecimal() and len(text) < 9:
        return min(float(text), RETRY_AFTER_SECONDS)
    return 1.0 if response.status_code == 429 else 0.0
