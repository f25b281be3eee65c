"""A bare API server: etcd and kube-apiserver on loopback, and kubectl to talk to them.

The programs are found as envtest finds them: in the folder that KUBEBUILDER_ASSETS names. There
is no controller, no scheduler and no node, so pods are made by hand and stay pending.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshgraft.lab.process import Process

ASSETS = Path(os.environ.get("KUBEBUILDER_ASSETS", ""))
PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
SECONDS = 60.0
GRACE_SECONDS = 3.0
Object = dict[str, Any]


def missing() -> list[str]:
    """The programs that are not there."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        return list(PROGRAMS)
    return [name for name in PROGRAMS if not os.access(ASSETS / name, os.X_OK)]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class KubectlError(Exception):
    """kubectl ended with an error; the text is what it said."""


@dataclass
class Answer:
    """What kubectl printed: objects on stdout, warnings on stderr."""

    stdout: str
    stderr: str

    @property
    def object(self) -> Object:
        """The object that was printed with ``-o json``."""
        found: Object = json.loads(self.stdout)
        return found


class ControlPlane:
    """etcd and kube-apiserver, which can be stopped and started again on the same state."""

    def __init__(self, folder: Path) -> None:
        """Prepare keys and configuration; nothing runs yet."""
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self._etcd: Process | None = None
        self._apiserver: Process | None = None
        self._authority = trustme.CA()
        self._write_files()

    def _write_files(self) -> None:
        self._authority.cert_pem.write_to_path(str(self.folder / "ca.crt"))
        leaf = self._authority.issue_cert("127.0.0.1", "localhost")
        (self.folder / "tls.crt").write_bytes(b"".join(c.bytes() for c in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(self.folder / "tls.key"))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (self.folder / "tokens.csv").write_text("secret,admin,0,system:masters\n")
        cluster = {"server": self._url, "certificate-authority": str(self.folder / "ca.crt")}
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(tree))

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def start_etcd(self) -> None:
        """Start etcd; the API server waits for it by itself."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        argv = [str(ASSETS / "etcd"), f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync"]
        argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        argv += [f"--initial-cluster=default={peer}"]
        self._etcd = Process("etcd", argv, self.folder / "etcd.log")

    def start_apiserver(self) -> None:
        """Start kube-apiserver and wait until it is ready."""
        argv = [
            str(ASSETS / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder}",
            f"--tls-cert-file={self.folder / 'tls.crt'}",
            f"--tls-private-key-file={self.folder / 'tls.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--service-account-issuer={self._url}/",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            # No controller makes service accounts here, and pods must not wait for one.
            "--disable-admission-plugins=ServiceAccount",
        ]
        self._apiserver = Process("kube-apiserver", argv, self.folder / "apiserver.log")
        self._apiserver.wait_for(self._ready, "not ready", SECONDS)

    def stop_apiserver(self) -> None:
        """End kube-apiserver alone; etcd keeps the state."""
        if self._apiserver is not None:
            # By itself it would wait a minute for whoever watches; a crash does not wait either.
            self._apiserver.stop(grace=GRACE_SECONDS)

    def stop(self) -> None:
        """End both."""
        self.stop_apiserver()
        if self._etcd is not None:
            self._etcd.stop()

    def _ready(self) -> bool | None:
        trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        request = urllib.request.Request(f"{self._url}/readyz")
        request.add_header("authorization", "Bearer secret")
        try:
            with urllib.request.urlopen(request, context=trust, timeout=5) as response:
                return True if response.status == 200 else None
        except urllib.error.HTTPError as error:
            error.close()
            return None

    def kubectl(self, *argv: str, given: Object | None = None) -> Answer:
        """Run kubectl, with an object on its stdin where one is given.

        Raises:
            KubectlError: it ended with an error.
        """
        ended = subprocess.run(
            [str(ASSETS / "kubectl"), f"--kubeconfig={self.kubeconfig}", *argv],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if ended.returncode:
            raise KubectlError(ended.stderr)
        return Answer(ended.stdout, ended.stderr)

    def create(self, obj: Object, *flags: str) -> Answer:
        """``kubectl create``; the answer's object is what the API server made of it."""
        return self.kubectl("create", "-f", "-", "-o", "json", *flags, given=obj)


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """A control plane that is ready, and gone afterwards."""
    plane = ControlPlane(folder)
    try:
        plane.start_etcd()
        plane.start_apiserver()
        yield plane
    finally:
        plane.stop()
