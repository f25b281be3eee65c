"""``meshgraft webhook``: wires the injector's parts together and serves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from certificates.authority import Policy
from certificates.folder import CertFolder
from certificates.keeper import Kept, parse_kept
from certificates.live import LiveCertificate
from certificates.replica import identity, work_of_replica
from certificates.x509 import TlsPolicy, load_policy
from injector.cluster.connection import Connection, offline, online
from injector.core.diff import diff
from injector.core.model import Origin
from injector.core.mutate import mutate
from injector.profiles import get_profile
from injector.service.app import Injector, create_app, create_metrics_app
from injector.service.connection_limit import ConnectionLimit
from injector.service.metrics import Metrics
from injector.service.reload import Reloadable, keep_fresh
from injector.service.server import MAX_CONNECTIONS, Address, Process, parse_address
from injector.service.settings import Settings
from meshgraft._errors import CommandError
from meshgraft.commands._profiles import ProfileName
from process import logs
from process.background import Work
from process.health import Health
from process.heap import settle
from vocabulary.annotations.redirect import WEBHOOK
from vocabulary.version import __version__

_SERVICE = "meshgraft-injector"
_NAMESPACE = "meshgraft"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """What was asked for on the command line, parsed."""

    settings: Settings
    values: Path | None
    kubeconfig: Path | None
    offline_objects: Path | None
    certificate: Path | Kept
    """The folder of a certificate, or the Secret in which the replicas keep their own."""
    service: str
    """NAME.NAMESPACE, under which the API server calls."""
    tls: TlsPolicy
    listen: Address
    metrics_listen: Address
    shutdown_delay: float


def webhook(
    *,
    profile: ProfileName | None = None,
    values: Path | None = None,
    cert_dir: Path | None = None,
    cert_secret: str | None = None,
    webhook_config: str | None = None,
    cert_lease: str | None = None,
    service_name: str = _SERVICE,
    service_namespace: str | None = None,
    client_ca: Path | None = None,
    tls_min_version: Literal["1.2", "1.3"] = "1.3",
    listen: str = "0.0.0.0:8443",
    metrics_listen: str = "0.0.0.0:9995",
    kubeconfig: Path | None = None,
    offline_objects: Path | None = None,
    log_format: logs.LogFormat = "json",
    log_level: logs.LogLevel = "info",
    shutdown_delay: float = 3.0,
) -> None:
    """Run the admission webhook that injects the proxy.

    Parameters
    ----------
    profile
        Which proxy pods get; overrides the values file.
    values
        Settings: a Helm values file, or Linkerd's ConfigMap linkerd-config (YAML or JSON). A
        change is taken up at once; a bad one is logged, and the settings so far stay in force.
    cert_dir
        Folder with tls.crt and tls.key. Where it holds neither, a CA and a certificate are issued
        into it (ca.crt is for the webhook configuration's caBundle) and renewed; a folder that
        cannot be written to, as a mounted Secret, is waited for. Default: a folder of its own,
        removed at the end. A new pair is taken up at once, for new connections.
    cert_secret
        NAMESPACE/NAME of the Secret in which the replicas keep a CA and a certificate of their own,
        instead of --cert-dir. They renew both in time, and write the caBundle.
    webhook_config
        Name of the MutatingWebhookConfiguration whose caBundle they write. Goes with --cert-secret.
    cert_lease
        NAMESPACE/NAME of the Lease by which one of several replicas looks after the Secret. Without
        it there should be one replica.
    service_name
        The Service through which the API server calls: issued certificates are for it.
    service_namespace
        Its namespace. Default: the pod's (POD_NAMESPACE), or else meshgraft.
    client_ca
        CA bundle in PEM, read at the start. Clients have to show a certificate that it has signed:
        the API server needs a kubeconfig for webhooks then. Default: anybody may ask.
    tls_min_version
        The oldest version of TLS that is taken: 1.2 for an API server in FIPS mode.
    listen
        HOST:PORT of the webhook (TLS). Port 0 takes a free one; the log line "serving" has it.
    metrics_listen
        HOST:PORT of metrics and health (plain HTTP).
    kubeconfig
        The cluster to work for, by the file's current context. Default: the cluster of the pod
        that this runs in.
    offline_objects
        A kubectl List of Namespaces, ReplicaSets and Jobs, in place of an API server.
    log_format
        Lines of JSON, or text for people.
    log_level
        The least level that is logged.
    shutdown_delay
        Seconds to go on answering after SIGTERM, while the replica leaves the Service.
    """
    logs.configure(log_format, log_level)
    with ExitStack() as stack:
        flags = _Flags(
            settings=Settings(values, profile),
            values=values,
            kubeconfig=kubeconfig,
            offline_objects=offline_objects,
            certificate=_kept(cert_dir, cert_secret, webhook_config, cert_lease)
            or cert_dir
            or _own_folder(stack),
            service=f"{service_name}.{service_namespace or _own_namespace()}",
            tls=load_policy(tls_min_version, client_ca),
            listen=parse_address(listen),
            metrics_listen=parse_address(metrics_listen),
            shutdown_delay=shutdown_delay,
        )
        process = _assemble(flags)
        settle()
        process.run()


def _connection(flags: _Flags, metrics: Metrics) -> Connection:
    if flags.offline_objects is None:
        return online(flags.kubeconfig, metrics.registry)
    if flags.kubeconfig is not None:
        raise CommandError("--kubeconfig and --offline-objects exclude each other")
    return offline(flags.offline_objects)


def _kept(
    cert_dir: Path | None, secret: str | None, configuration: str | None, lease: str | None
) -> Kept | None:
    """What the replicas are to keep themselves; None where the certificate is in a folder."""
    if secret is None:
        if configuration is not None or lease is not None:
            raise CommandError("--webhook-config and --cert-lease go with --cert-secret")
        return None
    if cert_dir is not None:
        raise CommandError("--cert-dir and --cert-secret exclude each other")
    if configuration is None:
        raise CommandError("--cert-secret needs --webhook-config: whose caBundle is to be written?")
    return parse_kept(secret, configuration, lease)


def _own_namespace() -> str:
    return os.environ.get("POD_NAMESPACE") or _NAMESPACE


def _own_folder(stack: ExitStack) -> Path:
    try:
        folder = tempfile.TemporaryDirectory(prefix="meshgraft-webhook-")
    except OSError as error:
        raise CommandError(
            f"no folder for a certificate can be made ({error}): name one with --cert-dir"
        ) from error
    return Path(stack.enter_context(folder))


def _sans(service: str, cluster_domain: str) -> tuple[str, ...]:
    """The names under which the webhook is reached in a cluster."""
    return (f"{service}.svc", f"{service}.svc.{cluster_domain}")


def _trial_sans(flags: _Flags) -> list[str]:
    """The Service's names, and this machine's for trials."""
    service = _sans(flags.service, flags.settings.current.cluster_domain)
    names = [*service, "localhost", "127.0.0.1", "::1"]
    host = flags.listen.host
    return names if host in (*names, "0.0.0.0", "::") else [*names, host]


def _certificates(
    flags: _Flags, connection: Connection, live: LiveCertificate, metrics: Metrics
) -> tuple[list[Reloadable], Mapping[str, Work]]:
    """Where the certificate comes from: files to reload, or work to go on beside."""
    if isinstance(flags.certificate, Path):
        folder = CertFolder(flags.certificate, _trial_sans(flags), live)
        folder.start()
        return [Reloadable("certificate", flags.certificate, folder.reload)], {}
    if connection.api is None:
        raise CommandError("--cert-secret needs an API server, not --offline-objects")
    policy = Policy(sans=_sans(flags.service, flags.settings.current.cluster_domain))
    return [], work_of_replica(
        connection.api, flags.certificate, policy, live, metrics, name=identity()
    )


def _reloading(flags: _Flags, items: list[Reloadable], metrics: Metrics) -> Mapping[str, Work]:
    if flags.values is not None:
        items = [*items, Reloadable("settings", flags.values.parent, flags.settings.reload)]
    return {"reload": partial(keep_fresh, items, metrics)} if items else {}


def _assemble(flags: _Flags) -> Process:
    metrics = Metrics(__version__)
    connection = _connection(flags, metrics)
    certificate = LiveCertificate(
        lambda cert: metrics.certificate_expires(cert.not_after), policy=flags.tls
    )
    files, certificates = _certificates(flags, connection, certificate, metrics)
    connections = ConnectionLimit(MAX_CONNECTIONS, metrics.connection_ended)
    metrics.watch_connections(connections)
    checks = {"certificate": certificate.problem, "connections": connections.problem}
    health = Health({**checks, **connection.checks})
    injector = Injector(
        settings=flags.settings,
        cluster=connection.cluster,
        profiles=get_profile,
        mutate=mutate,
        diff=diff,
        origin=Origin(created_by=f"{WEBHOOK} {__version__}", additions=True),
    )
    return Process(
        webhook=create_app(
            injector=injector, metrics=metrics, events=connection.events, health=health
        ),
        metrics=create_metrics_app(metrics=metrics, health=health),
        tls=certificate.context,
        health=health,
        listen=flags.listen,
        metrics_listen=flags.metrics_listen,
        drain_seconds=flags.shutdown_delay,
        connections=connections,
        handshake_failed=partial(metrics.connection_ended, "handshake"),
        background={
            **connection.background,
            **certificates,
            **_reloading(flags, files, metrics),
        },
    )
