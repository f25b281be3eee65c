"""Takes the snapshot that the checks look at: each object asked for once, all at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from injector.core.model import Object
from kubeapi import reading
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.reading import Kind
from meshgraft.checks.model import Access, Category, Options, Ref, Snapshot, Trial

SECONDS = 30.0
"""For one object, with its repetitions."""
LIST_SECONDS = 120.0
"""For all pages of a list: the meshed pods may be ten thousand."""
_REVIEWS = Kind("selfsubjectaccessreviews", "authorization.k8s.io")
_K = TypeVar("_K")
_T = TypeVar("_T")


async def take(api: ApiServer, categories: Sequence[Category], options: Options) -> Snapshot:
    """The cluster now, as far as these categories have to know it; errors are part of it."""
    now = datetime.now(UTC)
    version = await _within(_version(api))
    if isinstance(version, ApiServerError):
        return Snapshot(options=options, now=now, version=version)
    objects, lists, access, trials = await asyncio.gather(
        _all(_unique(one.objects(options) for one in categories), lambda ref: _object(api, ref)),
        _all(
            _unique(one.lists(options) for one in categories),
            lambda ref: _list(api, ref),
            LIST_SECONDS,
        ),
        _all(_unique(one.access(options) for one in categories), lambda one: _may(api, one)),
        _all(_unique(one.trials(options) for one in categories), lambda one: _try(api, one)),
    )
    first = Snapshot(
        options=options, now=now, version=version, objects=objects, lists=lists, access=access
    )
    later = await _all(
        _unique(one.later(first) for one in categories), lambda ref: _object(api, ref)
    )
    return Snapshot(
        options=options,
        now=now,
        version=version,
        objects={**objects, **later},
        lists=lists,
        access=access,
        trials=trials,
    )


def _unique(groups: Iterable[tuple[_K, ...]]) -> list[_K]:
    return list(dict.fromkeys(one for group in groups for one in group))


async def _all(keys: list[_K], ask: Any, seconds: float = SECONDS) -> dict[_K, Any]:
    answers = await asyncio.gather(*(_within(ask(key), seconds) for key in keys))
    return dict(zip(keys, answers, strict=True))


async def _within(question: Awaitable[_T], seconds: float = SECONDS) -> _T | ApiServerError:
    """The answer, or the error that came instead of it."""
    try:
        async with asyncio.timeout(seconds):
            return await question
    except TimeoutError:
        return ApiServerError(f"the API server did not answer within {seconds:g} s")
    except ApiServerError as error:
        return error


async def _version(api: ApiServer) -> Object:
    return reading.decode(await api.get("version", accept=reading.JSON))


async def _object(api: ApiServer, ref: Ref) -> Object | None:
    return await reading.read(api, ref.kind, ref.name, ref.namespace)


async def _list(api: ApiServer, ref: Ref) -> tuple[Object, ...]:
    selectors = {"labelSelector": ref.selector} if ref.selector else {}
    found: list[Object] = []
    pages = 0
    async for page in reading.pages(api, ref.kind, ref.namespace, selectors=selectors):
        found += [ref.keep(obj) for obj in page] if ref.keep else page
        pages += 1
        if pages == ref.most_pages:
            break
    return tuple(found)


async def _may(api: ApiServer, access: Access) -> bool:
    attributes = {
        "verb": access.verb,
        "group": access.kind.group,
        "version": access.kind.version,
        "resource": access.kind.plural,
        "namespace": access.namespace,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = reading.decode(await api.send("POST", _REVIEWS.path(), review))
    return bool((answer.get("status") or {}).get("allowed"))


async def _try(api: ApiServer, trial: Trial) -> Object:
    """Nothing comes into being; all admission is asked as for a pod that is meant."""
    path = reading.PODS.path(trial.namespace) + "?dryRun=All"
    return reading.decode(await api.send("POST", path, _PROBE))


_PROBE: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "meshgraft-check",
        "annotations": {"linkerd.io/inject": "enabled"},
        "labels": {"linkerd.io/inject": "enabled"},
    },
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "check",
                "image": "meshgraft/meshgraft",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }
        ],
    },
}
"""Asks by annotation and by label, whichever counts; fits into a restricted namespace."""
