"""``meshgraft audit``: which pods are not as they should be, and why; restarts them where asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from injector.core.values import Values
from injector.service.settings import Settings
from kubeapi import reading
from kubeapi.client import ApiServer, ApiServerError, is_name
from kubeapi.reading import DEPLOYMENTS
from meshgraft._errors import CommandError
from meshgraft._terminal import shown
from meshgraft.audit.explain import explain
from meshgraft.audit.gather import (
    Notes,
    Scope,
    Surroundings,
    judgements,
    load_mesh,
    namespace_owner,
)
from meshgraft.audit.judge import judge_namespace
from meshgraft.audit.model import Finding, Kind, Mesh
from meshgraft.audit.report import Output, render
from meshgraft.audit.restart import check_injector
from meshgraft.audit.restart import restart as restart_workload
from meshgraft.audit.rollout import Plan, plan
from meshgraft.commands._cluster import check_selector, emit, find_cluster, seconds, with_api
from meshgraft.commands._profiles import ProfileName
from meshgraft.installed import INJECTOR, NAMESPACE, version_skew

_Switch = Parameter(negative="", show_default=False)
_PODS = ("pod/", "pods/", "po/")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What was asked for on the command line, parsed."""

    pods: tuple[str, ...]
    scope: Scope
    values: Values | None
    meshgraft_namespace: str
    output: Output
    restart: bool
    yes: bool
    timeout: float


def audit(
    *pods: str,
    all_namespaces: Annotated[bool, _Switch, Parameter(alias="-A")] = False,
    namespace: Annotated[str | None, Parameter(alias="-n")] = None,
    selector: Annotated[str | None, Parameter(alias="-l")] = None,
    output: Annotated[Output, Parameter(alias="-o")] = "table",
    restart: Annotated[bool, _Switch] = False,
    yes: Annotated[bool, _Switch, Parameter(alias="-y")] = False,
    timeout: str = "10m",
    values: Path | None = None,
    profile: ProfileName | None = None,
    meshgraft_namespace: str = NAMESPACE,
    kubeconfig: Path | None = None,
    context: str | None = None,
) -> int:
    """Find the pods that should be meshed and are not, the reverse, and those with another proxy
    than today's settings would give, each with the reason. Exit code 1 where there are any.

    Parameters
    ----------
    pods
        pod/NAME explains that pod: every step of the decision, with the value and where it is from.
    all_namespaces
        All namespaces.
    namespace
        One namespace. Default: that of the kubeconfig's context.
    selector
        Only pods with these labels, as in app=web.
    output
        A table for people, or JSON or YAML for scripts.
    restart
        Restart the owners of pods that would then be as they should be, one at a time, and wait for
        each. Bare pods and Jobs are named and left alone.
    yes
        Restart without asking.
    timeout
        How long one workload may take to be rolled out.
    values
        Settings to judge by, instead of the cluster's own: a Helm values file.
    profile
        The profile to judge by, instead of the cluster's own.
    meshgraft_namespace
        Where the injector is installed.
    kubeconfig
        The cluster, by the file's current context. Default: $KUBECONFIG, ~/.kube/config, or the
        cluster that this runs in.
    context
        Another context of that file.
    """
    if restart and not yes and not sys.stdin.isatty():
        raise CommandError("--restart asks before it restarts; without a terminal give --yes too")
    config = find_cluster(kubeconfig, context)
    where = "" if all_namespaces else namespace or config.namespace
    asked = _Asked(
        pods=tuple(map(_pod_name, pods)),
        scope=Scope(namespace=_checked(where), selector=check_selector(selector)),
        values=_values(values, profile),
        meshgraft_namespace=_checked(meshgraft_namespace),
        output=output,
        restart=restart,
        yes=yes,
        timeout=seconds("--timeout", timeout),
    )
    _check(asked, all_namespaces, namespace)
    return with_api(config, partial(_run, asked=asked))


def _values(path: Path | None, profile: ProfileName | None) -> Values | None:
    return Settings(path, profile).current if path or profile else None


def _checked(name: str) -> str:
    if name and not is_name(name):
        raise CommandError(f"{name!r} cannot be the name of a namespace")
    return name


def _pod_name(text: str) -> str:
    name = next((text.removeprefix(each) for each in _PODS if text.startswith(each)), "")
    if not is_name(name):
        raise CommandError(f"{text!r}: expected pod/NAME")
    return name


def _check(asked: _Asked, all_namespaces: bool, namespace: str | None) -> None:
    if all_namespaces and namespace:
        raise CommandError("--all-namespaces and --namespace exclude each other")
    if asked.pods and (all_namespaces or asked.scope.selector):
        raise CommandError("pod/NAME is in one namespace: give -n, and neither -A nor -l")
    if asked.pods and asked.output != "table":
        raise CommandError("pod/NAME is explained in sentences: there is no -o for it")


async def _run(api: ApiServer, asked: _Asked) -> int:
    notes = Notes()
    mesh = await load_mesh(api, asked.meshgraft_namespace, asked.values, notes)
    await _note_skew(api, asked, notes)
    surroundings = Surroundings(api, notes)
    await surroundings.load(asked.scope.namespace)
    if asked.pods:
        findings = await _explain(api, asked, mesh, surroundings)
    else:
        findings = await _list(api, asked, mesh, surroundings)
    for text in notes.texts:
        print(f"‼ {shown(text)}", file=sys.stderr)
    if not asked.restart or not findings:
        return 1 if findings else 0
    return await _restart(api, asked, plan(findings))


async def _note_skew(api: ApiServer, asked: _Asked, notes: Notes) -> None:
    """Another version of this program computes other proxies than the one that is installed."""
    if asked.values is not None:
        return
    try:
        found = await reading.read(api, DEPLOYMENTS, INJECTOR, asked.meshgraft_namespace)
    except ApiServerError as error:
        if error.status != 403:
            raise
        notes.add(f"the injector's version is not known: {error}")
        return
    skew = version_skew(found or {})
    if skew:
        notes.add(f"{skew}: what differs may come from that; use the same version")


async def _explain(
    api: ApiServer, asked: _Asked, mesh: Mesh, surroundings: Surroundings
) -> list[Finding]:
    findings = []
    for name in asked.pods:
        scope = Scope(namespace=asked.scope.namespace, pod=name)
        async for judged in judgements(api, scope, mesh, surroundings):
            if not judged:
                print(f"pod {scope.namespace}/{name} is being deleted")
            for subject, found in judged:
                emit(shown(explain(subject, mesh, found)) + "\n")
                findings += [found.finding] if found.finding else []
    return findings


async def _list(
    api: ApiServer, asked: _Asked, mesh: Mesh, surroundings: Surroundings
) -> list[Finding]:
    findings, audited = [], 0
    async for judged in judgements(api, asked.scope, mesh, surroundings):
        audited += len(judged)
        findings += [found.finding for _, found in judged if found.finding]
    findings.sort(key=lambda finding: (finding.namespace, finding.name))
    if not asked.scope.selector:
        findings = [*_namespaces(surroundings), *findings]
    emit(shown(render(findings, audited, asked.output)))
    return findings


def _namespaces(surroundings: Surroundings) -> list[Finding]:
    """What is written on namespaces and has no effect, reported once and not with each pod."""
    return [
        Finding(
            namespace=name,
            name="",
            owner=namespace_owner(name),
            kind=Kind.NOT_USED,
            reasons=reasons,
        )
        for name, where in sorted(surroundings.namespaces.items())
        if (reasons := judge_namespace(where))
    ]


async def _restart(api: ApiServer, asked: _Asked, todo: Plan) -> int:
    for text in todo.left:
        print(f"left alone: {shown(text)}", file=sys.stderr)
    if not todo.workloads:
        return 1
    await check_injector(api, asked.meshgraft_namespace)
    if not asked.yes and not _confirmed([str(workload) for workload in todo.workloads]):
        print("nothing was restarted", file=sys.stderr)
        return 1
    say = partial(print, file=sys.stderr, flush=True)
    done = [
        await restart_workload(api, workload, asked.timeout, say) for workload in todo.workloads
    ]
    return 0 if all(done) and not todo.left else 1


def _confirmed(names: Sequence[str]) -> bool:
    """Ask on stderr: stdout is for the findings, which may go to a file."""
    lines = ["To be restarted, one at a time:", *(f"  {name}" for name in names)]
    print(*lines, "Go on? [y/N] ", sep="\n", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
