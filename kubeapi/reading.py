"""Objects read for people's commands: one by name, or a collection page by page.

A refusal says which verb on what is missing, so that it is never taken for absence. Source:
Kubernetes API concepts, "Retrieving large results sets in chunks", "Metadata-only fetches".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kubeapi.client import METADATA, METADATA_LIST, ApiServer, ApiServerError, is_name
from process.backoff import Backoff

Object = dict[str, Any]
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
PAGE = 500
"""Objects in one answer; what is done with a page is done before the next is asked for."""
ATTEMPTS = 4
"""So often a page is asked for while the API server is busy."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, as the API's paths and RBAC name it: the plural and its group."""

    plural: str
    group: str = ""
    version: str = "v1"

    @property
    def label(self) -> str:
        """``deployments.apps``, as kubectl and RBAC's messages write it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of one object, or of the collection; without a namespace, of all of them.

        Raises:
            ValueError: a name that would lead elsewhere.
        """
        for text in filter(None, (namespace, name)):
            if not is_name(text):
                raise ValueError(f"{text!r} cannot be the name of an object")
        root = f"apis/{self.group}/{self.version}" if self.group else f"api/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


NAMESPACES = Kind("namespaces")
PODS = Kind("pods")
CONFIG_MAPS = Kind("configmaps")
SECRETS = Kind("secrets")
SERVICES = Kind("services")
SERVICE_ACCOUNTS = Kind("serviceaccounts")
NODES = Kind("nodes")
DEPLOYMENTS = Kind("deployments", "apps")
REPLICA_SETS = Kind("replicasets", "apps")
STATEFUL_SETS = Kind("statefulsets", "apps")
DAEMON_SETS = Kind("daemonsets", "apps")
REPLICATION_CONTROLLERS = Kind("replicationcontrollers")
LEASES = Kind("leases", "coordination.k8s.io")
JOBS = Kind("jobs", "batch")
CRON_JOBS = Kind("cronjobs", "batch")
CLUSTER_ROLES = Kind("clusterroles", "rbac.authorization.k8s.io")
CLUSTER_ROLE_BINDINGS = Kind("clusterrolebindings", "rbac.authorization.k8s.io")
POD_DISRUPTION_BUDGETS = Kind("poddisruptionbudgets", "policy")
MUTATING_WEBHOOKS = Kind("mutatingwebhookconfigurations", "admissionregistration.k8s.io")


async def read(
    api: ApiServer, kind: Kind, name: str, namespace: str = "", *, metadata: bool = False
) -> Object | None:
    """One object, or None where there is none of that name; its metadata alone where asked.

    Raises:
        ApiServerError: we may not (the text says what), or there is no answer.
    """
    accept = METADATA if metadata else JSON
    try:
        body = await _patiently(api, kind.path(namespace, name), accept, {})
    except ApiServerError as error:
        if error.status == 404:
            return None
        raise denied(error, "get", kind, namespace) from error
    return decode(body)


async def pages(
    api: ApiServer,
    kind: Kind,
    namespace: str = "",
    *,
    metadata: bool = False,
    selectors: Mapping[str, str] | None = None,
) -> AsyncGenerator[list[Object], None]:
    """The objects of a collection, a page at a time; ``selectors`` by the API's names.

    Raises:
        ApiServerError: we may not (the text says what), or there is no answer.
    """
    params: dict[str, str | int] = {**(selectors or {}), "limit": PAGE}
    accept = METADATA_LIST if metadata else JSON
    while True:
        try:
            page = decode(await _patiently(api, kind.path(namespace), accept, params))
        except ApiServerError as error:
            raise denied(error, "list", kind, namespace) from error
        if not isinstance(page.get("items"), list | None):
            raise ApiServerError("the API server's answer is not understood: it is no list")
        yield page.get("items") or []
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return
        params["continue"] = token


async def _patiently(
    api: ApiServer, path: str, accept: str, params: Mapping[str, str | int]
) -> bytes:
    """One answer; asked for again while the API server says that it is busy. One that is not
    there at all is told at once: somebody waits at a terminal."""
    backoff = Backoff(first=0.5)
    while True:
        try:
            return await api.get(path, accept=accept, params=params)
        except ApiServerError as error:
            wait = backoff.next(error.retry_after)
            if not (error.is_passing and error.status) or backoff.failures >= ATTEMPTS:
                raise
        await asyncio.sleep(wait)


def decode(body: bytes) -> Object:
    """The object in an answer.

    Raises:
        ApiServerError: something else answers in the API server's place.
    """
    try:
        return msgspec.json.decode(body, type=Object)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiServerError(f"the API server's answer is not understood: {error}") from error


def denied(error: ApiServerError, verb: str, kind: Kind, namespace: str = "") -> ApiServerError:
    """The same error, with the right that is missing where that is what it is about."""
    if error.status not in (401, 403):
        return error
    where = f"in namespace {namespace}" if namespace else "in the whole cluster"
    return ApiServerError(
        f"not allowed to {verb} {kind.label} {where} ({error})", status=error.status
    )
