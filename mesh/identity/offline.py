"""Identity without a cluster: pods from a file, the root and what is published in others."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certificates.live import LiveCertificate, utc_now
from certificates.secret import Held
from certificates.x509 import Authority, check_pair, issue_authority, issue_serving, key_pem
from mesh.identity.issuers import OwnRoot
from mesh.identity.pods import KnownPod, read_known_pod
from process.files import read_documents, replace_file

_LIFETIME = timedelta(days=1)


def trial_root(path: Path, now: datetime) -> OwnRoot:
    """The root in a file, so that it outlives this process; made where there is none that holds.

    Raises:
        FileError: it cannot be written.
    """
    authority = _kept(path)
    if authority is None or now >= authority.certificate.not_valid_after_utc - _LIFETIME / 2:
        authority = issue_authority(now, _LIFETIME, path_length=1)
        replace_file(path, authority.pem + key_pem(authority.key), 0o600)
    root = OwnRoot(utc_now)
    root.held(Held(signer=authority))
    return root


def _kept(path: Path) -> Authority | None:
    try:
        content = path.read_bytes()
        key = load_pem_private_key(content, password=None)
        certificate = x509.load_pem_x509_certificate(content)
    except (OSError, ValueError, TypeError):
        return None
    return Authority(certificate, key) if isinstance(key, ec.EllipticCurvePrivateKey) else None


async def publish(root: OwnRoot, live: LiveCertificate, roots_file: Path) -> None:
    """Write the roots, and show a certificate of the root itself.

    Raises:
        FileError: it cannot be written.
    """
    signer = root.root()
    assert signer is not None  # noqa: S101, it has just been made
    pair = issue_serving(signer, ["localhost", "127.0.0.1"], utc_now(), _LIFETIME)
    live.use(check_pair(pair, "the trial's root"))
    replace_file(roots_file, root.roots(), 0o644)
    await asyncio.Event().wait()


class OfflinePods:
    """`mesh.identity.pods.Pods` of a kubectl List, read at each question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, namespace: str, name: str) -> KnownPod | None:
        """As `Pods`.

        Raises:
            FileError: the file is not usable.
        """
        for document in read_documents(self._path):
            items = document.get("items") if isinstance(document, dict) else None
            for item in items if isinstance(items, list) else [document]:
                meta = item.get("metadata") or {}
                if item.get("kind") == "Pod" and meta.get("name") == name:
                    if (meta.get("namespace") or "default") != namespace:
                        continue
                    return read_known_pod(msgspec.json.encode(item))
        return None
