"""Whom identity signs for, what it signs, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from prometheus_client import CollectorRegistry

from certificates.secret import Held
from certificates.x509 import Authority, issue_authority, key_pem
from mesh.identity.issuers import OwnRoot, ProvidedIssuer, issue_intermediate
from mesh.identity.leaf import (
    BACKDATED,
    LIFETIME,
    BadRequestError,
    Identity,
    public_key_of,
    sign,
)
from mesh.identity.pods import KnownPod
from mesh.identity.service import IdentityService, Metrics, Trusted
from mesh.rpc.callers import Caller, StrangerError
from mesh.rpc.identity import PodRequest, ServerRequest
from process.files import FileError

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
RELAY = Caller("linkerd-cni", "linkerd-cni", "n1")
POD = KnownPod("u1", "n1", "web")


def request_pem(key: Any = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    )
    sans = x509.SubjectAlternativeName([x509.DNSName("admin.kube-system")])
    return (
        builder.add_extension(sans, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def asked(**changes: Any) -> PodRequest:
    given = {"namespace": "shop", "name": "web-0", "uid": "u1", "request": request_pem()}
    return PodRequest(**{**given, **changes})


@dataclass
class Pods:
    known: dict[tuple[str, str], KnownPod] = field(default_factory=lambda: {("shop", "web-0"): POD})

    async def get(self, namespace: str, name: str) -> KnownPod | None:
        return self.known.get((namespace, name))


@dataclass
class Callers:
    caller: Caller | None = RELAY

    async def who(self, metadata: Mapping[str, Any]) -> Caller:  # noqa: ARG002
        if self.caller is None:
            raise StrangerError("the call came without a token")
        return self.caller


class Setup:
    def __init__(self) -> None:
        self.root = OwnRoot(lambda: NOW)
        self.authority = issue_authority(NOW, timedelta(days=365), path_length=1)
        self.root.held(Held(signer=self.authority))
        self.pods, self.callers = Pods(), Callers()
        self.registry = CollectorRegistry()
        self.service = IdentityService(
            signer=self.root,
            pods=self.pods,
            callers=self.callers,
            trusted=Trusted(
                namespace="meshgraft",
                relay=("linkerd-cni", "linkerd-cni"),
                servers={"meshgraft-control": ("meshgraft-control.meshgraft.svc",)},
            ),
            trust_domain="cluster.local",
            metrics=Metrics(self.registry),
            clock=lambda: NOW,
        )

    def sign(self, request: PodRequest) -> list[x509.Certificate]:
        signed = asyncio.run(self.service.sign_pod(request, {}))
        assert signed.roots == self.authority.pem
        return x509.load_pem_x509_certificates(signed.chain)

    def refused(self, why: str) -> float | None:
        return self.registry.get_sample_value("mesh_identity_refused_total", {"why": why})


@pytest.fixture
def setup() -> Setup:
    return Setup()


def names(certificate: x509.Certificate) -> list[str]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(each.value) for each in san.value]


def test_a_pods_certificate_says_what_the_api_server_says(setup: Setup) -> None:
    leaf, intermediate = setup.sign(asked())
    assert names(leaf) == [
        "spiffe://cluster.local/ns/shop/sa/web",
        "web.shop.serviceaccount.identity.meshgraft.cluster.local",
    ]
    assert list(leaf.subject) == []
    assert leaf.not_valid_before_utc == NOW - BACKDATED
    assert leaf.not_valid_after_utc == NOW + LIFETIME
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(setup.authority.certificate)


@pytest.mark.parametrize(
    ("request_", "caller", "known", "why", "text"),
    [
        (asked(), None, POD, "stranger", "without a token"),
        (asked(), Caller("shop", "web", "n1"), POD, "not-a-relay", "no relay of this mesh"),
        (asked(), Caller("shop", "linkerd-cni", "n1"), POD, "not-a-relay", "no relay"),
        (asked(), Caller("linkerd-cni", "linkerd-cni", "n2"), POD, "not-that-pod", "not on the"),
        (asked(), Caller("linkerd-cni", "linkerd-cni", ""), POD, "not-that-pod", "(unknown)"),
        (asked(uid="u2"), RELAY, POD, "not-that-pod", "its uid is not u2"),
        (asked(uid=""), RELAY, POD, "not-that-pod", "its uid is not (none)"),
        (asked(name="other"), RELAY, POD, "not-that-pod", "there is no such pod"),
        (asked(), RELAY, KnownPod("u1", "n1", "web", ended=True), "not-that-pod", "it has ended"),
        (asked(request=b"x"), RELAY, POD, "bad-request", "not a certificate signing request"),
    ],
)
def test_a_lie_is_refused_and_counted(
    setup: Setup,
    request_: PodRequest,
    caller: Caller | None,
    known: KnownPod,
    why: str,
    text: str,
) -> None:
    setup.callers.caller = caller
    setup.pods.known = {("shop", "web-0"): known}
    for _ in range(2):
        with pytest.raises(GRPCError) as caught:
            setup.sign(request_)
        assert text in str(caught.value.message)
        assert caught.value.status in (Status.PERMISSION_DENIED, Status.UNAUTHENTICATED)
    assert setup.refused(why) == 2


def test_only_the_key_of_a_request_counts() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert public_key_of(request_pem(key)) == key.public_key()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "curve P-256"),
        (ec.generate_private_key(ec.SECP384R1()), "curve P-256"),
    ],
)
def test_keys_of_other_kinds_are_refused(key: Any, text: str) -> None:
    with pytest.raises(BadRequestError, match=text):
        public_key_of(request_pem(key))


def test_a_server_of_the_mesh_gets_its_own_names_and_nobody_elses(setup: Setup) -> None:
    asked_ = ServerRequest(request_pem())
    setup.callers.caller = Caller("meshgraft", "meshgraft-control", "n7")
    signed = asyncio.run(setup.service.sign_server(asked_, {}))
    (leaf, _) = x509.load_pem_x509_certificates(signed.chain)
    assert names(leaf) == ["meshgraft-control.meshgraft.svc"]
    for caller in (RELAY, Caller("shop", "meshgraft-control", "n7")):
        setup.callers.caller = caller
        with pytest.raises(GRPCError, match="no server of this mesh"):
            asyncio.run(setup.service.sign_server(asked_, {}))


def test_nobody_signs_before_there_is_a_root(setup: Setup) -> None:
    setup.service._signer = OwnRoot(lambda: NOW)
    with pytest.raises(GRPCError, match="there is no root yet"):
        setup.sign(asked())


def test_an_intermediate_is_replaced_in_time_and_with_its_root() -> None:
    clock = [NOW]
    root = OwnRoot(lambda: clock[0])
    old, new = (issue_authority(NOW, timedelta(days=365), path_length=1) for _ in range(2))
    root.held(Held(signer=old))
    first = root.issuer()
    assert first is not None
    assert root.issuer() is first
    clock[0] += timedelta(days=5)
    second = root.issuer()
    assert second is not None
    assert second is not first
    root.held(Held(signer=new, former=(old.certificate,)))
    third = root.issuer()
    assert third is not None
    third.certificate.verify_directly_issued_by(new.certificate)
    # Both are trusted while something of the old one is in use.
    assert len(x509.load_pem_x509_certificates(root.roots())) == 2


def test_a_leaf_never_outlives_whoever_signed_it() -> None:
    root = issue_authority(NOW, timedelta(hours=2), path_length=1)
    issuer = issue_intermediate(root, NOW)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    chain = sign(issuer, key, Identity("cluster.local", "shop", "web"), NOW)
    (leaf, above) = x509.load_pem_x509_certificates(chain)
    assert (
        leaf.not_valid_after_utc
        == above.not_valid_after_utc
        == root.certificate.not_valid_after_utc
    )


def test_a_long_name_of_a_service_account_fits_a_dns_label() -> None:
    dns = Identity("cluster.local", "n" * 63, "s" * 253).dns
    assert all(len(label) <= 63 for label in dns.split("."))
    assert dns != Identity("cluster.local", "n" * 63, "s" * 252).dns


class TestProvided:
    def folder(self, path: Path, authority: Authority, roots: bytes | None = None) -> Path:
        issuer = issue_intermediate(authority, datetime.now(UTC))
        (path / "tls.crt").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
        (path / "tls.key").write_bytes(key_pem(issuer.key))
        (path / "ca.crt").write_bytes(authority.pem if roots is None else roots)
        return path

    def authority(self) -> Authority:
        return issue_authority(datetime.now(UTC), timedelta(days=1), path_length=1)

    def test_it_is_read_and_read_again(self, tmp_path: Path) -> None:
        first, second = self.authority(), self.authority()
        provided = ProvidedIssuer(self.folder(tmp_path, first))
        assert provided.roots() == first.pem
        assert not provided.reload()
        self.folder(tmp_path, second)
        assert provided.reload()
        assert provided.roots() == second.pem

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("tls.key", b"x", "not a PEM private key"),
            ("tls.key", key_pem(ec.generate_private_key(ec.SECP256R1())), "does not belong"),
            ("tls.crt", b"x", "not PEM certificates"),
            ("ca.crt", issue_authority(NOW).pem, "no root there has issued"),
        ],
    )
    def test_what_does_not_fit_is_named_and_what_was_good_stays(
        self, tmp_path: Path, name: str, content: bytes, text: str
    ) -> None:
        provided = ProvidedIssuer(self.folder(tmp_path, self.authority()))
        before = provided.issuer()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=text):
            provided.reload()
        assert provided.issuer() is before
        assert text in (provided.problem() or "")
