"""Restarts workloads one at a time, and stops at the first that does not come up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from injector.core.model import Object
from kubeapi import reading
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.reading import MERGE_PATCH
from meshgraft.audit.rollout import Workload, failed, pending, refusal, restart_patch
from meshgraft.installed import INJECTOR
from vocabulary.errors import MeshgraftError

POLL_SECONDS = 1.0
Say = Callable[[str], None]


class RestartError(MeshgraftError):
    """A workload was not rolled out; nothing after it was touched."""


async def check_injector(api: ApiServer, namespace: str) -> None:
    """Refuse to restart anything while no webhook would be there for the new pods.

    Raises:
        RestartError: the injector has no ready replica.
        ApiServerError: no answer, or we may not look.
    """
    found = await reading.read(api, reading.DEPLOYMENTS, INJECTOR, namespace)
    ready = ((found or {}).get("status") or {}).get("readyReplicas", 0)
    if not ready:
        raise RestartError(
            f"nothing was restarted: deployment/{INJECTOR} in namespace {namespace} has no ready"
            " replica, so that new pods would get no proxy; see meshgraft check"
        )


async def restart(api: ApiServer, workload: Workload, seconds: float, say: Say) -> bool:
    """Restart one workload and wait until its pods are new and available.

    False where it was left alone, which was said.

    Raises:
        RestartError: it failed, or took longer than ``seconds``.
        ApiServerError: no answer, or we may not.
    """
    found = await _read(api, workload)
    if why := refusal(workload, found):
        say(f"{why}: left alone")
        return False
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = workload.resource.path(workload.namespace, workload.name)
    try:
        await api.send("PATCH", path, restart_patch(workload, now), content_type=MERGE_PATCH)
    except ApiServerError as error:
        raise reading.denied(error, "patch", workload.resource, workload.namespace) from error
    say(f"{workload}: restarted")
    await _wait(api, workload, seconds)
    say(f"{workload}: rolled out")
    return True


async def _wait(api: ApiServer, workload: Workload, seconds: float) -> None:
    deadline, problem = time.monotonic() + seconds, "nothing is known yet"
    while time.monotonic() < deadline:
        try:
            found = await _read(api, workload)
        except ApiServerError as error:
            if not error.is_passing:
                raise
            problem = str(error)
        else:
            waits_for = pending(workload, found)
            if waits_for is None:
                return
            if why := failed(found):
                raise RestartError(
                    f"{workload} was not rolled out: {why}; the rest was not touched"
                )
            problem = waits_for
        await asyncio.sleep(POLL_SECONDS)
    raise RestartError(
        f"{workload} was not rolled out within {seconds:g} s: {problem}; the rest was not touched"
    )


async def _read(api: ApiServer, workload: Workload) -> Object:
    found = await reading.read(api, workload.resource, workload.name, workload.namespace)
    if found is None:
        raise RestartError(f"{workload} is gone; the rest was not touched")
    return found
