"""Reads from a pod's object how far it has come: finished, held back by its validator, or started.

Pure. Also which addresses it has, and whether its status can be about a given network namespace.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator
from datetime import datetime

from msgspec import UNSET

from cni_plugin.dataplane.addresses import IPAddress
from cni_plugin.pods.source import ContainerStatus, Pod, Time

VALIDATORS = ("linkerd-network-validator", "meshgraft-network-validator")
_FINISHED = ("Succeeded", "Failed")
_AHEAD_SECONDS = 5.0
"""A clock may be set back by a little while the node runs."""
_NETWORK_IS_UP = "PodReadyToStartContainers"
"""The kubelet's condition since Kubernetes 1.29, with the time since when the sandbox is there."""


def is_finished(pod: Pod) -> bool:
    """Whether nothing of it runs or will: it has ended, or is being deleted."""
    return pod.status.phase in _FINISHED or pod.metadata.deletion_timestamp is not None


def is_held_back(pod: Pod) -> bool:
    """Whether it has a validator that has not passed, waiting or failing, so that nothing of its
    own has started."""
    names = [name for name in VALIDATORS if name in pod.init_container_names]
    return bool(names) and not any(_has_passed(pod, name) for name in names)


def _has_passed(pod: Pod, name: str) -> bool:
    for status in pod.status.init_container_statuses or ():
        if status.name == name and status.state is not None:
            ended = status.state.terminated
            return ended is not None and ended.exit_code == 0
    return False


def has_controller(pod: Pod) -> bool:
    """Whether something makes another pod in its place."""
    return any(owner.controller for owner in pod.metadata.owner_references or ())


def addresses(pod: Pod) -> frozenset[IPAddress]:
    """``status.podIPs``; empty while it has no network, and where it shares the node's."""
    if pod.spec.host_network:
        return frozenset()
    status = pod.status
    return _parsed([status.pod_ip, *(each.ip for each in status.pod_ips or ())])


def node_addresses(pod: Pod) -> frozenset[IPAddress]:
    """``status.hostIPs``: where those are, is the node's own network."""
    status = pod.status
    return _parsed([status.host_ip, *(each.ip for each in status.host_ips or ())])


def _parsed(texts: Iterable[str]) -> frozenset[IPAddress]:
    found: set[IPAddress] = set()
    for text in filter(None, texts):
        try:
            found.add(ipaddress.ip_address(text))
        except ValueError:
            continue  # the API server lets none through
    return frozenset(found)


def is_about(pod: Pod, created: float, now: float) -> bool:
    """Whether the pod's status was written between when a namespace was made and now (Unix time).

    After the node's restart, or when a pod's sandbox was made anew, a status goes on naming
    addresses that another pod may have been given. Only one that tells of something that began
    after the namespace (a container, the sandbox) speaks of this one. The end of a container says
    nothing: it ends because its sandbox does. The kubelet gives each of these its time, and null
    for a container that it lost, as after a restart; one without, in a list that somebody wrote,
    is believed. What is to happen only later is from before the node's restart, by a clock that
    was ahead then, and is not believed.
    """
    # The API's times are whole seconds.
    return any(
        time is UNSET or math.floor(created) <= _seconds(time) <= now + _AHEAD_SECONDS
        for time in _times(pod)
    )


def _times(pod: Pod) -> Iterator[Time]:
    status = pod.status
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        yield from _times_of(container)
    for condition in status.conditions or ():
        if condition.type == _NETWORK_IS_UP and condition.status == "True":
            yield condition.last_transition_time


def _times_of(container: ContainerStatus) -> Iterator[Time]:
    for state in (container.state, container.last_state):
        if state is None:
            continue
        if state.running is not None:
            yield state.running.started_at
        if state.terminated is not None:
            yield state.terminated.started_at


def _seconds(time: Time) -> float:
    """RFC 3339, in UTC, as Unix time; what is not known or cannot be read is long past."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else 0.0
    except ValueError:
        return 0.0
