"""A cluster that somebody gave us, by kubectl: objects in, objects out, and waits with an end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Object = dict[str, Any]
T = TypeVar("T")
SECONDS = 180.0
"""For what may have to pull an image."""


class KubectlError(Exception):
    """kubectl ended with an error; the text is what it said."""


def missing() -> list[str]:
    """What is not there; the tests change the cluster, so a kubeconfig alone is no permission."""
    wanted = {
        "KUBECONFIG": os.environ.get("KUBECONFIG"),
        "MESHGRAFT_IMAGE (REPOSITORY:TAG, which the nodes have or can pull)": os.environ.get(
            "MESHGRAFT_IMAGE"
        ),
        "kubectl": shutil.which("kubectl"),
    }
    return [name for name, found in wanted.items() if not found]


def image() -> tuple[str, str]:
    """Name and tag of the image that is tried."""
    name, _, tag = os.environ["MESHGRAFT_IMAGE"].rpartition(":")
    return name, tag


def kubectl(*arguments: str, given: str | None = None, seconds: float = SECONDS) -> str:
    """What kubectl prints.

    Raises:
        KubectlError: it failed.
    """
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def meshgraft(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """What the command prints, as an operator runs it."""
    argv = [sys.executable, "-m", "meshgraft", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def get(kind: str, name: str, namespace: str) -> Object:
    """One object."""
    found: Object = json.loads(kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


def items(kind: str, *arguments: str) -> list[Object]:
    """Objects of a kind."""
    found: list[Object] = json.loads(kubectl("get", kind, *arguments, "-o", "json"))["items"]
    return found


def wait_for(probe: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """Ask until there is something; a kubectl that fails has nothing yet."""
    deadline = time.monotonic() + seconds
    problem = ""
    while time.monotonic() < deadline:
        try:
            if (found := probe()) is not None:
                return found
        except KubectlError as error:
            problem = str(error)
        time.sleep(0.5)
    raise AssertionError(f"after {seconds:g} s: {what}; {problem}")


def rolled_out(kind: str, name: str, namespace: str) -> None:
    """Wait until a workload is as its spec wants it."""
    kubectl("-n", namespace, "rollout", "status", f"{kind}/{name}", f"--timeout={SECONDS:.0f}s")


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod."""

    namespace: str
    name: str
    address: str
    containers: tuple[str, ...]
    """Init containers too, in their order."""

    @property
    def is_meshed(self) -> bool:
        """Whether it has a proxy."""
        return "envoy-proxy" in self.containers

    def run(self, code: str, container: str = "app") -> str:
        """What a piece of Python prints in a container."""
        python = "/opt/meshgraft/bin/python"
        place = ("-n", self.namespace, "exec", self.name, "-c", container)
        return kubectl(*place, "--", python, "-c", code)

    def fetch(self, url: str) -> tuple[int, str]:
        """Status and body of an HTTP request from within the pod."""
        code = (
            "import json, urllib.request as r, urllib.error as e\n"
            f"try: a = r.urlopen({url!r}, timeout=10)\n"
            "except e.HTTPError as x: a = x\n"
            "print(json.dumps([a.status, a.read().decode()]))"
        )
        status, body = json.loads(self.run(code))
        return int(status), str(body)


def as_pod(found: Object) -> Pod:
    """The part of a Pod object that the tests look at."""
    spec, meta = found["spec"], found["metadata"]
    names = [one["name"] for one in (*spec.get("initContainers", ()), *spec["containers"])]
    address = found.get("status", {}).get("podIP", "")
    return Pod(meta["namespace"], meta["name"], address, tuple(names))


def ready_pod(namespace: str, selector: str) -> Pod:
    """The one pod with these labels, once it is ready and no other is there."""

    def probe() -> Pod | None:
        found = items("pods", "-n", namespace, "-l", selector)
        conditions = found[0]["status"].get("conditions", ()) if len(found) == 1 else ()
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        return as_pod(found[0]) if ready else None

    return wait_for(probe, f"no ready pod {selector} in {namespace}")


def workload(name: str, namespace: str, code: str) -> Object:
    """A Deployment of one pod that runs a piece of Python, with no right to anything."""
    name_of_image, tag = image()
    container = {
        "name": "app",
        "image": f"{name_of_image}:{tag}",
        "command": ["/opt/meshgraft/bin/python", "-c", code],
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 65534},
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }


def bare_pod(namespace: str, **annotations: str) -> Object:
    """A Pod that is never scheduled: what is asked is what the admission makes of it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "asked-", "namespace": namespace, "annotations": annotations},
        "spec": {
            "containers": [{"name": "app", "image": "app:1"}],
            "nodeSelector": {"meshgraft.io/no-such-node": "true"},
        },
    }


def admitted(pod: Object) -> Pod:
    """What the API server makes of a pod, without keeping it.

    Raises:
        KubectlError: it refuses the pod.
    """
    made = kubectl("create", "-f", "-", "--dry-run=server", "-o", "json", given=json.dumps(pod))
    return as_pod(json.loads(made))
