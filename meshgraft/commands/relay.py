"""``meshgraft relay``: serves the proxies of this node's pods."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from mesh.relay.handover import Handover
from mesh.relay.keys import sign_by
from mesh.relay.node import Metrics, Node
from mesh.rpc.channel import Peer
from mesh.rpc.shell import Shell, parse_address
from mesh.xds.client import Upstream
from meshgraft.commands._mesh_files import ROOTS, TOKEN
from process import logs
from process.heap import settle
from vocabulary.handover import RELAY_SOCKET

CACHE = "resources"


def relay(
    *,
    agent_socket: Path = Path(RELAY_SOCKET),
    control: str = "meshgraft-control.meshgraft.svc:8086",
    control_name: str = "",
    identity: str = "meshgraft-identity.meshgraft.svc:8080",
    identity_name: str = "",
    roots_file: Path = ROOTS,
    token_file: Path = TOKEN,
    cache_dir: Path | None = None,
    metrics_listen: str | None = None,
    log_format: logs.LogFormat = "json",
    log_level: logs.LogLevel = "info",
) -> None:
    """Serve the proxies of this node's pods, at the sockets that the node's agent hands over.

    Parameters
    ----------
    agent_socket
        Where the agent hands them over.
    control
        Where the mesh's control answers: HOST:PORT.
    control_name
        The name that its certificate must have. Default: the host.
    identity
        Where the mesh's identity answers: HOST:PORT.
    identity_name
        The name that its certificate must have. Default: the host.
    roots_file
        The mesh's roots, PEM; read again when it changes.
    token_file
        This pod's token for the mesh's processes.
    cache_dir
        Where what is known of the cluster is kept over restarts; no secret is among it.
    metrics_listen
        Where /metrics, /livez and /readyz are answered: HOST:PORT; none by default.
    log_format
        Lines of JSON, or text for people.
    log_level
        The least level that is logged.
    """
    logs.configure(log_format, log_level)
    registry = CollectorRegistry()
    signing = Peer(identity, roots_file, token_file, identity_name)
    node = Node(
        sign=partial(sign_by, signing),
        roots_file=roots_file,
        cache_file=cache_dir / CACHE if cache_dir else None,
        metrics=Metrics(registry),
        now=time.monotonic,
    )
    upstream = Upstream(node.subscriptions, Peer(control, roots_file, token_file, control_name))
    shell = Shell(
        registry=registry,
        metrics_listen=parse_address(metrics_listen) if metrics_listen else None,
        # Not by control: what is known is served without it, to new pods too.
        checks={},
        background={
            "agent": Handover(agent_socket, node).run,
            "control": upstream.run,
            "node": node.look_after,
        },
        at_end=node.close,
    )
    settle()
    shell.run()
