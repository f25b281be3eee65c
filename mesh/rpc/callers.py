"""Who calls: a token is shown to the API server, which says whose it is and on which node.

Source: authentication.k8s.io/v1 TokenReview; KEP-4193 (the node's name in bound tokens), before
which the pod that the token is bound to says it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from cachetools import TTLCache

from kubeapi.client import ApiServer, ApiServerError, is_name
from vocabulary.errors import MeshgraftError

REMEMBERED_SECONDS = 60.0
"""For so long a token that was good is taken for good, unasked."""
_EXTRA = "authentication.kubernetes.io/"
_PREFIX = "system:serviceaccount:"


class StrangerError(MeshgraftError):
    """Whoever called is not believed; the text says why, for our own log."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A service account's pod."""

    namespace: str
    account: str
    node: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.account} on node {self.node or '(unknown)'}"


class Callers(Protocol):
    """Says who calls."""

    async def who(self, metadata: Mapping[str, Any]) -> Caller:
        """The caller, by what came with the call.

        Raises:
            StrangerError: nobody that is known.
            ApiServerError: it cannot be found out now.
        """


def token_of(metadata: Mapping[str, Any]) -> str:
    """The bearer token of a call.

    Raises:
        StrangerError: there is none.
    """
    kind, _, token = str(metadata.get("authorization", "")).partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise StrangerError("the call came without a token")
    return token.strip()


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] | None = None


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct, frozen=True):
    spec: _PodSpec = _PodSpec()


class TokenCallers:
    """`Callers` by TokenReview."""

    def __init__(self, api: ApiServer, audience: str) -> None:
        """``audience`` is whom the token must be for: one for another service is of no use here."""
        self._api = api
        self._audience = audience
        self._known: TTLCache[bytes, Caller] = TTLCache(16384, REMEMBERED_SECONDS)

    async def who(self, metadata: Mapping[str, Any]) -> Caller:
        """As `Callers`."""
        token = token_of(metadata)
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = await self._review(token)
        return known

    async def _review(self, token: str) -> Caller:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        path = "apis/authentication.k8s.io/v1/tokenreviews"
        answer = await self._api.send("POST", path, body)
        try:
            status = msgspec.json.decode(answer, type=_Review).status
        except msgspec.DecodeError as error:
            raise ApiServerError(
                f"the answer to a TokenReview is not understood: {error}"
            ) from error
        if not status.authenticated:
            raise StrangerError(f"the API server does not know the token: {status.error or 'no'}")
        namespace, _, account = status.user.username.removeprefix(_PREFIX).partition(":")
        if not status.user.username.startswith(_PREFIX) or not account:
            raise StrangerError(f"the token is of {status.user.username}, no service account")
        return Caller(namespace, account, await self._node(namespace, status.user.extra or {}))

    async def _node(self, namespace: str, extra: Mapping[str, list[str]]) -> str:
        if nodes := extra.get(f"{_EXTRA}node-name"):
            return nodes[0]
        pods = extra.get(f"{_EXTRA}pod-name") or []
        if not pods or not is_name(pods[0]):
            return ""  # a token that is bound to no pod
        path = f"api/v1/namespaces/{namespace}/pods/{pods[0]}"
        answer = await self._api.get(path, accept="application/json")
        try:
            return msgspec.json.decode(answer, type=_Pod).spec.node_name
        except msgspec.DecodeError as error:
            raise ApiServerError(f"pod {namespace}/{pods[0]} is not understood: {error}") from error


class OfflineCallers:
    """`Callers` without a cluster: a token is believed to be ``NAMESPACE/ACCOUNT/NODE``. For trials
    on one machine."""

    async def who(self, metadata: Mapping[str, Any]) -> Caller:
        """As `Callers`."""
        parts = token_of(metadata).split("/")
        if len(parts) != 3:
            raise StrangerError("a token for trials is NAMESPACE/ACCOUNT/NODE")
        return Caller(*parts)
