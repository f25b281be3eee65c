"""The roots in further ConfigMaps: a pod can mount those of its own namespace alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from certificates.ca_bundle import CONFIG_MAP
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.objects import ObjectRef, read, write
from mesh.identity.issuers import Signer

_LOOK_SECONDS = 5.0

_log = structlog.get_logger()


async def publish_roots(api: ApiServer, ref: ObjectRef, roots: bytes) -> bool:
    """Make the ConfigMap hold these roots; True where it had to be written.

    Raises:
        ApiServerError: the API server refused, or did not answer.
    """
    found = await read(api, ref)
    if found is None:
        absent = CONFIG_MAP.absent
        assert absent is not None  # noqa: S101, a ConfigMap can be made
        found = absent(ref)
    if CONFIG_MAP.bundles(found) == (roots,):
        return False
    await write(api, ref, CONFIG_MAP.with_bundle(found, roots))
    return True


async def keep_copies(signer: Signer, api: ApiServer, refs: Sequence[ObjectRef]) -> None:
    """Look after them, for ever. Replicas may do it side by side: they write the same."""
    complaint = ""
    while True:
        roots = signer.roots()
        try:
            for ref in refs if roots else ():
                if await publish_roots(api, ref, roots):
                    _log.info("roots published", configMap=str(ref))
            complaint = ""
        except ApiServerError as error:
            if error.status != 409 and str(error) != complaint:
                complaint = str(error)
                _log.warning("roots cannot be published", error=complaint)
        await asyncio.sleep(_LOOK_SECONDS)
