"""``meshgraft control``: knows the cluster, and serves the relays of its nodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from certificates.live import LiveCertificate
from mesh.control.feed import Feed
from mesh.control.offline import OfflineFeed
from mesh.control.service import Control
from mesh.rpc.callers import Callers, OfflineCallers, TokenCallers
from mesh.rpc.channel import Peer
from mesh.rpc.serving import keep_certificate
from mesh.rpc.shell import Shell, parse_address
from meshgraft.commands._mesh import (
    AUDIENCE,
    NAMESPACE,
    api_server,
    exclusive,
    pair,
    trust_domain,
)
from meshgraft.commands._mesh_files import ROOTS, TOKEN
from process import logs
from process.heap import settle


def control(
    *,
    listen: str = "0.0.0.0:8086",
    metrics_listen: str = "0.0.0.0:9995",
    kubeconfig: Path | None = None,
    offline_objects: Path | None = None,
    identity: str = "meshgraft-identity.meshgraft.svc:8080",
    identity_name: str = "",
    roots_file: Path = ROOTS,
    token_file: Path = TOKEN,
    relay: str = "linkerd-cni/linkerd-cni",
    audience: str = AUDIENCE,
    trust_domain_: str = "cluster.local",
    log_format: logs.LogFormat = "json",
    log_level: logs.LogLevel = "info",
    shutdown_delay: float = 0.0,
) -> None:
    """Watch Services, EndpointSlices and Pods, and tell each node's relay what its pods use.

    Parameters
    ----------
    listen
        Where relays connect: HOST:PORT.
    metrics_listen
        Where /metrics, /livez and /readyz are answered: HOST:PORT.
    kubeconfig
        The cluster. Default: the one that this runs in.
    offline_objects
        A file of Services, EndpointSlices and Pods instead of a cluster (kubectl get -o yaml), read
        again when it changes. A token is NAMESPACE/ACCOUNT/NODE then, and believed: for trials.
    identity
        Where the mesh's identity signs the certificate of this server: HOST:PORT.
    identity_name
        The name that its certificate must have. Default: the host.
    roots_file
        The mesh's roots, PEM; read for each connection.
    token_file
        This pod's token for the mesh's processes.
    relay
        The service account of the relays: NAMESPACE/NAME.
    audience
        For whom their tokens must be.
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
    domain = trust_domain(trust_domain_)
    feed: Feed | OfflineFeed
    callers: Callers
    namespace, account = pair("--relay", relay)
    if offline_objects is not None:
        feed, callers = OfflineFeed(offline_objects, domain), OfflineCallers()
    else:
        api = api_server(kubeconfig, f"{NAMESPACE}-control")
        feed, callers = Feed(api, domain, registry), TokenCallers(api, audience)
    live = LiveCertificate()
    peer = Peer(identity, roots_file, token_file, identity_name)
    serving = Control(feed.catalog, callers, (namespace, account), registry)
    shell = Shell(
        registry=registry,
        metrics_listen=parse_address(metrics_listen),
        server=serving.service.server,
        listen=parse_address(listen),
        tls=live.context,
        checks={"certificate": live.problem, **feed.checks},
        background={"certificate": partial(keep_certificate, live, peer), **feed.work},
        drain_seconds=shutdown_delay,
    )
    settle()
    shell.run()
