"""The agent's part in the mesh: who opens the relay's sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from cni_plugin.agent.handler import Answer
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.dataplane.expected import Expected
from cni_plugin.pods.netns import PodNetns
from cni_plugin.pods.source import NodePods
from cni_plugin.sockets.keeper import SocketKeeper
from vocabulary.handover import Opened

_log = structlog.get_logger("cni_plugin.sockets")

OnMeshed = Callable[[Answer, int], None]


def socket_keeper(
    relay: Path | None, pods: NodePods, expected: Expected, netns_dir: Path
) -> tuple[SocketKeeper | None, OnMeshed | None]:
    """The keeper, and what to call with each pod of the mesh; neither where there is no relay."""
    if relay is None:
        return None, None
    namespaces = PodNetns(netns_dir, home_of=expected.home_of)
    keeper = SocketKeeper(relay, pods.known, namespaces, netns_dir)

    def on_meshed(answer: Answer, netns_fd: int) -> None:
        if not answer.uid:
            return  # A runtime that does not say it: the pod is found by the API server's word.
        namespace, _, name = answer.pod.partition("/")
        try:
            keeper.added(Opened(answer.uid, namespace, name, answer.proxy_uid or 0), netns_fd)
        except DataplaneError as error:
            # Its rules are set, and its proxy is not ready before it has a certificate.
            _log.warning("the relay's socket is not open yet", pod=answer.pod, error=str(error))

    return keeper, on_meshed
