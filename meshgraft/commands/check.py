"""``meshgraft check``: whether an installation is well, or one can be made; Linkerd's questions."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kubeapi.client import ApiServer, is_name
from kubeapi.config import KubeconfigError
from meshgraft._errors import CommandError
from meshgraft._terminal import shown
from meshgraft.checks.catalog import CATEGORIES
from meshgraft.checks.model import Options, Result, Snapshot
from meshgraft.checks.report import Output, Paint, render
from meshgraft.checks.run import is_success, may_pass, run, selected
from meshgraft.checks.snapshot import take
from meshgraft.commands._cluster import emit, find_cluster, seconds, with_api
from meshgraft.installed import CNI_NAMESPACE, NAMESPACE

_Switch = Parameter(negative="", show_default=False)
LONGEST_PAUSE = 5.0
"""Seconds between two looks; the first come faster."""
_COLOURS = {"√": "\033[32m√\033[0m", "‼": "\033[33m‼\033[0m", "×": "\033[31m×\033[0m"}


def check(
    *,
    pre: Annotated[bool, _Switch] = False,
    linkerd_cni_enabled: Annotated[bool, _Switch] = False,
    proxy: Annotated[bool, _Switch] = False,
    namespace: Annotated[str | None, Parameter(alias="-n")] = None,
    meshgraft_namespace: str = NAMESPACE,
    cni_namespace: str = CNI_NAMESPACE,
    output: Annotated[Output, Parameter(alias="-o")] = "table",
    wait: str = "5m",
    kubeconfig: Path | None = None,
    context: str | None = None,
) -> int:
    """Check an installation, or with --pre whether one can be made. Exit code 1 where a check
    fails; warnings are no failure.

    Parameters
    ----------
    pre
        Before an installation: whether the cluster is fit, and you may install.
    linkerd_cni_enabled
        Check the CNI plugin too. Without --pre it is, where the settings say that it is used.
    proxy
        Check the meshed pods too.
    namespace
        Only the meshed pods of this namespace. Default: all.
    meshgraft_namespace
        Where the injector is, or is to be, installed.
    cni_namespace
        Where the CNI plugin is installed.
    output
        A table; only what is not well; or JSON in Linkerd's shape.
    wait
        How long to wait for what may become well by itself, such as replicas that start.
    kubeconfig
        The cluster, by the file's current context. Default: $KUBECONFIG, ~/.kube/config, or the
        cluster that this runs in.
    context
        Another context of that file.
    """
    options = Options(
        pre=pre,
        cni=linkerd_cni_enabled,
        proxy=proxy,
        namespace=_checked(namespace or ""),
        mesh_namespace=_checked(meshgraft_namespace),
        cni_namespace=_checked(cni_namespace),
    )
    patience = seconds("--wait", wait)
    try:
        look = partial(_look, options=options, patience=patience)
        results = with_api(find_cluster(kubeconfig, context), look)
    except KubeconfigError as error:
        results = run(CATEGORIES, Snapshot(options=options, now=datetime.now(UTC), client=error))
    emit(render(results, output, _paint()))
    return 0 if is_success(results) else 1


def _checked(name: str) -> str:
    if name and not is_name(name):
        raise CommandError(f"{name!r} cannot be the name of a namespace")
    return name


async def _look(api: ApiServer, options: Options, patience: float) -> list[Result]:
    """The results; looked at again while what failed may pass, and there is time."""
    deadline, pause = time.monotonic() + patience, 0.5
    told: set[str] = set()
    while True:
        snapshot = await take(api, selected(CATEGORIES, options), options)
        results = run(CATEGORIES, snapshot)
        waits_for = may_pass(results)
        if not waits_for or time.monotonic() + pause >= deadline:
            return results
        for each in waits_for:
            if each.id not in told:
                print(f"waiting: {shown(each.text)}", file=sys.stderr, flush=True)
                told.add(each.id)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


def _paint() -> Paint:
    """Colours on a terminal, unless NO_COLOR is set (no-color.org)."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return lambda mark: _COLOURS[mark]
    return str
