"""A real API server takes what the charts render: its schemas, CEL, RBAC and Pod Security.

Skipped by name without KUBEBUILDER_ASSETS (see tests/apiserver).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshgraft.charts.helm import Tree
from meshgraft.charts.location import ChartName
from meshgraft.commands.uninstall import CNI as CNI_REFS
from meshgraft.commands.uninstall import INJECTOR as INJECTOR_REFS
from meshgraft.lab.process import Process
from tests.apiserver import control_plane
from tests.apiserver.control_plane import ControlPlane, KubectlError
from tests.charts.support import CNI, HA, INJECTOR, MODES, Object, container, objects, one
from tests.charts.test_all_modes import CUSTOM

CONFIGURATION = "mutatingwebhookconfiguration/meshgraft-injector-webhook-config"
INJECTOR_USER = "system:serviceaccount:meshgraft:meshgraft-injector"
CNI_USER = "system:serviceaccount:linkerd-cni:linkerd-cni"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    lacking = control_plane.missing()
    if lacking:
        pytest.skip(f"KUBEBUILDER_ASSETS has no {', '.join(lacking)}: no bare API server here")
    with control_plane.running(tmp_path_factory.mktemp("plane")) as plane:
        plane.create(namespace("meshgraft"))
        plane.create(namespace("linkerd-cni"))
        plane.create(namespace("shop"))
        plane.create(namespace("labelled", **{"linkerd.io/inject": "enabled"}))
        yield plane


def namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def as_list(items: list[Object]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def apply(plane: ControlPlane, chart: ChartName, values: Tree, *flags: str) -> list[Object]:
    found = objects(chart, {**values, "createNamespace": True})
    known = [each for each in found if each["kind"] not in CUSTOM]
    plane.kubectl("apply", "-f", "-", *flags, given=as_list(known))
    return found


# A bare API server allows no privileged container (--allow-privileged); those of clusters do.
@pytest.mark.parametrize("mode", sorted(MODES.keys() - {"cni, privileged"}))
def test_the_manifests_of_every_mode_are_taken(mode: str, plane: ControlPlane) -> None:
    apply(plane, *MODES[mode], "--dry-run=server")


@pytest.mark.parametrize("chart", [INJECTOR, CNI])
def test_the_pods_are_as_strict_as_their_namespaces_label(
    chart: ChartName, plane: ControlPlane
) -> None:
    found = apply(plane, chart, HA if chart == INJECTOR else {})
    workload = one(found, "Deployment" if chart == INJECTOR else "DaemonSet")
    meta = {"name": "pod", "namespace": workload["metadata"]["namespace"]}
    pod = {**workload["spec"]["template"], "apiVersion": "v1", "kind": "Pod", "metadata": meta}
    answer = plane.create(pod, "--dry-run=server")
    assert "would violate PodSecurity" not in answer.stderr


def test_the_agent_does_not_fit_into_a_restricted_namespace(plane: ControlPlane) -> None:
    """So that the test before this one is about something."""
    apply(plane, INJECTOR, {})
    template = one(objects(CNI), "DaemonSet")["spec"]["template"]
    meta = {"name": "pod", "namespace": "meshgraft"}
    pod = {**template, "apiVersion": "v1", "kind": "Pod", "metadata": meta}
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
        plane.create(pod, "--dry-run=server")


def test_another_apply_leaves_the_ca_that_the_injector_wrote(plane: ControlPlane) -> None:
    apply(plane, INJECTOR, {})
    patch = '[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"Y2E="}]'
    plane.kubectl("patch", CONFIGURATION, "--type=json", "-p", patch)
    apply(plane, INJECTOR, {})
    found = plane.kubectl("get", CONFIGURATION, "-o", "json").object
    assert found["webhooks"][0]["clientConfig"]["caBundle"] == "Y2E="


RIGHTS: list[tuple[str, bool, str]] = [
    (INJECTOR_USER, True, "watch namespaces"),
    (INJECTOR_USER, True, "get replicasets.apps -n shop"),
    (INJECTOR_USER, True, "create events -n shop"),
    (INJECTOR_USER, True, "update secrets/meshgraft-injector-tls -n meshgraft"),
    (INJECTOR_USER, True, "update mutatingwebhookconfigurations/meshgraft-injector-webhook-config"),
    (INJECTOR_USER, False, "update mutatingwebhookconfigurations/others"),
    (INJECTOR_USER, False, "get secrets/others -n meshgraft"),
    (INJECTOR_USER, False, "list secrets -n meshgraft"),
    (INJECTOR_USER, False, "get secrets -n shop"),
    (INJECTOR_USER, False, "list pods -n shop"),
    (CNI_USER, True, "watch pods"),
    (CNI_USER, True, "get services/kubernetes -n default"),
    (CNI_USER, True, "get daemonsets.apps/linkerd-cni -n linkerd-cni"),
    (CNI_USER, False, "get services/web -n shop"),
    (CNI_USER, False, "patch nodes"),
    (CNI_USER, False, "delete pods -n shop"),
    (CNI_USER, False, "create pods/eviction -n shop"),
    (CNI_USER, False, "get secrets -n linkerd-cni"),
]


@pytest.fixture(scope="module")
def installed(plane: ControlPlane) -> ControlPlane:
    apply(plane, INJECTOR, {})
    apply(plane, CNI, {})
    return plane


@pytest.mark.parametrize(("user", "may", "what"), RIGHTS)
def test_accounts_may_do_what_they_need(
    user: str, may: bool, what: str, installed: ControlPlane
) -> None:
    try:
        answer = installed.kubectl("auth", "can-i", *what.split(), "--as", user).stdout
    except KubectlError:
        answer = "no"
    assert answer.startswith("yes") == may


def service(**annotations: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"generateName": "web-", "annotations": annotations},
        "spec": {"ports": [{"port": 80}]},
    }


OPAQUE = {"config.linkerd.io/opaque-ports": "80"}
ASKED: list[tuple[str, str, dict[str, Any], bool]] = [
    ("annotation", "shop", {}, True),
    ("annotation", "kube-system", {}, False),
    ("annotation", "meshgraft", {}, False),
    ("annotation", "shop", OPAQUE, False),
    ("label", "shop", {}, False),
    ("label", "labelled", {}, True),
]


@pytest.mark.parametrize(("opt_in", "where", "annotations", "asked"), ASKED)
def test_the_webhook_is_asked_about_what_it_could_change(
    opt_in: str, where: str, annotations: dict[str, str], asked: bool, plane: ControlPlane
) -> None:
    """There is none that answers, so that with failurePolicy Fail each question is an error."""
    values: Tree = {"webhookFailurePolicy": "Fail", "meshgraft": {"optIn": opt_in}}
    plane.kubectl("delete", "--ignore-not-found", CONFIGURATION)
    apply(plane, INJECTOR, values)
    marker = namespace(f"marker-{opt_in}", **{"linkerd.io/inject": "enabled"})
    plane.kubectl("apply", "-f", "-", given=marker)
    _until_asked(plane, marker["metadata"]["name"])
    answer = ""
    try:
        plane.create(service(**annotations), "-n", where, "--dry-run=server")
    except KubectlError as error:
        answer = str(error)
    assert ("failed calling webhook" in answer) == asked, answer


def _until_asked(plane: ControlPlane, where: str) -> None:
    """Wait until the API server has taken up the configuration."""
    for _ in range(100):
        try:
            plane.create(service(), "-n", where, "--dry-run=server")
        except KubectlError:
            return
    raise AssertionError("the API server never asked the webhook")


def test_the_injector_gets_ready_with_no_more_rights_than_the_chart_gives(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """Its account's token, its Deployment's arguments: it issues its certificate, publishes the
    CA, and knows the cluster's namespaces."""
    plane.kubectl("delete", "--ignore-not-found", CONFIGURATION)
    found = apply(plane, INJECTOR, {})
    config = one(found, "ConfigMap")["data"]["values"]
    (tmp_path / "values").write_text(config)
    changed = {
        "--values": str(tmp_path / "values"),
        "--listen": "127.0.0.1:0",
        "--metrics-listen": "127.0.0.1:0",
        "--shutdown-delay": "0",
    }
    arguments = [
        *with_changed(container(one(found, "Deployment"))["args"], changed),
        f"--kubeconfig={as_account(plane, tmp_path, 'meshgraft', 'meshgraft-injector')}",
    ]
    log = tmp_path / "webhook.log"
    process = Process("webhook", [sys.executable, "-m", "meshgraft", *arguments], log)
    try:
        process.wait_for(lambda: trusted(plane), "no caBundle")
        process.wait_for(lambda: '"namespaces listed"' in log.read_text(), "no namespaces")
    finally:
        process.stop()
    assert "forbidden" not in log.read_text()
    kept = plane.kubectl("get", "secret", "meshgraft-injector-tls", "-n", "meshgraft").stdout
    assert "meshgraft-injector-tls" in kept


@pytest.mark.root
def test_the_agent_works_with_no_more_rights_than_the_chart_gives(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """It lists its node's pods, and takes the startup taint off."""
    taint = {"key": "meshgraft.io/cni-not-ready", "effect": "NoExecute"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    plane.create({**node, "spec": {"taints": [taint]}})
    found = apply(plane, CNI, {"startupTaint": {"enabled": True}, "repair": {"evict": True}})
    changed = {"--socket": str(tmp_path / "agent.sock"), "--metrics-listen": "127.0.0.1:0"}
    given = container(one(found, "DaemonSet"))["args"]
    arguments = [
        # Nothing of this machine is installed to, nor looked at.
        *with_changed([each for each in given if each != "--install"], changed),
        f"--netns-dir={tmp_path}",
        f"--kubeconfig={as_account(plane, tmp_path, 'linkerd-cni', 'linkerd-cni')}",
    ]
    env = {**os.environ, "NODE_NAME": "n1", "POD_NAMESPACE": "linkerd-cni", "POD_NAME": "a"}
    log = tmp_path / "agent.log"
    process = Process("agent", [sys.executable, "-m", "meshgraft", *arguments], log, env=env)
    try:
        process.wait_for(lambda: is_untainted(plane) or None, "the taint is there")
    finally:
        process.stop()
    assert "forbidden" not in log.read_text()


def is_untainted(plane: ControlPlane) -> bool:
    node = plane.kubectl("get", "node", "n1", "-o", "json").object
    # The API server adds one of its own to new nodes.
    keys = [taint["key"] for taint in node["spec"].get("taints", [])]
    return "meshgraft.io/cni-not-ready" not in keys


def with_changed(arguments: list[str], changed: dict[str, str]) -> list[str]:
    """``--flag=value`` with other values for some flags."""
    flags = ((argument, argument.partition("=")[0]) for argument in arguments)
    return [f"{flag}={changed[flag]}" if flag in changed else whole for whole, flag in flags]


def as_account(plane: ControlPlane, folder: Path, where: str, name: str) -> Path:
    """A kubeconfig with the token of a service account."""
    account = f"/api/v1/namespaces/{where}/serviceaccounts/{name}"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = plane.kubectl("create", f"--raw={account}/token", "-f", "-", given=asked).object
    tree = yaml.safe_load(plane.kubeconfig.read_text())
    tree["users"][0]["user"] = {"token": answer["status"]["token"]}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(tree))
    return path


def trusted(plane: ControlPlane) -> bool | None:
    """Whether the API server was told whom to trust."""
    webhooks = plane.kubectl("get", CONFIGURATION, "-o", "json").object["webhooks"]
    return True if all("caBundle" in each["clientConfig"] for each in webhooks) else None


def test_uninstalling_leaves_nothing_of_the_clusters(plane: ControlPlane) -> None:
    """Namespaces go once a controller has emptied them, and there is none here."""
    apply(plane, INJECTOR, HA)
    apply(plane, CNI, {})
    for ref in (*INJECTOR_REFS, *CNI_REFS):
        within = ("-n", ref.namespace) if ref.namespace else ()
        flags = ("--wait=false", "--cascade=background")
        plane.kubectl("delete", ref.kind.lower(), ref.name, *within, *flags)
    labels = "app.kubernetes.io/part-of=meshgraft"
    kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
    left = plane.kubectl("get", kinds, "-l", labels, "-o", "name").stdout.split()
    assert left == []
    going = plane.kubectl("get", "namespaces", "-l", labels, "-o", "json").object["items"]
    assert {each["status"]["phase"] for each in going} == {"Terminating"}
    assert len(going) == 2
