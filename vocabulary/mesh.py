"""Names by which the parts of the mesh know each other: sockets, secrets, identities.

The injector writes them into a proxy's bootstrap; relay, control and identity serve them.
"""

from __future__ import annotations

import re

from vocabulary.labels import label_value

SOCKET = "@meshgraft.xds"
"""The relay's socket in a pod's network namespace, abstract: ``@`` stands for the null byte."""
KEY_SECRET = "default"  # noqa: S105, this is its name
"""The pod's certificate and key, by SDS."""
ROOTS_SECRET = "ROOT"  # noqa: S105, this is its name
"""The roots to trust, by SDS."""
OUTBOUND_ROUTES, INBOUND_ROUTES = "outbound", "inbound"
"""By RDS."""
TCP_PREFIX = "tcp/"
"""Of a Cluster's name, where the connection is not HTTP; the rest is the destination."""
DESTINATION_HEADER = "x-meshgraft-destination"
"""Within a proxy, where a request was going; a client's own is overwritten, and none leaves."""
ALIASES = "meshgraft.io/Aliases"
"""A type of resources from control to relay: by a pod's uid, which names mean something else to
it. JSON: by type, how these names begin."""
MESH_ANNOTATION = "meshgraft.io/mesh"
"""``enabled`` on a pod whose proxy takes its identity and its destinations from the mesh."""
ENABLED = "enabled"
_LABEL = "identity.meshgraft"


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Who a pod is, as it stands in its certificate (SPIFFE ID; Istio writes the same)."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def server_name(trust_domain: str, namespace: str, service_account: str) -> str:
    """The same as a DNS name: what a client asks for by SNI, and what the certificate holds too.

    A service account's name may hold dots, and so may be several labels; one that is longer than a
    label may be is shortened with a hash.
    """
    return (
        f"{label_value(service_account)}.{namespace}.serviceaccount.{server_suffix(trust_domain)}"
    )


def server_suffix(trust_domain: str) -> str:
    """How every server's name ends: by that, mesh TLS is told from an application's own."""
    return f"{_LABEL}.{trust_domain}"


_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def is_trust_domain(text: str) -> bool:
    """Whether it can be a trust domain: a DNS name, so that certificates can hold it."""
    return len(text) <= 128 and _TRUST_DOMAIN.fullmatch(text) is not None
