"""The webhook behind a real API server: who is sent to it, what comes of it, and its failures."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from certificates.x509 import (
    Authority,
    issue_authority,
    issue_serving,
    load,
    server_context,
    write_pair,
)
from tests.apiserver.conftest import LABEL, Webhook, configuration
from tests.apiserver.control_plane import ControlPlane, KubectlError, Object

ENABLED = {"linkerd.io/inject": "enabled"}
_numbers = itertools.count()


@pytest.fixture
def namespace(plane: ControlPlane, webhook: Webhook) -> str:
    """A namespace in which injection is on."""
    return made(plane, annotations=ENABLED)


def made(plane: ControlPlane, **metadata: Any) -> str:
    name = f"test-{next(_numbers)}"
    meta = {"name": name, **metadata}
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    return name


def pod(namespace: str, **annotations: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "app-", "namespace": namespace, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    }


def containers(obj: Object) -> list[str]:
    spec = obj["spec"]
    return [one["name"] for one in (*spec.get("initContainers", []), *spec["containers"])]


def is_injected(obj: Object) -> bool:
    return "envoy-proxy" in containers(obj)


# Who is injected


def test_a_pod_in_an_annotated_namespace_is_injected_and_valid(
    plane: ControlPlane, namespace: str
) -> None:
    created = plane.create(pod(namespace)).object
    assert is_injected(created)
    assert created["metadata"]["annotations"]["meshgraft.io/profile"] == "envoy"


def test_the_pods_own_annotation_decides_where_the_namespace_says_nothing(
    plane: ControlPlane, webhook: Webhook
) -> None:
    where = made(plane)
    assert not is_injected(plane.create(pod(where)).object)
    assert is_injected(plane.create(pod(where, **ENABLED)).object)


def test_an_annotation_on_the_namespace_counts_at_once(
    plane: ControlPlane, webhook: Webhook
) -> None:
    where = made(plane)
    assert not is_injected(plane.create(pod(where)).object)
    plane.kubectl("annotate", "namespace", where, "linkerd.io/inject=enabled")
    deadline = time.monotonic() + 5
    while not is_injected(plane.create(pod(where), "--dry-run=server").object):
        assert time.monotonic() < deadline


def test_a_namespace_with_the_label_is_never_sent(plane: ControlPlane, webhook: Webhook) -> None:
    where = made(plane, annotations=ENABLED, labels={LABEL: "disabled"})
    webhook.stop()
    try:
        # Failure policy Fail, and nobody there: what is sent would be refused.
        assert not is_injected(plane.create(pod(where)).object)
    finally:
        webhook.start()


def test_kube_system_is_never_sent(plane: ControlPlane, webhook: Webhook) -> None:
    webhook.stop()
    try:
        assert not is_injected(plane.create(pod("kube-system")).object)
    finally:
        webhook.start()


# Templates

TEMPLATE: Object = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {
        "containers": [
            {
                "name": "app",
                "image": "app:1",
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
            }
        ]
    },
}
JOB_TEMPLATE: Object = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
SELECTED: Object = {"selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE}
WORKLOADS: dict[str, tuple[str, Object]] = {
    "Deployment": ("apps/v1", SELECTED),
    "StatefulSet": ("apps/v1", {**SELECTED, "serviceName": "web"}),
    "DaemonSet": ("apps/v1", SELECTED),
    "Job": ("batch/v1", {"template": JOB_TEMPLATE}),
    "CronJob": (
        "batch/v1",
        {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": JOB_TEMPLATE}}},
    ),
}


def reference(obj: Object) -> Object:
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
    }


def between(plane: ControlPlane, workload: Object) -> Object:
    """What a controller would put between a workload and its pods; the workload else."""
    kinds = {"Deployment": ("apps/v1", "ReplicaSet"), "CronJob": ("batch/v1", "Job")}
    if workload["kind"] not in kinds:
        return workload
    api_version, kind = kinds[workload["kind"]]
    spec = SELECTED if kind == "ReplicaSet" else {"template": JOB_TEMPLATE}
    meta = {
        "name": f"{workload['metadata']['name']}-1",
        "namespace": workload["metadata"]["namespace"],
        "ownerReferences": [reference(workload)],
    }
    return plane.create(
        {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}
    ).object


def workload(plane: ControlPlane, namespace: str, kind: str) -> tuple[Object, Object]:
    """A workload, and a pod as its controller would make it from the template."""
    api_version, spec = WORKLOADS[kind]
    meta = {"name": "web", "namespace": namespace}
    top = plane.create(
        {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}
    ).object
    template = JOB_TEMPLATE if kind in ("Job", "CronJob") else TEMPLATE
    made_pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "generateName": "web-",
            "namespace": namespace,
            "ownerReferences": [reference(between(plane, top))],
        },
        "spec": template["spec"],
    }
    return top, made_pod


@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_workloads_pod_is_injected_valid_and_told_to_the_workload(
    plane: ControlPlane, namespace: str, kind: str
) -> None:
    top, given = workload(plane, namespace, kind)
    created = plane.create(given).object
    assert is_injected(created)
    deadline = time.monotonic() + 10
    while not (events := told(plane, namespace)):
        assert time.monotonic() < deadline, "no event"
    assert events == [(kind, top["metadata"]["uid"], "Injected", "linkerd-proxy-injector")]


def told(plane: ControlPlane, namespace: str) -> list[tuple[str, str, str, str]]:
    listed = plane.kubectl("get", "events", "-n", namespace, "-o", "json").object
    return [
        (
            item["involvedObject"]["kind"],
            item["involvedObject"]["uid"],
            item["reason"],
            item["source"]["component"],
        )
        for item in listed["items"]
    ]


# What people see


def test_a_bad_value_admits_and_warns(plane: ControlPlane, namespace: str) -> None:
    answer = plane.create(pod(namespace, **{"config.linkerd.io/proxy-cpu-request": "much"}))
    assert is_injected(answer.object)
    assert "Warning: " in answer.stderr
    assert "config.linkerd.io/proxy-cpu-request" in answer.stderr


def test_a_dry_run_shows_the_proxy_and_leaves_nothing(plane: ControlPlane, namespace: str) -> None:
    _, given = workload(plane, namespace, "StatefulSet")
    assert is_injected(plane.create(given, "--dry-run=server").object)
    # Events go out in order: this one's is the first, or the dry run has left one.
    skipped = {**given, "spec": {**given["spec"], "hostNetwork": True}}
    plane.create(skipped)
    deadline = time.monotonic() + 10
    while not (events := told(plane, namespace)):
        assert time.monotonic() < deadline, "no event"
    assert [reason for _, _, reason, _ in events] == ["InjectionSkipped"]
    pods = plane.kubectl("get", "pods", "-n", namespace, "-o", "json").object["items"]
    assert len(pods) == 1


# Failures


Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class StandIn:
    """A server in the webhook's place, and how often it was asked."""

    url: str
    authority: Authority
    asked: list[str]


@contextmanager
def stand_in(folder: Path, reply: Reply) -> Iterator[StandIn]:
    """A TLS server that replies as it is told to."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            reply(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    authority, now = issue_authority(datetime.now(UTC)), datetime.now(UTC)
    write_pair(folder, authority, issue_serving(authority, ["127.0.0.1"], now))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = server_context(load(folder, now)).wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield StandIn(f"https://127.0.0.1:{server.server_port}/", authority, asked)
    finally:
        server.shutdown()
        server.server_close()


def replies_500(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(500, "as the test wants it")


def replies_late(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)
    with suppress(OSError):
        replies_500(handler)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
@pytest.mark.parametrize("reply", [replies_500, replies_late, hangs_up])
def test_the_failure_policy_decides_where_there_is_no_answer(
    plane: ControlPlane, tmp_path: Path, policy: str, reply: Reply
) -> None:
    label, value = "test.meshgraft.io/stand-in", f"{reply.__name__}-{policy}".replace("_", "-")
    where = made(plane, labels={label: value})
    only = {"key": label, "operator": "In", "values": [value]}
    with stand_in(tmp_path, reply) as server:
        name = f"stand-in-{value}".lower()
        plane.create(configuration(name, server.url, server.authority, policy, only, timeout=1))
        try:
            refused = refusal(plane, where, server)
        finally:
            plane.kubectl("delete", "mutatingwebhookconfiguration", name)
    assert ("failed calling webhook" in refused) == (policy == "Fail")


def refusal(plane: ControlPlane, namespace: str, server: StandIn) -> str:
    """What the first pod for which the stand-in was asked is refused with; empty: admitted."""
    deadline = time.monotonic() + 20
    while True:
        try:
            plane.create(pod(namespace), "--dry-run=server")
            text = ""
        except KubectlError as error:
            text = str(error)
        if server.asked:
            return text
        # The API server has not taken up the new configuration yet.
        if time.monotonic() > deadline:
            raise TimeoutError("the stand-in was never asked")


def test_a_webhook_that_is_down_refuses_under_fail(
    plane: ControlPlane, webhook: Webhook, namespace: str
) -> None:
    webhook.stop()
    try:
        with pytest.raises(KubectlError, match="failed calling webhook"):
            plane.create(pod(namespace))
    finally:
        webhook.start()
    assert is_injected(plane.create(pod(namespace)).object)


# Upkeep


def test_certificates_are_swapped_under_load_and_no_pod_is_refused(
    plane: ControlPlane, webhook: Webhook, namespace: str
) -> None:
    def create(_: int) -> bool:
        return is_injected(plane.create(pod(namespace), "--dry-run=server").object)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(create, number) for number in range(60)]
        for _ in range(5):
            webhook.renew_certificate()
            time.sleep(0.5)
        assert all(future.result() for future in asked)
    webhook.wait_for("reloaded")


def test_a_restart_of_the_api_server_is_survived(
    plane: ControlPlane, webhook: Webhook, namespace: str
) -> None:
    plane.stop_apiserver()
    webhook.wait_for("cannot watch namespaces")
    plane.start_apiserver()
    assert is_injected(plane.create(pod(namespace)).object)
    assert is_injected(plane.create(pod(made(plane, annotations=ENABLED))).object)
