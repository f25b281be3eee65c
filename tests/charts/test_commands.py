"""``install``, ``install-cni`` and ``uninstall`` as a shell runs them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from certificates.x509 import issue_authority
from meshgraft._errors import CommandError
from meshgraft.commands import uninstall
from meshgraft.commands._trust_anchors import from_cluster
from tests.charts.support import CNI, HA, INJECTOR, MODES, Object, container, objects, one
from tests.commands.support import Shell
from tests.kubeapi.fake_apiserver import running

ANCHORS_PATH = "/api/v1/namespaces/linkerd/configmaps/linkerd-identity-trust-roots"


@pytest.fixture(scope="module")
def anchors() -> str:
    return issue_authority(datetime.now(UTC)).pem.decode()


def settings(documents: list[Object]) -> Any:
    """The injector's settings in what was printed."""
    config = one(documents, "ConfigMap", "meshgraft-injector-config")
    return yaml.safe_load(config["data"]["values"])


# --- install -------------------------------------------------------------------------------------


def test_install_prints_all_in_the_order_in_which_it_is_made(shell: Shell) -> None:
    run = shell("install")
    assert (run.code, run.stderr) == (0, "")
    kinds = [each["kind"] for each in run.documents]
    assert kinds[0] == "Namespace"
    assert kinds[-2:] == ["Deployment", "MutatingWebhookConfiguration"]
    labels = {each["metadata"]["labels"]["app.kubernetes.io/managed-by"] for each in run.documents}
    assert labels == {"meshgraft"}


def test_install_prints_the_same_each_time(shell: Shell) -> None:
    assert shell("install", "--ha").stdout == shell("install", "--ha").stdout


def test_the_flags_are_values(shell: Shell) -> None:
    run = shell(
        *("install", "--ha", "--linkerd-cni-enabled", "--controller-replicas", "5"),
        *("--webhook-failure-policy", "Ignore", "--set", "proxy.logLevel=debug"),
        *("--set-string", "linkerdVersion=26"),
    )
    assert one(run.documents, "Deployment")["spec"]["replicas"] == 5
    webhook = one(run.documents, "MutatingWebhookConfiguration")["webhooks"][0]
    assert webhook["failurePolicy"] == "Ignore"
    found = settings(run.documents)
    assert found["cniEnabled"] is True
    assert found["proxy"]["logLevel"] == "debug"
    assert found["linkerdVersion"] == "26"
    assert one(run.documents, "PodDisruptionBudget")


def test_ha_is_below_files_and_files_are_below_flags_and_flags_below_set(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "v.yaml").write_text("controllerReplicas: 4\nwebhookFailurePolicy: Ignore\n")

    def replicas(*more: str) -> Any:
        run = shell("install", "--ha", *more)
        return one(run.documents, "Deployment")["spec"]["replicas"]

    values = ("--values", str(tmp_path / "v.yaml"))
    flag = ("--controller-replicas", "5")
    assert replicas() == HA["controllerReplicas"]
    assert replicas(*values) == 4
    assert replicas(*values, *flag) == 5
    assert replicas(*values, *flag, "--set", "controllerReplicas=6") == 6


def test_profile_node_brings_the_nodes_proxy(shell: Shell) -> None:
    run = shell("install", "--profile", "node")
    assert one(run.documents, "DaemonSet")["metadata"]["name"] == "meshgraft-node-proxy"
    assert settings(run.documents)["meshgraft"]["profile"] == "node"


def test_what_will_surprise_is_told_on_stderr(shell: Shell) -> None:
    run = shell("install", "--webhook-failure-policy", "Fail")
    assert run.code == 0
    assert run.stderr.startswith("‼ failurePolicy is Fail and there is one replica")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "proxi=1"), "the values: additional properties 'proxi' not allowed"),
        (("--set", "proxy.logLevl=x"), "proxy: additional properties 'logLevl' not allowed"),
        (("--set", "controllerReplicas"), "has no value"),
        (("--values", "/no/such.yaml"), "/no/such.yaml: cannot be read"),
        (("--set-file", "a=/no/such"), "--set-file a=/no/such"),
        (("--controller-replicas", "-1"), "--controller-replicas -1: expected 0 or more"),
        (("--profile", "linkerd", "--ignore-cluster"), "set linkerdVersion"),
        (("--profile", "linkerd"), "no cluster is named"),
        (("--identity-trust-anchors-file", "/no/such"), "/no/such: cannot be read"),
    ],
)
def test_a_mistake_prints_nothing_and_exits_1(
    arguments: tuple[str, ...], message: str, shell: Shell
) -> None:
    run = shell("install", *arguments)
    assert (run.code, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ")
    assert message in run.stderr


# --- trust anchors -------------------------------------------------------------------------------

LINKERD = ("install", "--profile", "linkerd", "--set", "linkerdVersion=edge-26.10.1")


def test_trust_anchors_come_from_a_file(shell: Shell, tmp_path: Path, anchors: str) -> None:
    (tmp_path / "ca.crt").write_text(anchors)
    run = shell(*LINKERD, "--identity-trust-anchors-file", tmp_path / "ca.crt")
    assert (run.code, run.stderr) == (0, "")
    assert settings(run.documents)["identityTrustAnchorsPEM"] == anchors


@pytest.mark.parametrize("how", ["--set-file", "--values"])
def test_trust_anchors_among_the_values_are_enough(
    how: str, shell: Shell, tmp_path: Path, anchors: str
) -> None:
    (tmp_path / "ca.crt").write_text(anchors)
    (tmp_path / "v.yaml").write_text(yaml.safe_dump({"identityTrustAnchorsPEM": anchors}))
    given = {
        "--set-file": f"identityTrustAnchorsPEM={tmp_path / 'ca.crt'}",
        "--values": str(tmp_path / "v.yaml"),
    }
    run = shell(*LINKERD, how, given[how])
    assert (run.code, run.stderr) == (0, "")
    assert settings(run.documents)["identityTrustAnchorsPEM"] == anchors


def test_without_any_it_is_told_what_is_lost(shell: Shell) -> None:
    run = shell(*LINKERD, "--ignore-cluster")
    assert run.code == 0
    assert "no proxy can prove who it is" in run.stderr


def test_a_file_without_a_certificate_is_told(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing\n")
    run = shell(*LINKERD, "--identity-trust-anchors-file", tmp_path / "ca.crt")
    assert run.code == 1
    assert "no certificate in PEM is there" in run.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "there is no ConfigMap linkerd/linkerd-identity-trust-roots"),
        ({}, "key ca-bundle.crt: no certificate in PEM is there"),
        ({"ca-bundle.crt": "ANCHORS"}, ""),
    ],
)
def test_trust_anchors_come_from_the_cluster(
    data: dict[str, str] | None, message: str, tmp_path: Path, anchors: str
) -> None:
    async def ask() -> str:
        async with running() as server:
            if data is not None:
                filled = {key: text.replace("ANCHORS", anchors) for key, text in data.items()}
                server.objects[ANCHORS_PATH] = {"kind": "ConfigMap", "data": filled}
            kubeconfig = server.kubeconfig(tmp_path)
            return await asyncio.to_thread(from_cluster, kubeconfig, None, "linkerd")

    if not message:
        assert asyncio.run(ask()) == anchors
        return
    with pytest.raises(CommandError) as caught:
        asyncio.run(ask())
    assert message in str(caught.value)


def test_a_cluster_that_is_away_is_told_with_the_ways_around_it(
    shell: Shell, tmp_path: Path
) -> None:
    away = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    tree = {
        "current-context": "c",
        "clusters": [away],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(tree))
    run = shell(*LINKERD, "--kubeconfig", tmp_path / "kubeconfig")
    assert run.code == 1
    assert "ConfigMap linkerd/linkerd-identity-trust-roots cannot be read" in run.stderr
    assert "--identity-trust-anchors-file FILE, or --ignore-cluster" in run.stderr


# --- install-cni ---------------------------------------------------------------------------------


def entry(documents: list[Object]) -> Any:
    config = one(documents, "ConfigMap", "linkerd-cni-config")
    return json.loads(config["data"]["cni_network_config"])


LINKERDS_DEFAULTS = (
    *("--proxy-uid", "2102", "--proxy-gid", "-1", "--inbound-port", "4143"),
    *("--outbound-port", "4140", "--control-port", "4190", "--admin-port", "4191"),
    *("--cni-log-level", "info", "--dest-cni-net-dir", "/etc/cni/net.d"),
    *("--dest-cni-bin-dir", "/opt/cni/bin", "--cni-image", "meshgraft/meshgraft"),
)


def test_install_cni_has_linkerds_defaults(shell: Shell) -> None:
    plain = shell("install-cni")
    assert (plain.code, plain.stderr) == (0, "")
    assert plain.documents[0]["kind"] == "Namespace"
    assert shell("install-cni", *LINKERDS_DEFAULTS).stdout == plain.stdout


def test_linkerds_flags_reach_the_node(shell: Shell) -> None:
    run = shell(
        *("install-cni", "--proxy-uid", "2103", "--proxy-gid", "2104", "--inbound-port", "1"),
        *("--outbound-port", "2", "--control-port", "3", "--admin-port", "4"),
        *("--skip-inbound-ports", "22,8000-8010", "--skip-inbound-ports", "25"),
        *("--skip-outbound-ports", "443", "--redirect-ports", "80,81"),
        *("--cni-log-level", "debug", "--use-wait-flag"),
        *("--dest-cni-net-dir", "/n", "--dest-cni-bin-dir", "/b"),
        *("--registry", "registry.example/mesh/", "--cni-image-version", "v9"),
        *("--priority-class-name", "mine", "--cni-scope", "all", "--cni-method", "drop-in"),
    )
    assert (run.code, run.stderr) == (0, "")
    found = entry(run.documents)
    assert found["log_level"] == "debug"
    assert found["linkerd"] == {
        "incoming-proxy-port": 1,
        "outgoing-proxy-port": 2,
        "proxy-uid": 2103,
        "proxy-gid": 2104,
        "ports-to-redirect": ["80", "81"],
        "inbound-ports-to-ignore": ["4", "3", "22", "8000-8010", "25"],
        "outbound-ports-to-ignore": ["443"],
        "simulate": False,
        "use-wait-flag": True,
        "iptables-mode": "auto",
        "ipv6": False,
    }
    daemonset = one(run.documents, "DaemonSet")
    assert container(daemonset)["image"] == "registry.example/mesh/meshgraft:v9"
    assert {"--cni-scope=all", "--cni-method=drop-in"} <= set(container(daemonset)["args"])
    assert daemonset["spec"]["template"]["spec"]["priorityClassName"] == "mine"
    data = one(run.documents, "ConfigMap")["data"]
    assert (data["dest_cni_net_dir"], data["dest_cni_bin_dir"]) == ("/n", "/b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cni-image", "r:5000/x:v1"), "its tag belongs in --cni-image-version"),
        (("--inbound-port", "70000"), "inboundProxyPort"),
        (("--skip-inbound-ports", "ssh"), "ignoreInboundPorts"),
        (("--set", "iptablesMod=nft"), "'iptablesMod'"),
    ],
)
def test_a_mistake_of_install_cni_prints_nothing(
    arguments: tuple[str, ...], message: str, shell: Shell
) -> None:
    run = shell("install-cni", *arguments)
    assert (run.code, run.stdout) == (1, "")
    assert message in run.stderr


def test_a_flag_that_means_nothing_here_is_told(shell: Shell) -> None:
    run = shell("install-cni", "-v", "edge-26.10.1")
    assert run.code == 0
    assert "--linkerd-version has no effect" in run.stderr


# --- uninstall -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "chart"), [((), INJECTOR), (("--cni",), CNI)])
def test_uninstall_names_what_the_charts_make_and_nothing_else(
    flags: tuple[str, ...], chart: str, shell: Shell
) -> None:
    """Whatever is in a namespace of ours goes with it; the rest has to be named."""
    made: set[tuple[str, str]] = set()
    namespaces = {"meshgraft", "linkerd-cni"}
    for its_chart, values in MODES.values():
        if its_chart == chart:
            found = objects(its_chart, {**values, "createNamespace": True})
            made |= {
                (each["kind"], each["metadata"]["name"])
                for each in found
                if each["metadata"].get("namespace") not in namespaces
            }
    run = shell("uninstall", *flags)
    assert run.code == 0
    named = {(each["kind"], each["metadata"]["name"]) for each in run.documents}
    assert named - {("DaemonSet", "linkerd-cni")} == made


def test_uninstall_stops_the_webhook_first(shell: Shell) -> None:
    kinds = [each["kind"] for each in shell("uninstall").documents]
    assert kinds[0] == "MutatingWebhookConfiguration"


def test_uninstall_cni_ends_the_agents_while_they_may_still_ask_why(shell: Shell) -> None:
    run = shell("uninstall", "--cni")
    first, *rest = run.documents
    assert (first["kind"], first["metadata"]["namespace"]) == ("DaemonSet", "linkerd-cni")
    kinds = [each["kind"] for each in rest]
    assert kinds.index("Namespace") < kinds.index("ClusterRole")
    assert "start no more" in run.stderr


def test_uninstall_needs_no_helm() -> None:
    assert "helm" not in Path(uninstall.__file__).read_text()
