"""Two meshed pods and an unmeshed one on a lab node, once for each backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from injector.core.model import Namespace, Origin, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import get_profile
from meshgraft.lab.envoy import Envoy, running_envoy
from meshgraft.lab.lab import Lab, LabPod, has_ipv6, missing_requirements, running_lab

Mode = Literal["nft", "legacy"]


def patched_pod(
    annotations: dict[str, str] | None = None, values: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """A pod as the injector leaves it, with profile envoy; IPv6 is on."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": annotations or {}},
        "spec": {"containers": [{"name": "app", "image": "app"}], **spec},
    }
    outcome = mutate(
        pod,
        Namespace("lab", {"linkerd.io/inject": "enabled"}),
        Owner("pod", "app"),
        decode_values({"cniEnabled": True, "disableIPv6": not has_ipv6(), **(values or {})}),
        get_profile("envoy"),
        Origin("tests", additions=True),
    )
    assert outcome.injected, outcome.reasons
    return outcome.patched


@dataclass
class Mesh:
    """A client and a server with their proxies, and a pod without one."""

    lab: Lab
    client: LabPod
    server: LabPod
    plain: LabPod
    client_envoy: Envoy
    server_envoy: Envoy

    def touched(self, action: Callable[[], object]) -> Counter[str]:
        """Do something; what each proxy counted meanwhile, by ``pod.direction.kind``."""
        before = self._counters()
        action()
        after = self._counters()
        after.subtract(before)
        return Counter({name: value for name, value in after.items() if value})

    def _counters(self) -> Counter[str]:
        seen: Counter[str] = Counter()
        for pod, envoy in (("client", self.client_envoy), ("server", self.server_envoy)):
            counters = envoy.counters()
            for way in ("inbound", "outbound"):
                seen[f"{pod}.{way}.connections"] = counters[f"listener.{way}.downstream_cx_total"]
                seen[f"{pod}.{way}.http"] = counters[f"http.{way}.downstream_rq_total"]
                seen[f"{pod}.{way}.tcp"] = counters[f"tcp.{way}.downstream_cx_total"]
        return seen


@pytest.fixture(scope="session")
def _machine() -> None:
    missing = missing_requirements()
    if missing:
        pytest.skip("the lab needs " + "; ".join(missing))


@pytest.fixture(scope="session", params=["nft", "legacy"])
def mesh(request: pytest.FixtureRequest, _machine: None) -> Iterator[Mesh]:
    """The mesh, with rules by the backend that the parameter names."""
    pod = patched_pod()
    annotations = pod["metadata"]["annotations"]
    with ExitStack() as stack:
        lab = stack.enter_context(running_lab(request.param))
        client, server = (lab.pod(name, annotations) for name in ("client", "server"))
        envoys = [
            stack.enter_context(running_envoy(pod, each.netns, lab.log(f"envoy-{each.name}")))
            for each in (client, server)
        ]
        yield Mesh(lab, client, server, lab.pod("plain", {}), *envoys)


@pytest.fixture(params=["ipv4", "ipv6"])
def address(request: pytest.FixtureRequest, mesh: Mesh) -> str:
    """The server's address, once in each family."""
    if request.param == "ipv6" and not has_ipv6():
        pytest.skip("this kernel has no IPv6, or namespaces may not use it")
    found: str = getattr(mesh.server, request.param)
    return found
