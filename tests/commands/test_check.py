"""``meshgraft check``, against an API server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshgraft.checks.catalog import CATEGORIES
from meshgraft.commands.check import _paint, check
from tests.audit.support import ENABLED, injected, pod
from tests.commands.cluster_support import (
    Ended,
    config_map,
    installation,
    meshgraft,
    namespace,
    process,
    thing,
)
from tests.commands.support import Shell
from tests.kubeapi.fake_apiserver import Object
from tests.kubeapi.fake_cluster import FakeCluster, running_cluster


def run(
    tmp_path: Path,
    *args: str,
    objects: list[Object] | None = None,
    runner: Callable[..., Awaitable[Ended]] = meshgraft,
    **given: Any,
) -> tuple[Ended, FakeCluster]:
    async def test() -> tuple[Ended, FakeCluster]:
        found = installation() if objects is None else objects
        async with running_cluster(*found, **given) as cluster:
            return await runner(cluster, tmp_path, "check", *args), cluster

    return asyncio.run(test())


def test_an_installation_that_is_well_passes_and_each_object_is_asked_for_once(
    tmp_path: Path,
) -> None:
    ended, cluster = run(tmp_path, runner=process)
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["kubernetes-api", "--------------"]
    assert "√ control plane pods are ready" in lines
    assert lines[-1] == "Status check results are √"
    paths = [(asked.method, asked.path, str(asked.query)) for asked in cluster.asked]
    assert len(paths) == len(set(paths))


def test_json_has_linkerds_shape(tmp_path: Path) -> None:
    objects = [one for one in installation() if one["kind"] != "ClusterRole"]
    ended, _ = run(tmp_path, "-o", "json", objects=objects)
    tree = json.loads(ended.stdout)
    assert (ended.code, tree["success"]) == (1, False)
    names = [category["categoryName"] for category in tree["categories"]]
    assert names[:4] == [
        "kubernetes-api",
        "kubernetes-version",
        "meshgraft-config",
        "meshgraft-existence",
    ]
    checks = {each["id"]: each for each in tree["categories"][2]["checks"]}
    assert checks["l5d-existence-crb"] == {
        "id": "l5d-existence-crb",
        "description": "control plane ClusterRoleBindings exist",
        "result": "success",
    }
    failed = checks["l5d-existence-cr"]
    assert failed["result"] == "error"
    assert failed["error"] == "missing ClusterRoles: meshgraft-injector"
    assert failed["hint"] == "docs/reference/checks.md#l5d-existence-cr"


def test_the_short_form_tells_only_what_is_not_well(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "-o", "short", denied={"get clusterroles"})
    assert ended.code == 1
    assert ended.stdout.startswith(
        "meshgraft-config\n----------------\n× control plane ClusterRoles exist\n"
        "    could not be checked: not allowed to get clusterroles.rbac.authorization.k8s.io in the"
        " whole cluster (the API server answers GET "
    )
    assert "√" not in ended.stdout
    ended, _ = run(tmp_path, "-o", "short")
    assert ended.stdout == "Status check results are √\n"


def test_nothing_installed_is_told_once(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "-o", "short", objects=[])
    assert ended.code == 1
    assert ended.stdout.count("×") == 2
    assert 'The "meshgraft" namespace does not exist' in ended.stdout


def test_before_an_installation_rights_are_asked_for(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "--pre", "--linkerd-cni-enabled", objects=[])
    assert "√ can create ServiceAccounts" in ended.stdout
    assert "√ can create DaemonSets" in ended.stdout
    assert "× cni plugin DaemonSet exists\n    missing DaemonSet: linkerd-cni" in ended.stdout
    denied = {"create secrets", "create clusterroles"}
    ended, cluster = run(tmp_path, "--pre", objects=[], denied=denied)
    assert ended.code == 1
    assert "missing permissions to create clusterroles.rbac.authorization.k8s.io" in ended.stdout
    assert "missing permissions to create secrets in namespace meshgraft" in ended.stdout
    reviews = [json.loads(asked.body) for asked in cluster.asked if asked.method == "POST"]
    assert {review["kind"] for review in reviews} == {"SelfSubjectAccessReview"}


def test_proxies_are_looked_at_where_asked(tmp_path: Path) -> None:
    obj = injected(pod())
    obj["status"] = {"phase": "Running", "initContainerStatuses": [{"name": "envoy-proxy"}]}
    objects = [*installation(), namespace("shop", ENABLED), obj]
    ended, cluster = run(tmp_path, "--proxy", "-n", "shop", "--wait", "0s", objects=objects)
    assert ended.code == 1
    assert "Some data plane pods are not ready:\n    \t* shop/web-1-x" in ended.stdout
    lists = {asked.path: asked.query for asked in cluster.asked if "labelSelector" in asked.query}
    assert "/api/v1/namespaces/shop/pods" in lists


def test_a_server_that_is_not_there_ends_it(tmp_path: Path, shell: Shell) -> None:
    kubeconfig = FakeCluster(port=1).kubeconfig(tmp_path)
    ended = shell("check", "--kubeconfig", kubeconfig)
    assert ended.code == 1
    assert "× can query the Kubernetes API" in ended.stdout
    assert ended.stdout.endswith("Status check results are ×\n")


def test_no_cluster_is_a_check_that_failed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = shell("check", "-o", "json")
    (category,) = json.loads(ended.stdout)["categories"]
    assert category["checks"][0]["id"] == "k8s-client"
    assert "give --kubeconfig FILE" in category["checks"][0]["error"]


def test_what_may_pass_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Deployment becomes ready while the command looks."""

    async def test() -> tuple[int, int]:
        objects = installation()
        starting = next(one for one in objects if one["kind"] == "Deployment")
        ready, starting["status"] = starting["status"], {}
        async with running_cluster(*objects) as cluster:
            path = "/apis/apps/v1/namespaces/meshgraft/deployments/meshgraft-injector"
            kubeconfig = cluster.kubeconfig(tmp_path)
            running = asyncio.create_task(
                asyncio.to_thread(
                    check,
                    kubeconfig=kubeconfig,
                    wait="20s",
                    meshgraft_namespace="meshgraft",
                )
            )
            while not cluster.asked_for(path):
                await asyncio.sleep(0.01)
            cluster.objects[path] = {**starting, "status": ready}
            return await running, len(cluster.asked_for(path))

    code, times = asyncio.run(test())
    assert (code, times) == (0, 2)
    printed = capsys.readouterr()
    assert printed.err == "waiting: control plane pods are ready\n"
    assert printed.out.endswith("Status check results are √\n")


def test_what_does_not_pass_is_not_waited_for(tmp_path: Path) -> None:
    objects = [one for one in installation() if one["kind"] != "Service"]
    ended, cluster = run(tmp_path, objects=objects)
    assert (ended.code, ended.stderr) == (1, "")
    assert len(cluster.asked_for("/version")) == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--wait", "soon"), "--wait 'soon': expected"),
        (("-n", "a/b"), "cannot be the name of a namespace"),
        (("--cni-namespace", ".."), "cannot be the name of a namespace"),
    ],
)
def test_bad_flags_get_a_sentence(shell: Shell, args: tuple[str, ...], text: str) -> None:
    ended = shell("check", *args)
    assert ended.code == 1
    assert text in ended.stderr


@pytest.mark.parametrize(("colourless", "expected"), [("", "\033[31m×"), ("1", "×")])
def test_marks_are_coloured_on_a_terminal_only(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    colourless: str,
    expected: str,
) -> None:
    monkeypatch.setenv("NO_COLOR", colourless)
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert _paint()("×").startswith(expected)


def test_every_check_has_an_id_of_its_own_and_a_fix_of_one_sentence() -> None:
    checks = [check for category in CATEGORIES for check in category.checks]
    assert len({check.id for check in checks}) == len(checks)
    for each in checks:
        assert "\n" not in each.fix
        assert each.why.endswith(".")


def test_the_secret_of_other_things_is_not_read(tmp_path: Path) -> None:
    other = thing("Secret", "other", "meshgraft", data={"password": "x"})
    _, cluster = run(tmp_path, objects=[*installation(), other])
    secrets = {asked.path for asked in cluster.asked if "/secrets" in asked.path}
    assert secrets == {"/api/v1/namespaces/meshgraft/secrets/meshgraft-injector-tls"}


def test_a_webhook_that_is_not_reached_is_found_by_asking(tmp_path: Path) -> None:
    ended, cluster = run(tmp_path, "--wait=0s", meshes=False)
    assert ended.code == 1
    assert "× a pod that asks for a proxy would get one" in ended.stdout
    assert "would start without one" in ended.stdout
    (asked,) = [one for one in cluster.asked if one.path == "/api/v1/namespaces/default/pods"]
    assert (asked.method, asked.query) == ("POST", {"dryRun": "All"})
    refused, _ = run(tmp_path, "--wait=0s", denied={"create pods"})
    assert refused.code == 1
    assert "could not be checked" in refused.stdout
    assert 'cannot create resource "pods"' in refused.stdout


def test_hints_install_what_is_installed(tmp_path: Path) -> None:
    objects = installation(replicas=3, policy="Fail")
    configuration = next(one for one in objects if one["kind"] == "MutatingWebhookConfiguration")
    configuration["webhooks"][0]["clientConfig"]["service"]["name"] = "another"
    settings = next(one for one in objects if one["kind"] == "ConfigMap")
    objects[objects.index(settings)] = config_map("linkerd", cniEnabled=True)
    ended, _ = run(tmp_path, objects=objects)
    wanted = "meshgraft install --ha --linkerd-cni-enabled --profile linkerd | kubectl apply -f -"
    assert wanted in ended.stdout
    deployment = next(one for one in objects if one["kind"] == "Deployment")
    deployment["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
    by_helm, _ = run(tmp_path, objects=objects)
    assert "helm -n meshgraft upgrade RELEASE CHART --reuse-values" in by_helm.stdout
    assert "kubectl apply -f -" not in by_helm.stdout.split("webhook calls")[1].split("√")[0]
