"""The mesh on a real cluster, in order: install, mTLS between Deployments, and what goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import (
    Pod,
    image,
    items,
    kubectl,
    meshgraft,
    ready_pod,
    rolled_out,
    wait_for,
    workload,
)

NAMESPACE, PLAIN = "meshgraft-test-mesh", "meshgraft-test-unmeshed"
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (self.headers.get("x-forwarded-client-cert") or "nobody").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
WAIT = "import signal; signal.sigwait({signal.SIGTERM})"
URL = f"http://server.{NAMESPACE}.svc.cluster.local/"


def apply(*objects: object) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl("apply", "-f", "-", given=json.dumps(listed))


def namespace(name: str, **annotations: str) -> object:
    meta = {"name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


@pytest.fixture(scope="module")
def mesh() -> Iterator[None]:
    """Everything installed by the two commands, and ready."""
    name, tag = image()
    try:
        flags = ["--set", f"image.name={name}", "--set", f"image.version={tag}"]
        kubectl("apply", "-f", "-", given=meshgraft("install-cni", "--mesh", *flags))
        flags = [each.replace("image.", "meshgraft.image.") for each in flags]
        kubectl("apply", "-f", "-", given=meshgraft("install", "--mesh", *flags))
        rolled_out("daemonset", "linkerd-cni", "linkerd-cni")
        for part in ("injector", "identity", "control"):
            rolled_out("deployment", f"meshgraft-{part}", "meshgraft")
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, PLAIN, "--ignore-not-found")
        for extra in ([], ["--cni"]):
            objects = meshgraft("uninstall", *extra)
            kubectl("delete", "--ignore-not-found", "-f", "-", given=objects)


@pytest.fixture(scope="module")
def client(mesh: None) -> Pod:
    apply(
        namespace(NAMESPACE, **{"linkerd.io/inject": "enabled"}),
        namespace(PLAIN),
        *(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": one, "namespace": NAMESPACE},
            }
            for one in ("server", "client")
        ),
    )
    for name, code in (("server", SERVER), ("client", WAIT)):
        made = workload(name, NAMESPACE, code)
        made["spec"]["template"]["spec"]["serviceAccountName"] = name
        apply(made)
    apply(workload("client", PLAIN, WAIT))
    service = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    meta = {"name": "server", "namespace": NAMESPACE}
    apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service})
    ready_pod(NAMESPACE, "app=server")
    return ready_pod(NAMESPACE, "app=client")


def proven(client: Pod) -> bool | None:
    """True once the server has seen who the client is."""
    status, body = client.fetch(URL)
    wanted = f"URI=spiffe://cluster.local/ns/{NAMESPACE}/sa/client"
    return True if status == 200 and wanted in body else None


def test_both_ends_are_proven(client: Pod) -> None:
    wait_for(lambda: proven(client), "the server does not see who the client is")


def test_a_pod_outside_is_served_and_proves_nothing(client: Pod) -> None:
    outside = ready_pod(PLAIN, "app=client")
    assert not outside.is_meshed
    assert outside.fetch(URL) == (200, "nobody")


def test_with_control_away_traffic_goes_on(client: Pod) -> None:
    wait_for(lambda: proven(client), "no mTLS")
    kubectl("-n", "meshgraft", "scale", "deployment/meshgraft-control", "--replicas=0")
    wait_for(lambda: True if not control() else None, "control does not go")
    assert all(proven(client) for _ in range(5))
    kubectl("-n", "meshgraft", "scale", "deployment/meshgraft-control", "--replicas=1")
    rolled_out("deployment", "meshgraft-control", "meshgraft")


def control() -> list[object]:
    selector = "app.kubernetes.io/component=control"
    return list(items("pods", "-n", "meshgraft", "-l", selector))


def test_agent_and_relay_are_replaced_without_a_trace(client: Pod) -> None:
    kubectl("-n", "linkerd-cni", "rollout", "restart", "daemonset/linkerd-cni")
    assert all(proven(client) for _ in range(5))
    rolled_out("daemonset", "linkerd-cni", "linkerd-cni")
    wait_for(lambda: proven(client), "no mTLS after the relay was replaced")


def test_a_new_pod_is_served_by_the_relay_that_there_is_now(client: Pod) -> None:
    kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/server")
    rolled_out("deployment", "server", NAMESPACE)
    ready_pod(NAMESPACE, "app=server")
    wait_for(lambda: proven(client), "no mTLS with the new server")
