"""Real Envoys in pods' namespaces, and a control and a relay in one thread of the test."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpclib.server import Server

from mesh.control.catalog import Catalog
from mesh.identity.leaf import Identity, Issuer, sign
from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort, Workload
from mesh.model.world import World
from mesh.relay.secrets import key_secret, roots_secret
from mesh.relay.socket import GuardedSocket
from mesh.xds.messages import Key, Resource
from mesh.xds.server import DeltaService
from mesh.xds.session import Refusal
from mesh.xds.store import Store, Watcher
from mesh.xds.view import View
from meshgraft.lab.envoy import Envoy, running_envoy
from meshgraft.lab.lab import Lab, LabPod, missing_requirements, running_lab
from meshgraft.lab.mesh import meshed_pod
from meshgraft.lab.netns import Netns
from tests.mesh.dataplane.sockets import listen_in

TRUST_DOMAIN = "cluster.local"
T = TypeVar("T")


class Loop:
    """An asyncio loop in a thread, for servers that tests talk to from outside."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(self, work: Callable[[], T]) -> T:
        async def called() -> T:
            return work()

        return self.run(called())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Authority:
    """A root that signs leaves itself."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def secret(self, service_account: str, lifetime: timedelta = timedelta(hours=1)) -> Resource:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = Identity(TRUST_DOMAIN, "lab", service_account)
        issuer = Issuer(self.certificate, self.key)
        chain = sign(issuer, key.public_key(), identity, datetime.now(UTC), lifetime)
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key_secret(chain, text)


@dataclass
class Both:
    """A pod's secrets from one store, all else from another."""

    secrets: Store
    others: Any

    def _of(self, key: Key) -> Any:
        return self.secrets if key.type_url.endswith("Secret") else self.others

    def get(self, key: Key) -> Resource | None:
        found: Resource | None = self._of(key).get(key)
        return found

    def subscribe(self, key: Key, watcher: Watcher) -> None:
        self._of(key).subscribe(key, watcher)

    def unsubscribe(self, key: Key, watcher: Watcher) -> None:
        self._of(key).unsubscribe(key, watcher)


@dataclass
class Meshed:
    """A pod with its Envoy."""

    pod: LabPod
    envoy: Envoy
    workload: Workload
    secrets: Store

    @property
    def netns(self) -> Netns:
        return self.pod.netns


@dataclass
class Cluster:
    """The lab as a cluster: services by name, pods, and the mesh's parts in the test's hands."""

    lab: Lab
    loop: Loop
    stack: ExitStack
    authority: Authority = field(default_factory=Authority)
    world: World = field(default_factory=World)
    refusals: list[Refusal] = field(default_factory=list)
    strangers: list[int] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)
    sockets: dict[str, GuardedSocket] = field(default_factory=dict)
    services: dict[str, DeltaService] = field(default_factory=dict)
    pods: dict[str, Meshed] = field(default_factory=dict)
    aliases: dict[str, set[str]] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)

    def alias(self, pod: Meshed, name: str) -> None:
        """What the relay does where a pod is an endpoint itself."""
        self.aliases[pod.workload.ref.name].add(name)
        self.loop.call(self.views[pod.workload.ref.name].remap)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.world, TRUST_DOMAIN, lambda _: "")

    def change(self, change: Callable[[World], Any]) -> None:
        self.loop.call(lambda: self.catalog.apply(change(self.world)))

    def meshed(
        self,
        name: str,
        annotations: dict[str, str] | None = None,
        values: dict[str, Any] | None = None,
        account: str | None = None,
    ) -> Meshed:
        """A pod in the mesh, ready."""
        obj = meshed_pod(annotations, values)
        pod = self.lab.pod(name, obj["metadata"]["annotations"])
        secrets = Store()
        secrets.put(self.authority.secret(account or name))
        secrets.put(roots_secret(self.authority.pem))
        workload = Workload(
            Ref("lab", name), f"uid-{name}", "node", account or name, tuple(pod.addresses), True
        )
        self.change(lambda world: world.put_workload(workload.ref, workload))
        self.serve(name, pod.netns, secrets)
        envoy = self.stack.enter_context(
            running_envoy(obj, pod.netns, self.lab.log(f"envoy-{name}"))
        )
        self.pods[name] = Meshed(pod, envoy, workload, secrets)
        return self.pods[name]

    def serve(self, name: str, netns: Netns, secrets: Store) -> None:
        """What a relay does for a pod."""
        uid = f"uid-{name}"
        aliased = self.aliases.setdefault(name, set())

        def inner(key: Key) -> Key:
            return Key(key.type_url, f"{key.name}#{uid}") if key.name in aliased else key

        self.views[name] = View(self.catalog.view("node"), inner)
        source = Both(secrets, self.views[name])

        async def opened(_: object) -> Both:
            return source

        async def start() -> None:
            guarded = GuardedSocket(
                listen_in(netns), 2102, lambda _, uid: self.strangers.append(uid)
            )
            service = DeltaService(opened, self.refusals.append)
            server = service.server()
            await server.start(sock=guarded)
            self.servers[name], self.services[name] = server, service
            self.sockets[name] = guarded

        self.loop.run(start())
        self.stack.callback(self.silence, name)

    def silence(self, name: str) -> None:
        """The relay goes away."""
        server = self.servers.pop(name, None)
        if server is not None:
            self.loop.call(server.close)
            self.loop.call(self.sockets.pop(name).end)
            self.loop.run(server.wait_closed())

    def service(
        self,
        name: str,
        address: str | tuple[str, ...],
        port: int,
        *pods: LabPod,
        target: int | None = None,
        ready: bool = True,
    ) -> None:
        """A Service with these pods, in each family that its addresses are of."""
        addresses = (address,) if isinstance(address, str) else address
        ref, port_name = Ref("lab", name), "main"
        service = Service(ref, addresses, (ServicePort(port_name, port),))
        self.change(lambda world: world.put_service(ref, service))
        for one in addresses:
            six = ":" in one
            endpoints = tuple(Endpoint(pod.ipv6 if six else pod.ipv4, ready) for pod in pods)
            slice_ref = Ref("lab", f"{name}-{6 if six else 4}")
            held = EndpointSlice(
                slice_ref, name, (ServicePort(port_name, target or port),), endpoints
            )
            self.change(partial(World.put_slice, ref=slice_ref, slice_=held))


def until(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found or time.monotonic() > deadline:
            assert found
            return found
        time.sleep(0.02)


@pytest.fixture(scope="session")
def _machine() -> None:
    missing = missing_requirements()
    if missing:
        pytest.skip("the lab needs " + "; ".join(missing))


@pytest.fixture(scope="module")
def cluster(_machine: None) -> Iterator[Cluster]:
    """An empty cluster."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with ExitStack() as stack:
        lab = stack.enter_context(running_lab("auto"))
        loop = Loop()
        stack.callback(loop.close)
        yield Cluster(lab, loop, stack)
