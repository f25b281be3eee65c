"""SDS resources: a pod's certificate with its key, and the roots it trusts.

The few fields of Envoy's ``Secret`` that these take are described here: the relay knows no others.
Source: ``envoy/extensions/transport_sockets/tls/v3/{secret,common}.proto``.
"""

from __future__ import annotations

from typing import Any

from mesh.xds.messages import Key, Resource, digest
from mesh.xds.protobuf import BYTES, MESSAGE, STRING, declare
from vocabulary.mesh import KEY_SECRET, ROOTS_SECRET

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105

_M = declare(
    "sds",
    {
        "DataSource": {"inline_bytes": (2, BYTES)},
        "TlsCertificate": {
            "certificate_chain": (1, MESSAGE, "DataSource"),
            "private_key": (2, MESSAGE, "DataSource"),
        },
        "ValidationContext": {"trusted_ca": (1, MESSAGE, "DataSource")},
        "Secret": {
            "name": (1, STRING),
            "tls_certificate": (2, MESSAGE, "TlsCertificate"),
            "validation_context": (4, MESSAGE, "ValidationContext"),
        },
    },
)


def key_secret(chain: bytes, key: bytes) -> Resource:
    """A certificate with its chain, and the private key, all PEM."""
    made = _M["Secret"](name=KEY_SECRET)
    made.tls_certificate.certificate_chain.inline_bytes = chain
    made.tls_certificate.private_key.inline_bytes = key
    return _resource(KEY_SECRET, made)


def roots_secret(roots: bytes) -> Resource:
    """The roots to trust, PEM one after the other."""
    made = _M["Secret"](name=ROOTS_SECRET)
    made.validation_context.trusted_ca.inline_bytes = roots
    return _resource(ROOTS_SECRET, made)


def _resource(name: str, made: Any) -> Resource:
    value = bytes(made.SerializeToString(deterministic=True))
    return Resource(Key(SECRET, name), digest(value), value)
