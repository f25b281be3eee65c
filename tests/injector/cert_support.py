"""A cluster's side of certificates: what a client accepts that follows caBundle, and shorthands."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certificates.keeper import parse_kept

SERVICE = "meshgraft-injector.meshgraft.svc"
KEPT = parse_kept("meshgraft/certs", "hooks", "meshgraft/lease")
SECRET = f"/{KEPT.secret.path}"
HOOKS = f"/{KEPT.configuration.path}"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/meshgraft/leases/lease"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def configuration(*bundles: bytes) -> dict[str, Any]:
    """A MutatingWebhookConfiguration with a webhook for each bundle; two without, if none."""
    hooks: list[dict[str, Any]] = []
    for bundle in bundles or (b"", b""):
        client: dict[str, Any] = {"service": {"name": "meshgraft-injector"}}
        if bundle:
            client["caBundle"] = base64.b64encode(bundle).decode()
        hooks.append(
            {"name": f"h{len(hooks)}.example", "clientConfig": client, "timeoutSeconds": 5}
        )
    return {
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "hooks"},
        "webhooks": hooks,
    }


def accepts(bundle: bytes, leaf: x509.Certificate, at: datetime) -> bool:
    """Whether an API server that goes by this caBundle would talk to who shows the certificate."""
    trusted = x509.load_pem_x509_certificates(bundle) if bundle else []
    if not trusted:
        return False
    verifier = PolicyBuilder().store(Store(trusted)).time(at)
    try:
        verifier.build_server_verifier(x509.DNSName(SERVICE)).verify(leaf, [])
    except VerificationError:
        return False
    return True


@dataclass
class Follower:
    """The bundles that an API server may go by: it hears of a new one with a delay."""

    seconds: float
    written: list[tuple[float, bytes]]

    def note(self, bundle: bytes, at: float) -> None:
        """The caBundle is this, at that time."""
        if not self.written or self.written[-1][1] != bundle:
            self.written.append((at, bundle))

    def possible(self, at: float) -> Iterable[bytes]:
        """Each bundle that stood at some time within the delay."""
        ends = [begun for begun, _ in self.written[1:]] + [at]
        recent = zip(self.written, ends, strict=True)
        return [bundle for (_, bundle), end in recent if end >= at - self.seconds]
