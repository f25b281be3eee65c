"""What the injector's own certificate Secret holds, read from the object and written back to it.

The Secret is of type kubernetes.io/tls, so that other tools understand it:

- ``tls.crt``, ``tls.key``: the serving certificate, which every replica shows;
- ``ca.crt``: every CA that clients have to trust now, just as ``caBundle`` is to hold them: the
  next one, the one that signs, and former ones while something of theirs may still be in use;
- ``ca.key``: the key of the CA that signs;
- ``next-ca.key``: the key of the CA that will sign, once every API server trusts it.

Former CAs have no key any more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certificates.x509 import (
    Authority,
    CertificateError,
    KeyPair,
    ServingCert,
    certificates_pem,
    check_pair,
    key_pem,
)

Object = dict[str, Any]

MANAGED_BY = ("app.kubernetes.io/managed-by", "meshgraft-injector")
"""The label by which we know a Secret as ours."""
SIGNS_SINCE = "meshgraft.io/ca-signs-since"
"""Annotation: since when the CA that signs has done so (RFC 3339)."""
_REMEDY = "the replica that holds the Lease renews it: its log says what stands in the way"
_KEYS = ("tls.crt", "tls.key", "ca.crt", "ca.key", "next-ca.key")


class ForeignSecretError(CertificateError):
    """The Secret holds something that is not ours, and that must not be overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is usable of the Secret."""

    leaf: ServingCert | None = None
    """Certificate and key belong together; it may have expired."""
    signer: Authority | None = None
    upcoming: Authority | None = None
    """The next CA, not trusted by all yet."""
    former: tuple[x509.Certificate, ...] = ()
    """Trusted too, for what they signed, or for what others signed before us."""
    signs_since: datetime | None = None
    faults: tuple[str, ...] = ()
    """What was there and is not usable, in words."""

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """Every CA that clients have to trust, the newest first: so the order stays for life."""
        authorities = (self.upcoming, self.signer)
        return (*(each.certificate for each in authorities if each), *self.former)

    @property
    def bundle(self) -> bytes:
        """What ``caBundle`` has to be, as PEM."""
        return certificates_pem(self.trusted)


def read_held(secret: Object, source: str) -> Held:
    """What the object holds. What is missing or broken in it is left out, and named in ``faults``.

    Raises:
        ForeignSecretError: somebody else made it, and it is not empty.
    """
    meta = secret.get("metadata", {})
    data, faults = _decoded(secret.get("data") or {}, source)
    label, ours = MANAGED_BY
    if (meta.get("labels") or {}).get(label) != ours and any(data.values()):
        raise ForeignSecretError(
            f"{source} holds a certificate that this injector has not made (it lacks the label "
            f"{label}={ours}), and is left as it is: serve it with --cert-dir, delete it, or name "
            "another Secret"
        )
    bundle = _certificates(data["ca.crt"], source, faults)
    signer = _authority(data["ca.key"], f"{source}/ca.key", bundle, faults)
    upcoming = _authority(data["next-ca.key"], f"{source}/next-ca.key", bundle, faults)
    with_key = {each.certificate for each in (signer, upcoming) if each}
    return Held(
        leaf=_leaf(KeyPair(data["tls.crt"], data["tls.key"]), source, faults),
        signer=signer,
        upcoming=upcoming,
        former=tuple(each for each in dict.fromkeys(bundle) if each not in with_key),
        signs_since=_time((meta.get("annotations") or {}).get(SIGNS_SINCE)),
        faults=tuple(faults),
    )


def _decoded(data: Mapping[str, str], source: str) -> tuple[dict[str, bytes], list[str]]:
    found: dict[str, bytes] = {}
    faults: list[str] = []
    for key in _KEYS:
        try:
            found[key] = base64.b64decode(data.get(key) or "", validate=True)
        except (binascii.Error, ValueError) as error:
            found[key] = b""
            faults.append(f"{source}/{key}: not base64: {error}")
    return found, faults


def _leaf(pair: KeyPair, source: str, faults: list[str]) -> ServingCert | None:
    if not (pair.certificate or pair.key):
        return None
    try:
        cert = check_pair(pair, source)
    except CertificateError as error:
        faults.append(str(error))
        return None
    return ServingCert(cert.pair, cert.certificate, source, _REMEDY)


def _certificates(content: bytes, source: str, faults: list[str]) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content) if content else []
    except (ValueError, UnsupportedAlgorithm) as error:
        faults.append(f"{source}/ca.crt: not PEM certificates: {error}")
        return []


def _authority(
    content: bytes, name: str, bundle: list[x509.Certificate], faults: list[str]
) -> Authority | None:
    """The CA of a key: the one in the bundle that has its public half."""
    if not content:
        return None
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        faults.append(f"{name}: not a PEM private key: {error}")
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        for certificate in bundle:
            if _has_key(certificate, key):
                return Authority(certificate, key)
    faults.append(f"{name}: is the key of no certificate in ca.crt")
    return None


def _has_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        # Somebody else's CA, taken over from a caBundle: the API server may know its algorithm.
        return False


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None


def write_held(held: Held, previous: Object | None, namespace: str, name: str) -> Object:
    """The Secret object for the API server: ``previous``, where there is one, changed as needed.

    What others have added to it (labels, annotations, further keys) stays; so does its
    resourceVersion, so that whoever changed it meanwhile wins.
    """
    previous = previous or {"type": "kubernetes.io/tls"}
    meta = dict(previous.get("metadata") or {"namespace": namespace, "name": name})
    meta["labels"] = {
        **(meta.get("labels") or {}),
        **dict((MANAGED_BY, ("app.kubernetes.io/part-of", "meshgraft"))),
    }
    since = {SIGNS_SINCE: held.signs_since.isoformat()} if held.signs_since else {}
    meta["annotations"] = {**(meta.get("annotations") or {}), **since}
    kept = {k: text for k, text in (previous.get("data") or {}).items() if k not in _KEYS}
    return {
        **previous,
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "data": {**kept, **_encoded(held)},
    }


def _encoded(held: Held) -> dict[str, str]:
    leaf = held.leaf.pair if held.leaf else KeyPair(b"", b"")
    keys = {"ca.key": held.signer, "next-ca.key": held.upcoming}
    content = {
        # The type demands both, though they may be empty.
        "tls.crt": leaf.certificate,
        "tls.key": leaf.key,
        "ca.crt": held.bundle,
        **{name: key_pem(each.key) for name, each in keys.items() if each},
    }
    return {name: base64.b64encode(each).decode() for name, each in content.items()}
