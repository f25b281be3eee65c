"""``meshgraft webhook``: wires the injector's parts together and serves."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from injector import logs
from injector._version import __version__
from injector.annotations.redirect import WEBHOOK
from injector.background import Work
from injector.certs import CertificateError, ServingCert, ensure
from injector.connection import Connection, offline, online
from injector.core import mutate
from injector.diff import diff
from injector.files import FileError
from injector.health import Health
from injector.metrics import Metrics
from injector.model import Origin
from injector.profiles import get_profile
from injector.reload import Reloadable, keep_fresh
from injector.server import Address, AddressError, Process, parse_address
from injector.settings import ProfileName, Settings, SettingsError
from injector.tls import LiveCertificate
from injector.webhook import Injector, create_app, create_metrics_app
from kubeapi.config import KubeconfigError
from meshgraft._errors import CommandError

_SERVICE = "meshgraft-injector"
_NAMESPACE = "meshgraft"
_KNOWN_ERRORS = (AddressError, FileError, SettingsError, CertificateError, KubeconfigError)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """What was asked for on the command line, parsed."""

    settings: Settings
    values: Path | None
    kubeconfig: Path | None
    offline_objects: Path | None
    cert_dir: Path
    listen: Address
    metrics_listen: Address
    shutdown_delay: float


def webhook(
    *,
    profile: ProfileName | None = None,
    values: Path | None = None,
    cert_dir: Path | None = None,
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
        into it (ca.crt is for the webhook configuration's caBundle). Default: a folder of its own,
        removed at the end. A new pair is taken up at once, for new connections.
    listen
        HOST:PORT of the webhook (TLS 1.3). Port 0 takes a free one; the log line "serving" has it.
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
        try:
            flags = _Flags(
                settings=Settings(values, profile),
                values=values,
                kubeconfig=kubeconfig,
                offline_objects=offline_objects,
                cert_dir=cert_dir or _own_folder(stack),
                listen=parse_address(listen),
                metrics_listen=parse_address(metrics_listen),
                shutdown_delay=shutdown_delay,
            )
            _assemble(flags).run()
        except _KNOWN_ERRORS as error:
            raise CommandError(str(error)) from error


def _connection(flags: _Flags, metrics: Metrics) -> Connection:
    if flags.offline_objects is None:
        return online(flags.kubeconfig, metrics.registry)
    if flags.kubeconfig is not None:
        raise CommandError("--kubeconfig and --offline-objects exclude each other")
    return offline(flags.offline_objects)


def _own_folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshgraft-webhook-")))


def _sans(host: str, cluster_domain: str) -> list[str]:
    """The names under which the webhook is reached: its Service's; this machine's for trials."""
    service = f"{_SERVICE}.{_NAMESPACE}.svc"
    names = [service, f"{service}.{cluster_domain}", "localhost", "127.0.0.1", "::1"]
    return names if host in (*names, "0.0.0.0", "::") else [*names, host]


def _certificate(flags: _Flags, now: datetime) -> ServingCert:
    domain = flags.settings.current.cluster_domain
    cert = ensure(flags.cert_dir, _sans(flags.listen.host, domain), now)
    if cert.issued:
        _log.info("certificate issued", folder=str(flags.cert_dir), notAfter=cert.not_after)
    return cert


def _reloading(flags: _Flags, certificate: LiveCertificate, metrics: Metrics) -> Work:
    def reload_certificate() -> bool:
        changed = certificate.reload()
        metrics.certificate_expires(certificate.current.not_after)
        return changed

    items = [Reloadable("certificate", flags.cert_dir, reload_certificate)]
    if flags.values is not None:
        items.append(Reloadable("settings", flags.values.parent, flags.settings.reload))
    return partial(keep_fresh, items, metrics)


def _assemble(flags: _Flags) -> Process:
    metrics = Metrics(__version__)
    connection = _connection(flags, metrics)
    certificate = LiveCertificate(flags.cert_dir, _certificate(flags, datetime.now(UTC)))
    metrics.certificate_expires(certificate.current.not_after)
    health = Health({"certificate": certificate.problem, **connection.checks})
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
        background={
            **connection.background,
            "reload": _reloading(flags, certificate, metrics),
        },
    )
