"""``meshgraft webhook``: wires the injector's parts together and serves."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from injector import logs
from injector._version import __version__
from injector.certs import CertificateError, ServingCert, ensure, expiry_problem, server_context
from injector.core import mutate
from injector.diff import diff
from injector.events import LoggedEvents
from injector.files import FileError
from injector.health import Health
from injector.metrics import Metrics
from injector.model import Origin
from injector.objects import Cluster, load_offline_objects
from injector.profiles import get_profile
from injector.server import Address, AddressError, Process, parse_address
from injector.settings import ProfileName, Settings, SettingsError
from injector.webhook import Injector, create_app, create_metrics_app
from meshgraft._errors import CommandError

_SERVICE = "meshgraft-injector"
_NAMESPACE = "meshgraft"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """What was asked for on the command line, parsed."""

    settings: Settings
    cluster: Cluster
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
        Settings: a Helm values file, or Linkerd's ConfigMap linkerd-config (YAML or JSON).
    cert_dir
        Folder with tls.crt and tls.key. Where it holds neither, a CA and a certificate are issued
        into it (ca.crt is for the webhook configuration's caBundle). Default: a folder of its own,
        removed at the end.
    listen
        HOST:PORT of the webhook (TLS 1.3). Port 0 takes a free one; the log line "serving" has it.
    metrics_listen
        HOST:PORT of metrics and health (plain HTTP).
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
                cluster=_cluster(offline_objects),
                cert_dir=cert_dir or _own_folder(stack),
                listen=parse_address(listen),
                metrics_listen=parse_address(metrics_listen),
                shutdown_delay=shutdown_delay,
            )
            _assemble(flags).run()
        except (AddressError, FileError, SettingsError, CertificateError) as error:
            raise CommandError(str(error)) from error


def _cluster(offline_objects: Path | None) -> Cluster:
    if offline_objects is None:
        raise CommandError(
            "the webhook cannot connect to an API server yet; give the cluster's Namespaces with "
            "--offline-objects FILE (kubectl get namespaces,replicasets,jobs -A -o yaml > FILE)"
        )
    return load_offline_objects(offline_objects)


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


def _assemble(flags: _Flags) -> Process:
    cert = _certificate(flags, datetime.now(UTC))
    metrics = Metrics(__version__)
    metrics.certificate_expires(cert.not_after)
    health = Health({"certificate": lambda: expiry_problem(cert, datetime.now(UTC))})
    injector = Injector(
        settings=flags.settings,
        cluster=flags.cluster,
        profiles=get_profile,
        mutate=mutate,
        diff=diff,
        origin=Origin(created_by=f"meshgraft/injector {__version__}", additions=True),
    )
    return Process(
        webhook=create_app(
            injector=injector, metrics=metrics, events=LoggedEvents(), health=health
        ),
        metrics=create_metrics_app(metrics=metrics, health=health),
        tls=server_context(cert),
        health=health,
        listen=flags.listen,
        metrics_listen=flags.metrics_listen,
        drain_seconds=flags.shutdown_delay,
    )
