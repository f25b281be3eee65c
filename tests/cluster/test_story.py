"""The whole story on a real cluster, in order: install, mesh, traffic, failure, and uninstall.

Nothing is given to the cluster beforehand but the image, on all nodes or to be pulled; Envoy's
image is the settings' own. The cluster must not have Meshgraft yet.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import (
    KubectlError,
    Object,
    Pod,
    admitted,
    bare_pod,
    get,
    image,
    items,
    kubectl,
    meshgraft,
    ready_pod,
    rolled_out,
    wait_for,
    workload,
)

ENABLED = {"linkerd.io/inject": "enabled"}
MESHED, PLAIN, LABELLED = "meshgraft-test-meshed", "meshgraft-test-plain", "meshgraft-test-off"
AGENT, INJECTOR = "linkerd-cni", "meshgraft"
KINDS = (
    "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,"
    "validatingwebhookconfigurations,priorityclasses"
)
SERVER = """
import http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
WAIT = "import signal; signal.sigwait({signal.SIGTERM})"


def apply(manifests: str) -> None:
    kubectl("apply", "-f", "-", given=manifests)


def image_flags(key: str) -> list[str]:
    name, tag = image()
    return ["--set", f"{key}.name={name}", "--set", f"{key}.version={tag}"]


def install(*flags: str) -> None:
    apply(meshgraft("install", "--linkerd-cni-enabled", *image_flags("meshgraft.image"), *flags))
    rolled_out("deployment", "meshgraft-injector", INJECTOR)


def cluster_objects() -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in items(KINDS)}


@pytest.fixture(scope="module")
def before() -> set[tuple[str, str]]:
    """The cluster's own objects, as they were."""
    return cluster_objects()


@pytest.fixture(scope="module")
def mesh(before: set[tuple[str, str]]) -> Iterator[None]:
    """Both halves installed as the README says, and namespaces to try them in."""
    try:
        apply(meshgraft("install-cni", *image_flags("image")))
        rolled_out("daemonset", "linkerd-cni", AGENT)
        install()
        for name, annotations, labels in (
            (MESHED, ENABLED, {}),
            (PLAIN, {}, {}),
            (LABELLED, ENABLED, {"config.linkerd.io/admission-webhooks": "disabled"}),
        ):
            meta = {"name": name, "annotations": annotations, "labels": labels}
            apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}))
        yield
    finally:
        kubectl("delete", "namespace", MESHED, PLAIN, LABELLED, "--ignore-not-found")
        uninstall()


def uninstall() -> None:
    for flags in ([], ["--cni"]):
        objects = meshgraft("uninstall", *flags)
        kubectl("delete", "--ignore-not-found", "-f", "-", given=objects)


@pytest.fixture(scope="module")
def pods(mesh: None) -> dict[str, Pod]:
    """A server and a client in the mesh, and one of each outside."""
    found = {}
    for namespace in (MESHED, PLAIN):
        apply(json.dumps(workload("server", namespace, SERVER)))
        apply(json.dumps(workload("client", namespace, WAIT)))
    for namespace in (MESHED, PLAIN):
        for name in ("server", "client"):
            found[f"{namespace}/{name}"] = ready_pod(namespace, f"app={name}")
    return found


def counted(asking: Pod, about: Pod, way: str) -> int:
    """Requests that a pod's proxy carried, by what it shows to the pod network."""
    status, text = asking.fetch(f"http://{about.address}:4191/metrics")
    assert status == 200
    pattern = rf'^envoy_http_downstream_rq_total{{envoy_http_conn_manager_prefix="{way}"}} (\d+)'
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0


class TestTraffic:
    """What the mesh is for."""

    def test_pods_of_an_annotated_namespace_are_meshed_and_no_others(
        self, pods: dict[str, Pod]
    ) -> None:
        meshed = {name: pod.is_meshed for name, pod in pods.items()}
        assert meshed == {name: name.startswith(MESHED) for name in pods}

    def test_no_container_of_a_meshed_pod_may_change_the_network(
        self, pods: dict[str, Pod]
    ) -> None:
        pod = pods[f"{MESHED}/server"]
        spec = get("pod", pod.name, pod.namespace)["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            added = container.get("securityContext", {}).get("capabilities", {}).get("add", [])
            assert added == [], container["name"]

    def test_both_proxies_carry_a_request(self, pods: dict[str, Pod]) -> None:
        client, server = pods[f"{MESHED}/client"], pods[f"{MESHED}/server"]
        asking = pods[f"{PLAIN}/client"]
        before = counted(asking, client, "outbound"), counted(asking, server, "inbound")
        for _ in range(5):
            status, seen = client.fetch(f"http://{server.address}:8080/")
            assert status == 200
            assert seen == "127.0.0.1" or seen == server.address, "it did not come from the proxy"
        after = counted(asking, client, "outbound"), counted(asking, server, "inbound")
        assert (after[0] - before[0], after[1] - before[1]) == (5, 5)

    def test_a_pod_outside_reaches_one_within_and_the_other_way_round(
        self, pods: dict[str, Pod]
    ) -> None:
        for one, other in ((MESHED, PLAIN), (PLAIN, MESHED), (PLAIN, PLAIN)):
            status, _ = pods[f"{one}/client"].fetch(
                f"http://{pods[f'{other}/server'].address}:8080"
            )
            assert status == 200

    def test_the_agent_logged_each_meshed_pod(self, pods: dict[str, Pod]) -> None:
        logs = "".join(
            kubectl("-n", AGENT, "logs", one["metadata"]["name"])
            for one in items("pods", "-n", AGENT)
        )
        for pod in pods.values():
            if pod.is_meshed:
                assert f"{pod.namespace}/{pod.name}" in logs


@pytest.mark.usefixtures("mesh")
class TestAdmission:
    """Who is asked about, and what an outage does."""

    def test_kube_system_and_labelled_namespaces_are_left_alone(self) -> None:
        assert admitted(bare_pod(MESHED)).is_meshed
        for namespace in ("kube-system", LABELLED, PLAIN):
            assert not admitted(bare_pod(namespace)).is_meshed, namespace
        assert not admitted(bare_pod("kube-system", **ENABLED)).is_meshed
        assert admitted(bare_pod(PLAIN, **ENABLED)).is_meshed

    def test_a_bad_value_is_a_warning_and_no_refusal(self) -> None:
        pod = bare_pod(MESHED, **{"config.linkerd.io/proxy-uid": "root"})
        assert admitted(pod).is_meshed

    @pytest.mark.parametrize("policy", ["Ignore", "Fail"])
    def test_the_failure_policy_decides_while_the_injector_is_away(self, policy: str) -> None:
        install("--webhook-failure-policy", policy)
        try:
            self._scale(0)
            if policy == "Ignore":
                assert not admitted(bare_pod(MESHED)).is_meshed
            else:
                with pytest.raises(KubectlError, match="meshgraft"):
                    admitted(bare_pod(MESHED))
            assert not admitted(bare_pod("kube-system")).is_meshed
        finally:
            install()
        assert wait_for(lambda: admitted(bare_pod(MESHED)).is_meshed or None, "not injected again")

    def _scale(self, replicas: int) -> None:
        kubectl("-n", INJECTOR, "scale", "deployment/meshgraft-injector", f"--replicas={replicas}")

        def gone() -> bool | None:
            return None if items("pods", "-n", INJECTOR) else True

        wait_for(gone, "the injector did not go")

    def test_a_rolling_restart_refuses_no_pod(self) -> None:
        nodes = [one for one in items("nodes") if not one["spec"].get("unschedulable")]
        flags = ["--ha"] if len(nodes) >= 3 else ["--controller-replicas", "2"]
        install(*flags, "--webhook-failure-policy", "Fail")
        stop, outcomes = threading.Event(), list[bool]()

        def ask() -> None:
            while not stop.is_set():
                outcomes.append(admitted(bare_pod(MESHED)).is_meshed)

        def watched() -> None:
            try:
                ask()
            except Exception as error:  # noqa: BLE001 - told to the test, below
                problems.append(error)

        problems: list[Exception] = []
        threads = [threading.Thread(target=watched) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            kubectl("-n", INJECTOR, "rollout", "restart", "deployment/meshgraft-injector")
            rolled_out("deployment", "meshgraft-injector", INJECTOR)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert problems == []
        assert len(outcomes) > 20
        assert all(outcomes)
        install()  # pods in the mesh would have other resources under --ha, and the audit say so


class TestAgentAway:
    """The node half, when its agent is not there."""

    def test_a_meshed_pod_waits_for_the_agent_and_another_does_not(
        self, pods: dict[str, Pod]
    ) -> None:
        nowhere = {"meshgraft.io/no-such-node": "true"}
        self._select({"kubernetes.io/os": "linux", **nowhere})
        try:

            def gone() -> bool | None:
                return None if items("pods", "-n", AGENT) else True

            wait_for(gone, "the agents did not go")
            for namespace in (MESHED, PLAIN):
                apply(json.dumps(workload("late", namespace, WAIT)))
            assert not ready_pod(PLAIN, "app=late").is_meshed

            def refused() -> str | None:
                events = items("events", "-n", MESHED)
                texts = [
                    one["message"] for one in events if "late" in one["involvedObject"]["name"]
                ]
                return next((text for text in texts if "linkerd-cni" in text), None)

            assert "agent" in wait_for(refused, "nobody said why the meshed pod does not start")
        finally:
            self._select({"kubernetes.io/os": "linux"})
        rolled_out("daemonset", "linkerd-cni", AGENT)
        late = ready_pod(MESHED, "app=late")
        server = pods[f"{MESHED}/server"]
        asking = pods[f"{PLAIN}/client"]
        before = counted(asking, late, "outbound")
        assert late.fetch(f"http://{server.address}:8080/")[0] == 200
        assert counted(asking, late, "outbound") == before + 1

    def _select(self, selector: Object) -> None:
        path = "/spec/template/spec/nodeSelector"
        patch = json.dumps([{"op": "replace", "path": path, "value": selector}])
        place = ("-n", AGENT, "patch", "daemonset", "linkerd-cni")
        kubectl(*place, "--type=json", "-p", patch)


class TestQuestions:
    """What an operator asks."""

    @pytest.mark.usefixtures("pods")
    def test_check_finds_nothing_wrong(self) -> None:
        told = json.loads(meshgraft("check", "--linkerd-cni-enabled", "-o", "json"))
        results = [one for each in told["categories"] for one in each["checks"]]
        assert [one for one in results if one["result"] == "error"] == []
        assert told["success"] is True

    def test_audit_finds_nothing_wrong_and_explains_a_pod(self, pods: dict[str, Pod]) -> None:
        meshgraft("audit", "-n", MESHED)  # ends with 1 where it finds anything
        meshed = pods[f"{MESHED}/client"]
        assert "linkerd.io/inject" in meshgraft("audit", "-n", MESHED, f"pod/{meshed.name}")


def test_uninstall_leaves_nothing(mesh: None, before: set[tuple[str, str]]) -> None:
    kubectl("delete", "namespace", MESHED, PLAIN, LABELLED)
    uninstall()

    def same() -> bool | None:
        return True if cluster_objects() <= before else None

    wait_for(same, f"left: {cluster_objects() - before}")
    assert "linkerd-cni" not in _files_of_a_node()


def _files_of_a_node() -> str:
    """The CNI configurations of one node, read by a pod that starts without the plugin."""
    pod = bare_pod("default")
    name_of_image, tag = image()
    pod["metadata"] = {"name": "meshgraft-test-looks", "namespace": "default"}
    mount = {"name": "cni", "mountPath": "/cni", "readOnly": True}
    code = (
        "import pathlib; print([(p.name, p.read_text()) for p in pathlib.Path('/cni').iterdir()])"
    )
    pod["spec"] = {
        "restartPolicy": "Never",
        "volumes": [{"name": "cni", "hostPath": {"path": "/etc/cni/net.d"}}],
        "containers": [
            {
                "name": "app",
                "image": f"{name_of_image}:{tag}",
                "command": ["/opt/meshgraft/bin/python", "-c", code],
                "securityContext": {"runAsUser": 0},
                "volumeMounts": [mount],
            }
        ],
    }
    apply(json.dumps(pod))
    try:

        def done() -> bool | None:
            phase = get("pod", "meshgraft-test-looks", "default")["status"].get("phase")
            return True if phase == "Succeeded" else None

        wait_for(done, "the pod that looks at its node did not end")
        return kubectl("-n", "default", "logs", "meshgraft-test-looks")
    finally:
        kubectl("-n", "default", "delete", "pod", "meshgraft-test-looks", "--wait=false")
