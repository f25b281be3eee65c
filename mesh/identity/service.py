"""The signing service: believes a token for who calls, and the API server for who a pod is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream
from prometheus_client import CollectorRegistry, Counter, Gauge

from certificates.x509 import CertificateError
from kubeapi.client import ApiServerError
from mesh.identity.issuers import Signer
from mesh.identity.leaf import BadRequestError, Identity, Issuer, public_key_of, sign, sign_server
from mesh.identity.pods import KnownPod, Pods
from mesh.rpc.callers import Caller, Callers, StrangerError
from mesh.rpc.identity import SIGN_POD, SIGN_SERVER, PodRequest, ServerRequest, Signed
from mesh.rpc.refusals import Refusals
from mesh.xds.rpc import Codec

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """Who may ask for what."""

    namespace: str
    """Of the mesh's own parts."""
    relay: tuple[str, str]
    """Namespace and service account of the relays, which ask for pods of their node."""
    servers: Mapping[str, tuple[str, ...]]
    """By service account in ``namespace``, the names that its server may have."""


class Metrics:
    """What identity counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register it."""
        self.signed = Counter(
            "mesh_identity_certificates_signed",
            "Certificates signed, of pods and of the mesh's own servers.",
            ("of",),
            registry=registry,
        )
        self.issuer_expiry = Gauge(
            "mesh_identity_issuer_expiry_timestamp_seconds",
            "When the CA that signs pods' certificates expires, as Unix time.",
            registry=registry,
        )
        self.refusals = Refusals(registry, "mesh_identity_refused")


class IdentityService:
    """The service, as grpclib takes it."""

    def __init__(
        self,
        *,
        signer: Signer,
        pods: Pods,
        callers: Callers,
        trusted: Trusted,
        trust_domain: str,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """``clock`` tells the time, aware of its zone."""
        self._signer = signer
        self._pods = pods
        self._callers = callers
        self._trusted = trusted
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._clock = clock

    def __mapping__(self) -> dict[str, Handler]:
        """As grpclib asks for it."""
        unary = Cardinality.UNARY_UNARY
        return {
            SIGN_POD: Handler(
                functools.partial(self._answer, self.sign_pod), unary, PodRequest, Signed
            ),
            SIGN_SERVER: Handler(
                functools.partial(self._answer, self.sign_server), unary, ServerRequest, Signed
            ),
        }

    def server(self) -> Server:
        """A server of this service alone."""
        return Server([self], codec=Codec())

    async def _answer(self, work: Callable[..., Any], stream: Stream[Any, Signed]) -> None:
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "no request came")
        try:
            await stream.send_message(await work(request, stream.metadata or {}))
        except ApiServerError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error

    async def sign_pod(self, request: PodRequest, metadata: Mapping[str, Any]) -> Signed:
        """The certificate of a pod on the caller's node.

        Raises:
            GRPCError: the caller is not believed, the pod is not what it says, or nobody can sign.
            ApiServerError: it cannot be found out now.
        """
        caller = await self._caller(metadata)
        about = f"{request.namespace}/{request.name}"
        if (caller.namespace, caller.account) != self._trusted.relay:
            raise self._refuse("not-a-relay", str(caller), f"{caller} is no relay of this mesh")
        pod = await self._pods.get(request.namespace, request.name)
        if problem := _pod_problem(pod, request, caller):
            raise self._refuse("not-that-pod", f"{about} by {caller}", f"pod {about}: {problem}")
        assert pod is not None  # noqa: S101, else there was a problem
        identity = Identity(self._trust_domain, request.namespace, pod.service_account)
        issuer = self._issuer()
        try:
            key = public_key_of(request.request)
            chain = sign(issuer, key, identity, self._clock())
        except BadRequestError as error:
            raise self._refuse("bad-request", about, f"pod {about}: {error}") from error
        self._metrics.signed.labels("pod").inc()
        _log.info("certificate signed", pod=about, uid=request.uid, identity=identity.uri)
        return Signed(chain, self._signer.roots())

    async def sign_server(self, request: ServerRequest, metadata: Mapping[str, Any]) -> Signed:
        """The certificate of the caller's own Service.

        Raises:
            GRPCError: the caller has none, or nobody can sign.
            ApiServerError: it cannot be found out now.
        """
        caller = await self._caller(metadata)
        names = self._trusted.servers.get(caller.account)
        if caller.namespace != self._trusted.namespace or not names:
            raise self._refuse("not-a-server", str(caller), f"{caller} is no server of this mesh")
        try:
            key = public_key_of(request.request)
            chain = sign_server(self._issuer(), key, names, self._clock())
        except (BadRequestError, CertificateError) as error:
            raise self._refuse("bad-request", str(caller), str(error)) from error
        self._metrics.signed.labels("server").inc()
        return Signed(chain, self._signer.roots())

    def _issuer(self) -> Issuer:
        issuer = self._signer.issuer()
        if issuer is None:
            raise GRPCError(Status.UNAVAILABLE, self._signer.problem() or "nobody can sign")
        self._metrics.issuer_expiry.set(issuer.certificate.not_valid_after_utc.timestamp())
        return issuer

    async def _caller(self, metadata: Mapping[str, Any]) -> Caller:
        try:
            return await self._callers.who(metadata)
        except StrangerError as error:
            refusals = self._metrics.refusals
            raise refusals.refuse("stranger", "", str(error), Status.UNAUTHENTICATED) from error

    def _refuse(self, why: str, about: str, text: str) -> GRPCError:
        return self._metrics.refusals.refuse(why, about, text, Status.PERMISSION_DENIED)


def _pod_problem(pod: KnownPod | None, request: PodRequest, caller: Caller) -> str | None:
    """Why no certificate is signed for it. Annotations are not looked at: they prove nothing."""
    if pod is None:
        return "there is no such pod"
    if not request.uid or pod.uid != request.uid:
        return f"its uid is not {request.uid or '(none)'}: the pod of that uid is gone"
    if not caller.node or pod.node != caller.node:
        return f"it is not on the caller's node, {caller.node or '(unknown)'}"
    return "it has ended" if pod.ended else None
