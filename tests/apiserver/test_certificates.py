"""The injector's own certificates on a real API server, with no more rights than they need."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from structlog.testing import capture_logs

from certificates.authority import Policy
from certificates.ca_bundle import bundles
from certificates.keeper import parse_kept
from certificates.live import LiveCertificate
from certificates.replica import work_of_replica
from certificates.x509 import issue_authority
from injector.service.metrics import Metrics
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from process.background import keep_running
from tests.apiserver.conftest import configuration
from tests.apiserver.control_plane import ControlPlane, KubectlError, Object
from tests.injector.cert_support import SERVICE, accepts
from tests.kubeapi.fake_apiserver import until

NAMESPACE, ACCOUNT, HOOKS = "certificates", "injector", "certificates-hooks"
KEPT = parse_kept(f"{NAMESPACE}/tls", HOOKS, f"{NAMESPACE}/lease")


def rule(group: str, resource: str, *verbs: str, name: str = "") -> Object:
    names = {"resourceNames": [name]} if name else {}
    return {"apiGroups": [group], "resources": [resource], "verbs": [*verbs], **names}


def rights() -> list[Object]:
    """Role, ClusterRole and their bindings: all that a replica may do."""
    api = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    everywhere, here = {"name": NAMESPACE}, {"name": NAMESPACE, "namespace": NAMESPACE}
    roles = {
        "Role": [
            rule("", "secrets", "get", "list", "watch", "update", name="tls"),
            rule("", "secrets", "create"),
            rule("coordination.k8s.io", "leases", "get", "update", name="lease"),
            rule("coordination.k8s.io", "leases", "create"),
        ],
        "ClusterRole": [
            rule(
                "admissionregistration.k8s.io",
                "mutatingwebhookconfigurations",
                *("get", "list", "watch", "update"),
                name=HOOKS,
            )
        ],
    }
    found: list[Object] = []
    for kind, rules in roles.items():
        meta = here if kind == "Role" else everywhere
        common = {"apiVersion": f"{api}/v1", "metadata": meta}
        ref = {"apiGroup": api, "kind": kind, "name": NAMESPACE}
        found.append({**common, "kind": kind, "rules": rules})
        found.append({**common, "kind": f"{kind}Binding", "subjects": [subject], "roleRef": ref})
    return found


@pytest.fixture(scope="module")
def kubeconfig(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a service account with these rights."""
    meta = {"name": NAMESPACE}
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    meta = {"name": ACCOUNT, "namespace": NAMESPACE}
    plane.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    for obj in rights():
        plane.create(obj)
    tree = yaml.safe_load(plane.kubeconfig.read_text())
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = plane.kubectl("create", "--raw", path, "-f", "-", given=asked)
    tree["users"][0]["user"] = {"token": answer.object["status"]["token"]}
    file = tmp_path_factory.mktemp("account") / "kubeconfig"
    file.write_text(yaml.safe_dump(tree))
    return file


def hooks() -> Object:
    """The configuration without a caBundle; it is sent nothing of this cluster."""
    nowhere = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["nowhere"]}
    authority = issue_authority(datetime.now(UTC))
    found = configuration(HOOKS, "https://127.0.0.1:9/", authority, "Ignore", nowhere)
    del found["webhooks"][0]["clientConfig"]["caBundle"]
    return found


@contextlib.asynccontextmanager
async def replica(kubeconfig: Path, name: str) -> AsyncIterator[LiveCertificate]:
    api, live = ApiServer(load_config(kubeconfig)), LiveCertificate()
    policy = Policy(sans=(SERVICE,))
    work = work_of_replica(api, KEPT, policy, live, Metrics("test"), name=name)
    tasks = [asyncio.create_task(keep_running(*each)) for each in work.items()]
    try:
        yield live
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await api.close()


class Cluster:
    """What an administrator sees and does."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def kubectl(self, *argv: str, given: Object | None = None) -> str:
        answer = await asyncio.to_thread(self._plane.kubectl, *argv, given=given)
        return answer.stdout

    async def get(self, resource: str, name: str) -> dict[str, Any] | None:
        try:
            text = await self.kubectl("get", resource, name, "-n", NAMESPACE, "-o", "yaml")
        except KubectlError:
            return None
        found: dict[str, Any] = yaml.safe_load(text)
        return found

    async def bundle(self) -> bytes:
        return bundles(await self.get("mutatingwebhookconfigurations", HOOKS))[0]

    async def until_bundle(self, certificates: int) -> None:
        async with asyncio.timeout(20):
            while (await self.bundle()).count(b"BEGIN") != certificates:
                await asyncio.sleep(0.1)


def shown(live: LiveCertificate) -> Any:
    assert live.current is not None
    return live.current.certificate


def test_two_replicas_keep_their_certificates_with_the_rights_that_are_told(
    plane: ControlPlane, kubeconfig: Path
) -> None:
    async def test() -> None:
        cluster = Cluster(plane)
        await cluster.kubectl("create", "-f", "-", given=hooks())
        async with replica(kubeconfig, "one") as one, replica(kubeconfig, "two") as two:
            await until(lambda: not one.problem() and not two.problem(), 20)
            assert shown(one) == shown(two)
            await cluster.until_bundle(1)
            assert accepts(await cluster.bundle(), shown(one), datetime.now(UTC))
            secret = await cluster.get("secret", "tls")
            assert secret is not None
            assert secret["type"] == "kubernetes.io/tls"
            lease = await cluster.get("lease", "lease")
            assert lease is not None
            assert lease["spec"]["holderIdentity"] in ("one", "two")

            # Somebody applies the manifests anew.
            await cluster.kubectl("replace", "-f", "-", given=hooks())
            await cluster.until_bundle(1)

            # The Secret is lost: what is shown goes on, beside a new CA.
            before = shown(one)
            await cluster.kubectl("delete", "secret", "tls", "-n", NAMESPACE)
            await cluster.until_bundle(2)
            assert shown(one) == before
            lost = await cluster.get("secret", "tls")
            assert lost is not None
            assert base64.b64decode(lost["data"]["ca.crt"]).count(b"BEGIN") == 2
        released = await cluster.get("lease", "lease")
        assert released is not None
        assert not released["spec"].get("holderIdentity")

    structlog.reset_defaults()
    with capture_logs() as lines:
        asyncio.run(test())
    # A right that is missing would be told of here, and the looks once a minute would hide it.
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []


def test_objects_that_were_made_empty_beforehand_are_taken(
    plane: ControlPlane, kubeconfig: Path
) -> None:
    """So that a cluster need not allow the creation of Secrets and Leases."""

    async def test() -> None:
        cluster = Cluster(plane)
        for resource in ("secret/tls", "lease/lease", f"mutatingwebhookconfiguration/{HOOKS}"):
            await cluster.kubectl("delete", resource, "-n", NAMESPACE, "--ignore-not-found")
        await cluster.kubectl("create", "-f", "-", given=hooks())
        meta = {"name": "tls", "namespace": NAMESPACE}
        empty = {"tls.crt": "", "tls.key": ""}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
        await cluster.kubectl(
            "create", "-f", "-", given={**secret, "metadata": meta, "data": empty}
        )
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        meta = {"name": "lease", "namespace": NAMESPACE}
        await cluster.kubectl("create", "-f", "-", given={**lease, "metadata": meta})
        async with replica(kubeconfig, "one") as one:
            await until(lambda: not one.problem(), 20)
            await cluster.until_bundle(1)

    asyncio.run(test())
