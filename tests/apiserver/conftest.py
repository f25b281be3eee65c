"""One API server for all tests of this folder, and the webhook registered with it."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certificates.x509 import Authority, issue_authority, issue_serving, write_pair
from meshgraft.lab.process import Process
from tests.apiserver import control_plane
from tests.apiserver.control_plane import ControlPlane, Object, free_port

LABEL = "config.linkerd.io/admission-webhooks"
NOT_SYSTEM = [
    {"key": LABEL, "operator": "NotIn", "values": ["disabled"]},
    {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-system", "cert-manager"],
    },
]


def configuration(
    name: str, url: str, authority: Authority, policy: str, *more: Object, timeout: int = 10
) -> Object:
    """A MutatingWebhookConfiguration as the charts render it, with a URL in place of a Service.

    ``more`` narrows down the namespaces that are sent.
    """
    ca_bundle = base64.b64encode(authority.pem).decode()
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": f"{name}.linkerd.io",
                "clientConfig": {"url": url, "caBundle": ca_bundle},
                "admissionReviewVersions": ["v1", "v1beta1"],
                "sideEffects": "NoneOnDryRun",
                "failurePolicy": policy,
                "reinvocationPolicy": "IfNeeded",
                "timeoutSeconds": timeout,
                "namespaceSelector": {"matchExpressions": [*NOT_SYSTEM, *more]},
                "rules": [
                    {
                        "operations": ["CREATE"],
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["pods", "services"],
                        "scope": "Namespaced",
                    }
                ],
            }
        ],
    }


class Webhook:
    """A ``meshgraft webhook`` process that works for the API server."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        """Issue a first certificate; nothing runs yet."""
        self.authority = issue_authority(datetime.now(UTC))
        self.cert_dir = folder / "tls"
        self.url = f"https://127.0.0.1:{free_port()}/"
        self._plane = plane
        self._log = folder / "webhook.log"
        self._process: Process | None = None
        self.renew_certificate()

    def renew_certificate(self) -> None:
        """Put a new pair of the same authority in place."""
        pair = issue_serving(self.authority, ["127.0.0.1", "localhost"], datetime.now(UTC))
        write_pair(self.cert_dir, self.authority, pair)

    def start(self) -> None:
        """Start it, and wait until it knows the cluster's namespaces."""
        listen = self.url.removeprefix("https://").rstrip("/")
        argv = [sys.executable, "-m", "meshgraft", "webhook", f"--listen={listen}"]
        argv += ["--metrics-listen=127.0.0.1:0", "--shutdown-delay=0"]
        argv += [f"--kubeconfig={self._plane.kubeconfig}", f"--cert-dir={self.cert_dir}"]
        self._process = Process("webhook", argv, self._log)
        self._process.wait_for(lambda: self.logged("serving"), "not serving")
        self._process.wait_for(lambda: self.logged("namespaces listed"), "no namespaces")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def wait_for(self, message: str) -> None:
        """Wait until it logs this."""
        assert self._process is not None
        self._process.wait_for(lambda: self.logged(message), f"did not log {message!r}")

    def logged(self, message: str) -> Object | None:
        """The log's first such line."""
        for text in self._log.read_text().splitlines():
            if text.startswith("{") and text.endswith("}"):
                line: Object = json.loads(text)
                if line["msg"] == message:
                    return line
        return None


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The API server; skipped by name where its programs are not there."""
    lacking = control_plane.missing()
    if lacking:
        pytest.skip(f"KUBEBUILDER_ASSETS has no {', '.join(lacking)}: no bare API server here")
    with control_plane.running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def webhook(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """The webhook, registered with failurePolicy Fail for the namespaces below."""
    webhook = Webhook(plane, tmp_path_factory.mktemp("webhook"))
    try:
        webhook.start()
        mine = {"key": "test.meshgraft.io/stand-in", "operator": "DoesNotExist"}
        plane.create(configuration("meshgraft", webhook.url, webhook.authority, "Fail", mine))
        _until_asked(plane)
        yield webhook
    finally:
        webhook.stop()


def _until_asked(plane: ControlPlane) -> None:
    """Wait until the API server has taken up the webhook's configuration."""
    meta = {"name": "probe", "annotations": {"linkerd.io/inject": "enabled"}}
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": "probe"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    }
    deadline = time.monotonic() + 20
    while "initContainers" not in plane.create(pod, "--dry-run=server").object["spec"]:
        if time.monotonic() > deadline:
            raise TimeoutError("the API server never asked the webhook")
