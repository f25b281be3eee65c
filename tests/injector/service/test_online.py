"""The whole webhook process on an API server: ready, answering, sending Events, surviving."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from certificates.x509 import issue_authority, issue_serving, write_pair
from injector.service.server import parse_address
from tests.injector.support import pod
from tests.kubeapi.fake_apiserver import FakeApiServer, Fault, running, until

SECONDS = 20
ENABLED = {"linkerd.io__inject": "enabled"}
REPLICA_SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r"}
OBJECTS = {
    "/apis/apps/v1/namespaces/shop/replicasets/web-5d": {
        "metadata": {
            "uid": "r",
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d"}
            ],
        }
    }
}


@dataclass
class Webhook:
    """A process of its own, and a client of it."""

    process: asyncio.subprocess.Process
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def pump(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode()
            # An error that ends the process is a sentence, not JSON.
            self.lines.append(json.loads(text) if text.startswith("{") else {"msg": text})

    async def line(self, message: str) -> dict[str, Any]:
        await until(lambda: any(line["msg"] == message for line in self.lines), SECONDS)
        return next(line for line in self.lines if line["msg"] == message)

    async def url(self, key: str = "address") -> str:
        address = parse_address((await self.line("serving"))[key])
        return f"{'https' if key == 'address' else 'http'}://{address}"

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(await self.url("metricsAddress") + path)

    async def ready(self) -> None:
        async with asyncio.timeout(SECONDS):
            while (await self.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)

    async def ask(self, namespace: str = "shop", **request: Any) -> httpx.Response:
        obj = pod()
        obj["metadata"]["ownerReferences"] = [REPLICA_SET]
        asked = {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": namespace,
            "operation": "CREATE",
            "object": obj,
            **request,
        }
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}
        trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        async with httpx.AsyncClient(verify=trust) as client:
            return await client.post(await self.url() + "/?timeout=10s", json=review)

    async def is_injected(self, namespace: str = "shop", **request: Any) -> bool:
        response = await self.ask(namespace, **request)
        assert response.status_code == 200, response.text
        audit: str = response.json()["response"]["auditAnnotations"]["result"]
        return audit == "injected"


@contextlib.asynccontextmanager
async def webhook(folder: Path, kubeconfig: Path, *flags: str) -> AsyncIterator[Webhook]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "meshgraft", "webhook", f"--kubeconfig={kubeconfig}", f"--cert-dir={folder}"),
        *("--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--shutdown-delay=0", *flags),
        stderr=asyncio.subprocess.PIPE,
    )
    given = Webhook(process, folder)
    pump = asyncio.create_task(given.pump())
    try:
        yield given
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0, given.lines
        await pump


@contextlib.asynccontextmanager
async def cluster(folder: Path, *flags: str) -> AsyncIterator[tuple[FakeApiServer, Webhook]]:
    async with asyncio.timeout(3 * SECONDS), running(objects=dict(OBJECTS)) as server:
        server.put("shop", **ENABLED)
        kubeconfig = server.kubeconfig(folder)
        async with webhook(folder, kubeconfig, *flags) as process:
            yield server, process


def test_it_gets_ready_injects_and_tells_the_owner_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, process):
            await process.ready()
            assert await process.is_injected(dryRun=True)
            assert await process.is_injected()
            assert await process.is_injected()
            await until(lambda: server.events, SECONDS)
            metrics = (await process.get("/metrics")).text
            # One for two pods, and none before for the dry run.
            [event] = server.events
            assert event["involvedObject"]["kind"] == "Deployment"
            assert event["reason"] == "Injected"
            assert 'proxy_inject_events_total{result="repeated"} 1.0' in metrics
            assert "proxy_inject_namespaces 1.0" in metrics
            owners = [asked for asked in server.asked if "replicasets" in asked.path]
            assert len(owners) == 1

    asyncio.run(test())


def test_a_dry_run_has_no_side_effect(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, process):
            await process.ready()
            for _ in range(5):
                assert await process.is_injected(dryRun=True)
            # Events are sent in order: had there been one before, it would be here.
            server.put("other")
            assert not await process.is_injected("other")
            obj = pod(hostNetwork=True)
            obj["metadata"]["ownerReferences"] = [REPLICA_SET]
            assert not await process.is_injected(object=obj)
            await until(lambda: server.events, SECONDS)
            assert [event["reason"] for event in server.events] == ["InjectionSkipped"]

    asyncio.run(test())


def test_before_the_first_list_it_is_not_ready_and_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(3 * SECONDS), running(objects=dict(OBJECTS)) as server:
            server.faults = [Fault(lambda asked: asked.is_list, status=403, times=99)]
            async with webhook(tmp_path, server.kubeconfig(tmp_path)) as process:
                await process.line("cannot watch namespaces")
                report = await process.get("/readyz?verbose")
                assert report.status_code == 500
                assert "[-]namespaces failed: namespaces are not known yet" in report.text
                assert "with 403: as the test wants it" in report.text
                assert (await process.get("/livez")).status_code == 200
                # A review that comes all the same asks for its namespace by name.
                server.put("shop", **ENABLED)
                assert await process.is_injected()

    asyncio.run(test())


def test_it_outlives_the_api_server(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, process):
            await process.ready()
            assert await process.is_injected()
            await server.stop()
            assert await process.is_injected()
            unknown = await process.ask("new")
            assert unknown.status_code == 500
            assert "meshgraft cannot decide about pod new/app" in unknown.text
            assert (await process.get("/readyz")).status_code == 200
            server.forget_history()
            server.put("new")
            await server.start()
            assert not await process.is_injected("new")
            await until(lambda: server.watching, SECONDS)

    asyncio.run(test())


def test_settings_change_without_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "values.yaml"
        path.write_text("meshgraft: {profile: envoy}")
        async with cluster(tmp_path, f"--values={path}") as (_, process):
            await process.ready()
            assert "linkerd-proxy" not in await _patch(process)
            path.write_text("meshgraft: {profile: linkerd}")
            await process.line("reloaded")
            assert "linkerd-proxy" in await _patch(process)
            path.write_text("proxy: nonsense")
            line = await process.line("not reloaded; what was loaded before stays in force")
            assert "proxy" in line["error"]
            assert "linkerd-proxy" in await _patch(process)
            text = (await process.get("/metrics")).text
            assert 'proxy_inject_reload_failing{what="settings"} 1.0' in text

    asyncio.run(test())


def test_certificates_are_swapped_under_load_and_no_review_fails(tmp_path: Path) -> None:
    authority = issue_authority(datetime.now(UTC))

    def renew() -> None:
        write_pair(tmp_path, authority, issue_serving(authority, ["127.0.0.1"], datetime.now(UTC)))

    async def serial(process: Webhook) -> int:
        address = parse_address((await process.line("serving"))["address"])
        pem = await asyncio.to_thread(
            ssl.get_server_certificate, (address.host, address.port), timeout=SECONDS
        )
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    async def test() -> None:
        renew()
        async with cluster(tmp_path) as (_, process):
            await process.ready()
            before = await serial(process)
            renew()
            while not any(line["msg"] == "reloaded" for line in process.lines):
                assert all(await asyncio.gather(*(process.is_injected() for _ in range(4))))
            assert await serial(process) != before
            assert await process.is_injected()

    asyncio.run(test())


async def _patch(process: Webhook) -> str:
    response = (await process.ask()).json()["response"]
    return base64.b64decode(response["patch"]).decode()
