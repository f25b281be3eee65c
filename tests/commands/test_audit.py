"""``meshgraft audit``, against an API server."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kubeapi import reading
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from meshgraft.audit import gather, restart
from meshgraft.audit.gather import Notes, Scope, Surroundings, judgements
from meshgraft.audit.rollout import Workload
from tests.audit.support import ENABLED, injected, mesh, pod
from tests.commands.cluster_support import (
    Ended,
    deployment,
    installation,
    meshgraft,
    namespace,
    process,
    thing,
)
from tests.commands.support import Shell
from tests.kubeapi.fake_apiserver import Object
from tests.kubeapi.fake_cluster import FakeCluster, running_cluster


def owned(kind: str, name: str) -> dict[str, Any]:
    group = "batch/v1" if kind in ("Job", "CronJob") else "apps/v1"
    return {"ownerReferences": [{"apiVersion": group, "kind": kind, "name": name}]}


def live(name: str, annotations: dict[str, str] | None = None, **more: Any) -> Object:
    obj = pod(annotations, **more)
    obj["metadata"]["name"] = name
    return obj


def cluster_objects() -> list[Object]:
    """Namespace shop is in the mesh, namespace else is not; web was missed, api is as it should
    be, and of else only the Deployment is annotated."""
    replica_set = thing("ReplicaSet", "web-1", "shop", meta=owned("Deployment", "web"))
    forgotten = live("forgotten-1")
    forgotten["metadata"] |= {"namespace": "else", **owned("ReplicaSet", "forgotten-1")}
    return [
        *installation(),
        namespace("shop", ENABLED),
        namespace("else"),
        replica_set,
        deployment("web", "shop", 2),
        thing(
            "Deployment",
            "forgotten",
            "else",
            annotations=ENABLED,
        ),
        thing("ReplicaSet", "forgotten-1", "else", meta=owned("Deployment", "forgotten")),
        live("web-1-a"),
        injected(live("web-1-b")),
        forgotten,
    ]


def run(
    tmp_path: Path,
    *args: str,
    objects: list[Object] | None = None,
    runner: Callable[..., Awaitable[Ended]] = meshgraft,
    **given: Any,
) -> tuple[Ended, FakeCluster]:
    async def test() -> tuple[Ended, FakeCluster]:
        async with running_cluster(*(objects or cluster_objects()), **given) as cluster:
            return await runner(cluster, tmp_path, "audit", *args), cluster

    return asyncio.run(test())


def test_each_pod_that_is_not_as_it_should_be_is_listed_with_why(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "-A", "-o", "json")
    assert (ended.code, ended.stderr) == (1, "")
    tree = json.loads(ended.stdout)
    assert tree["audited"] == 3
    found = {
        (each["pod"], each["owner"]["kind"], each["owner"]["name"]): each["reasons"][0]["code"]
        for each in tree["findings"]
    }
    assert found == {
        ("forgotten-1", "deployment", "forgotten"): "annotation-on-workload",
        ("web-1-a", "deployment", "web"): "webhook-was-away",
    }
    lists = [asked for asked in cluster.asked if "limit" in asked.query]
    assert all(asked.query["limit"] == "500" for asked in lists)
    # Whole objects of pods only; of all others the metadata.
    whole = {a.path for a in lists if "PartialObjectMetadata" not in a.headers["accept"]}
    assert whole == {"/api/v1/pods"}


def test_one_namespace_asks_for_nothing_of_others(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "-n", "else")
    assert ended.code == 1
    assert '"linkerd.io/inject: enabled" is on the Deployment, not on its pod' in ended.stdout
    cluster_wide = {"/api/v1/pods", "/api/v1/namespaces", "/apis/apps/v1/deployments"}
    assert not cluster_wide & {asked.path for asked in cluster.asked}


def test_a_pod_is_explained_in_sentences(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "pod/web-1-a", "pod/web-1-b", "-n", "shop")
    assert ended.code == 1
    assert "pod shop/web-1-a of deployment/web: it has no proxy; it should have" in ended.stdout
    assert "pod shop/web-1-b of deployment/web: the webhook gave it a proxy" in ended.stdout


def test_all_well_is_exit_code_0(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "-n", "shop", "-l", "app=none")
    assert (ended.code, ended.stdout) == (0, "0 pods looked at: each is as it should be\n")


@pytest.mark.parametrize(
    ("denied", "code", "text"),
    [
        ("list pods", 1, "Error: not allowed to list pods in namespace shop"),
        ("get configmaps", 1, "Error: not allowed to get configmaps in namespace meshgraft"),
        (
            "get mutatingwebhookconfigurations",
            1,
            "‼ whom the webhook is asked about is not known: not allowed to get"
            " mutatingwebhookconfigurations.admissionregistration.k8s.io in the whole cluster",
        ),
        ("list replicasets", 1, "Error: not allowed to list replicasets.apps in namespace shop"),
        ("list cronjobs", 1, "‼ some owners of pods, and what is written on them, remain unknown"),
        ("get deployments", 1, "the injector's version is not known: not allowed to get"),
    ],
)
def test_a_right_that_is_missing_is_named(
    tmp_path: Path, denied: str, code: int, text: str
) -> None:
    ended, _ = run(tmp_path, "-n", "shop", denied={denied})
    assert ended.code == code
    assert text in ended.stderr


def test_another_version_of_the_injector_is_told(tmp_path: Path) -> None:
    other = deployment("meshgraft-injector", "meshgraft")
    other["spec"]["template"]["spec"]["containers"][0]["image"] = (
        "r.io:5000/m/meshgraft:9.9@sha256:1"
    )
    ended, _ = run(tmp_path, "-n", "shop", objects=[*cluster_objects(), other])
    assert "the injector is version 9.9, and this command" in ended.stderr


def test_a_cluster_without_an_injector_says_what_to_do(tmp_path: Path) -> None:
    shop = [namespace("shop", ENABLED), live("web-1-a")]
    ended, _ = run(tmp_path, "-n", "shop", objects=shop)
    assert ended.code == 1
    assert "there is no ConfigMap meshgraft/meshgraft-injector-config" in ended.stderr
    ended, _ = run(tmp_path, "-n", "shop", "--profile", "envoy", objects=shop)
    assert "there is no MutatingWebhookConfiguration" in ended.stdout


# Restarts


def test_owners_are_restarted_and_waited_for(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "-n", "shop", "--restart", "--yes", runner=process)
    assert ended.code == 0, ended.stderr
    assert ended.stderr.splitlines() == [
        "deployment/web in namespace shop: restarted",
        "deployment/web in namespace shop: rolled out",
    ]
    web = cluster.objects["/apis/apps/v1/namespaces/shop/deployments/web"]
    assert web["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"]
    assert web["spec"]["replicas"] == 2


class Terminal(io.StringIO):
    """Somebody at a terminal, who types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "restarted"), [("y\n", 1), ("\n", 0), ("n\n", 0), ("", 0)])
def test_somebody_at_a_terminal_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, restarted: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    ended, cluster = run(tmp_path, "-n", "shop", "-o", "json", "--restart")
    assert json.loads(ended.stdout)["audited"] == 2
    assert "  deployment/web in namespace shop\nGo on? [y/N] " in ended.stderr
    assert len([asked for asked in cluster.asked if asked.method == "PATCH"]) == restarted
    assert ended.code == 1 - restarted


def test_what_a_restart_does_not_help_is_named_and_makes_the_exit_code_1(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "-n", "else", "--restart", "-y")
    assert ended.code == 1
    assert "left alone: deployment/forgotten in namespace else: a restart does" in ended.stderr
    assert not [asked for asked in cluster.asked if asked.method == "PATCH"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--restart",), "without a terminal give --yes too"),
        (("--restart", "-y", "--timeout", "soon"), "--timeout 'soon': expected"),
        (("web-1-a",), "'web-1-a': expected pod/NAME"),
        (("pod/../x",), "expected pod/NAME"),
        (("pod/web-1-a", "-A"), "give -n, and neither -A nor -l"),
        (("pod/web-1-a", "-o", "json"), "explained in sentences"),
        (("-A", "-n", "shop"), "exclude each other"),
        (("-n", "a/b"), "cannot be the name of a namespace"),
        (("-l", "app=$(x)"), "--selector"),
        (("--kubeconfig", "/does/not/exist"), "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_done(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], text: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(FakeCluster(port=1).kubeconfig(tmp_path)))
    ended = shell("audit", *args)
    assert ended.code == 1
    assert text in ended.stderr


Work = Callable[[FakeCluster, ApiServer], Awaitable[None]]


def within(tmp_path: Path, objects: list[Object], work: Work, **given: Any) -> None:
    async def test() -> None:
        async with running_cluster(*objects, **given) as cluster:
            api = ApiServer(load_config(cluster.kubeconfig(tmp_path)))
            try:
                await work(cluster, api)
            finally:
                await api.close()

    asyncio.run(test())


def test_nothing_is_restarted_while_no_webhook_is_there(tmp_path: Path) -> None:
    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        with pytest.raises(restart.RestartError, match="has no ready replica"):
            await restart.check_injector(api, "meshgraft")

    within(tmp_path, [namespace("meshgraft")], work)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({}, r"not rolled out within 0\.05 s: its controller has not seen the change"),
        (
            {
                "observedGeneration": 9,
                "conditions": [{"reason": "ProgressDeadlineExceeded", "message": "no image"}],
            },
            "was not rolled out: no image; the rest was not touched",
        ),
    ],
)
def test_a_workload_that_does_not_come_up_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Object, text: str
) -> None:
    monkeypatch.setattr(restart, "POLL_SECONDS", 0.01)
    workload = Workload("shop", "deployment", "web")

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        with pytest.raises(restart.RestartError, match=text):
            await restart.restart(api, workload, 0.05, lambda _: None)

    web = {**deployment("web", "shop"), "status": status}
    within(tmp_path, [web], work, rolls_out=False)


def test_a_paused_workload_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        workload = Workload("shop", "deployment", "web")
        assert not await restart.restart(api, workload, 1, said.append)
        assert not [asked for asked in cluster.asked if asked.method == "PATCH"]

    within(tmp_path, [deployment("web", "shop", paused=True)], work)
    assert said == ["deployment/web in namespace shop is paused; resume it first: left alone"]


# What is read


def test_pages_are_followed_and_judged_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)
    pods = [live(f"p{number}") for number in range(5)]
    pods[4]["metadata"]["deletionTimestamp"] = "2026-06-01T00:00:00Z"

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        surroundings = Surroundings(api, Notes())
        await surroundings.load("shop")
        scope = Scope(namespace="shop")
        sizes = [len(page) async for page in judgements(api, scope, mesh(), surroundings)]
        assert sizes == [2, 2, 0]

    within(tmp_path, [namespace("shop", ENABLED), *pods], work)


def test_a_template_is_fetched_once_for_all_pods_of_its_owner(tmp_path: Path) -> None:
    handed_down = namespace("shop", {**ENABLED, "config.linkerd.io/proxy-uid": "7"})
    place = gather.where_of(handed_down)
    pods = [injected(live(f"p{number}"), place) for number in range(3)]
    replica_set = thing(
        "ReplicaSet", "web-1", "shop", meta=owned("Deployment", "web"), spec={"template": {}}
    )

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        surroundings = Surroundings(api, Notes())
        await surroundings.load("shop")
        async for page in judgements(api, Scope(namespace="shop"), mesh(), surroundings):
            for _, found in page:
                assert found.finding
                texts = [reason.text for reason in found.finding.reasons]
                assert "annotation config.linkerd.io/proxy-uid: 7 → (none)" in texts
        path = "/apis/apps/v1/namespaces/shop/replicasets/web-1"
        assert len(cluster.asked_for(path)) == 1

    within(tmp_path, [namespace("shop", ENABLED), replica_set, *pods], work)


def test_templates_are_not_all_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_down = namespace("shop", {**ENABLED, "config.linkerd.io/proxy-uid": "7"})
    place = gather.where_of(handed_down)
    pods = [injected(live(f"p{number}"), place) for number in range(3 * gather.AT_ONCE)]
    for number, each in enumerate(pods):
        each["metadata"] |= owned("StatefulSet", f"s{number}")
    asking, most, original = 0, 0, reading.read

    async def read(*args: Any, **more: Any) -> Object | None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await original(*args, **more)
        finally:
            asking -= 1

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        surroundings = Surroundings(api, Notes())
        await surroundings.load("shop")
        monkeypatch.setattr(reading, "read", read)
        assert len(await surroundings.subjects(pods)) == len(pods)
        assert len(cluster.asked) > len(pods)
        assert most == gather.AT_ONCE

    within(tmp_path, [namespace("shop", ENABLED)], work)


def test_when_a_namespace_was_annotated_is_read_from_its_managed_fields() -> None:
    obj = namespace("shop", ENABLED)
    entry: Object = {"f:metadata": {"f:annotations": {"f:linkerd.io/inject": {}}}}
    obj["metadata"]["managedFields"] = [
        {"time": "2026-05-01T00:00:00Z", "fieldsV1": entry},
        {"time": "2026-09-01T00:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
        {"fieldsV1": entry},
    ]
    found = gather.where_of(obj).annotated_at
    assert found
    assert found.isoformat() == "2026-05-01T00:00:00+00:00"
