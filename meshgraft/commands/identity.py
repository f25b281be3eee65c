"""``meshgraft identity``: signs pods' keys, and publishes whom to trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from certificates.authority import Policy
from certificates.ca_bundle import CONFIG_MAP
from certificates.keeper import Kept
from certificates.live import LiveCertificate, utc_now
from certificates.replica import identity as replica_name
from certificates.replica import work_of_replica
from kubeapi.client import ApiServer
from kubeapi.objects import parse_ref
from kubeapi.reading import CONFIG_MAPS, LEASES, SECRETS
from mesh.identity.copies import keep_copies
from mesh.identity.issuers import OwnRoot, ProvidedIssuer, Signer
from mesh.identity.offline import OfflinePods, publish, trial_root
from mesh.identity.pods import ApiPods, Pods
from mesh.identity.provided import keep_provided
from mesh.identity.service import IdentityService, Metrics, Trusted
from mesh.rpc.callers import Callers, OfflineCallers, TokenCallers
from mesh.rpc.shell import Shell, parse_address
from meshgraft._errors import CommandError
from meshgraft.commands._mesh import (
    AUDIENCE,
    NAMESPACE,
    api_server,
    exclusive,
    own_namespace,
    pair,
    trust_domain,
)
from process import logs
from process.background import Work
from process.health import Check
from process.heap import settle

ROOT_LIFETIME = timedelta(days=365)
LEAF_LIFETIME = timedelta(days=7)
"""As long as anything that a former root signed may be in use: an intermediate."""
PROPAGATION = timedelta(hours=24)
"""After so long every pod trusts a root that was published: its roots came with a certificate since
then, wherever its relay was."""


class _Reloads:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def reload_ok(self, what: str, *, changed: bool) -> None:
        """Counted by nobody: the expiry says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    signer: Signer
    pods: Pods
    callers: Callers
    checks: Mapping[str, Check]
    work: Mapping[str, Work]


def identity(
    *,
    listen: str = "0.0.0.0:8080",
    metrics_listen: str = "0.0.0.0:9996",
    kubeconfig: Path | None = None,
    offline_objects: Path | None = None,
    roots_file: Path | None = None,
    issuer_secret: str = "meshgraft/meshgraft-identity-issuer",  # noqa: S107, its name
    issuer_lease: str = "meshgraft/meshgraft-identity-issuer",
    issuer_dir: Path | None = None,
    roots_config_map: str = "meshgraft/meshgraft-trust-roots",
    roots_copy: list[str] | None = None,
    service_name: str = "meshgraft-identity",
    control_name: str = "meshgraft-control",
    cluster_domain: str = "cluster.local",
    relay: str = "linkerd-cni/linkerd-cni",
    audience: str = AUDIENCE,
    trust_domain_: str = "cluster.local",
    log_format: logs.LogFormat = "json",
    log_level: logs.LogLevel = "info",
    shutdown_delay: float = 0.0,
) -> None:
    """Sign the keys of pods, for the relays of their nodes, and publish the roots to trust.

    Parameters
    ----------
    listen
        Where relays and control connect: HOST:PORT.
    metrics_listen
        Where /metrics, /livez and /readyz are answered: HOST:PORT.
    kubeconfig
        The cluster. Default: the one that this runs in.
    offline_objects
        A file of Pods instead of a cluster; the root lies beside the roots then, and a token is
        NAMESPACE/ACCOUNT/NODE, and believed: for trials.
    roots_file
        Where the roots are written, with --offline-objects.
    issuer_secret
        The Secret in which the replicas keep a root of their own: NAMESPACE/NAME.
    issuer_lease
        The Lease of the replica that looks after it: NAMESPACE/NAME.
    issuer_dir
        A CA that somebody provides, instead: tls.crt, tls.key, and the roots in ca.crt.
    roots_config_map
        The ConfigMap in which the roots are published: NAMESPACE/NAME.
    roots_copy
        Another one, for pods of another namespace to mount; may be repeated.
    service_name
        The Service by which this is reached.
    control_name
        The Service, and the service account, of control.
    cluster_domain
        The cluster's DNS domain.
    relay
        The service account of the relays: NAMESPACE/NAME.
    audience
        For whom callers' tokens must be.
    trust_domain_
        Within which identities are unique.
    log_format
        Lines of JSON, or text for people.
    log_level
        The least level that is logged.
    shutdown_delay
        Seconds to go on after SIGTERM, while this replica leaves the Service.
    """
    logs.configure(log_format, log_level)
    exclusive(kubeconfig, offline_objects)
    registry = CollectorRegistry()
    live = LiveCertificate()
    relays = pair("--relay", relay)
    namespace = own_namespace()
    if offline_objects is not None:
        if roots_file is None:
            raise CommandError("--offline-objects needs --roots-file: where the roots are written")
        parts = _offline(offline_objects, roots_file, live)
    else:
        api = api_server(kubeconfig, f"{NAMESPACE}-identity")
        own = f"{service_name}.{namespace}.svc"
        sans = (own, f"{own}.{cluster_domain}")
        kept = Kept(
            secret=parse_ref(issuer_secret, SECRETS),
            configuration=parse_ref(roots_config_map, CONFIG_MAPS),
            lease=parse_ref(issuer_lease, LEASES),
            publication=CONFIG_MAP,
        )
        if issuer_dir is not None:
            parts = _provided(issuer_dir, api, kept, sans, live, audience)
        else:
            parts = _own(api, kept, sans, live, audience, registry)
        copies = [parse_ref(each, CONFIG_MAPS) for each in roots_copy or ()]
        roots = {"roots": partial(keep_copies, parts.signer, api, copies)}
        parts = replace(parts, work={**parts.work, **roots})
    theirs = f"{control_name}.{namespace}.svc"
    names = (theirs, f"{theirs}.{cluster_domain}")
    servers = {control_name: (*names, *(("localhost",) if offline_objects else ()))}
    service = IdentityService(
        signer=parts.signer,
        pods=parts.pods,
        callers=parts.callers,
        trusted=Trusted(namespace=namespace, relay=relays, servers=servers),
        trust_domain=trust_domain(trust_domain_),
        metrics=Metrics(registry),
        clock=utc_now,
    )
    shell = Shell(
        registry=registry,
        metrics_listen=parse_address(metrics_listen),
        server=service.server,
        listen=parse_address(listen),
        tls=live.context,
        checks={"certificate": live.problem, "issuer": parts.signer.problem, **parts.checks},
        background=parts.work,
        drain_seconds=shutdown_delay,
    )
    settle()
    shell.run()


def _own(
    api: ApiServer,
    kept: Kept,
    sans: tuple[str, ...],
    live: LiveCertificate,
    audience: str,
    registry: CollectorRegistry,
) -> _Parts:
    root = OwnRoot(utc_now)
    policy = Policy(
        sans=sans,
        leaf=LEAF_LIFETIME,
        authority=ROOT_LIFETIME,
        propagation=PROPAGATION,
        path_length=1,
    )
    work = work_of_replica(
        api,
        kept,
        policy,
        live,
        _Reloads(registry),
        name=replica_name(),
        on_held=root.held,
        prefix="mesh_identity",
    )
    return _Parts(
        signer=root,
        pods=ApiPods(api),
        callers=TokenCallers(api, audience),
        checks={},
        work=work,
    )


def _provided(
    folder: Path,
    api: ApiServer,
    kept: Kept,
    sans: tuple[str, ...],
    live: LiveCertificate,
    audience: str,
) -> _Parts:
    issuer = ProvidedIssuer(folder)
    work = partial(keep_provided, issuer, live, sans, api, kept.configuration)
    return _Parts(
        signer=issuer,
        pods=ApiPods(api),
        callers=TokenCallers(api, audience),
        checks={},
        work={"issuer": work},
    )


def _offline(objects: Path, roots_file: Path, live: LiveCertificate) -> _Parts:
    signer = trial_root(roots_file.with_suffix(".issuer"), utc_now())
    return _Parts(
        signer=signer,
        pods=OfflinePods(objects),
        callers=OfflineCallers(),
        checks={},
        work={"roots": partial(publish, signer, live, roots_file)},
    )
