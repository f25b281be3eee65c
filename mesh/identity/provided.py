"""A CA that somebody provides: read again when it changes, and its roots published."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from certificates.live import LiveCertificate, utc_now
from certificates.x509 import CertificateError, KeyPair, ServingCert, check_pair, key_pem
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.objects import ObjectRef
from mesh.identity.copies import publish_roots
from mesh.identity.issuers import ProvidedIssuer
from mesh.identity.leaf import sign_server
from process.files import FileError

_LOOK_SECONDS = 10.0
_SERVING = timedelta(days=7)

_log = structlog.get_logger()


async def keep_provided(
    issuer: ProvidedIssuer,
    live: LiveCertificate,
    names: Sequence[str],
    api: ApiServer,
    config_map: ObjectRef,
) -> None:
    """Look after it, for ever."""
    while True:
        try:
            changed = issuer.reload()
            if changed or _is_old(live):
                live.use(_serving(issuer, names))
            if await publish_roots(api, config_map, issuer.roots()):
                _log.info("roots published", configMap=str(config_map))
        except (FileError, CertificateError, ApiServerError) as error:
            _log.warning("the provided issuer cannot be looked after", error=str(error))
        await asyncio.sleep(_LOOK_SECONDS)


def _is_old(live: LiveCertificate) -> bool:
    current = live.current
    return current is None or utc_now() >= current.not_after - _SERVING / 3


def _serving(issuer: ProvidedIssuer, names: Sequence[str]) -> ServingCert:
    signer = issuer.issuer()
    if signer is None:
        raise CertificateError("there is no issuer")
    key = ec.generate_private_key(ec.SECP256R1())
    chain = sign_server(signer, key.public_key(), names, utc_now(), _SERVING)
    return check_pair(KeyPair(chain, key_pem(key)), "the provided issuer")
