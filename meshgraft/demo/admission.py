"""The admission half of the demo: a webhook with a fresh CA, asked what an API server asked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import yaml

from injector.core.skips import SkipReason
from meshgraft.demo.report import Report
from meshgraft.lab.lab import has_ipv6
from meshgraft.lab.process import Process

DATA = files("meshgraft.demo") / "data"
_TIMED = 30


@dataclass(frozen=True)
class Webhook:
    """A running webhook and a client that trusts its CA and nothing else."""

    client: httpx.Client
    folder: Path

    def review(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Post a recorded AdmissionReview: the pod that was sent, and the response."""
        recorded = json.loads((DATA / name).read_bytes())
        answer = self.client.post("/mutate", json=recorded)
        answer.raise_for_status()
        return recorded["request"]["object"], answer.json()["response"]

    def seconds_per_answer(self, name: str) -> float:
        """The median time of an answer over one kept connection, in seconds."""
        body = (DATA / name).read_bytes()
        headers = {"Content-Type": "application/json"}
        times = []
        for _ in range(_TIMED):
            started = time.perf_counter()
            self.client.post("/mutate", content=body, headers=headers).raise_for_status()
            times.append(time.perf_counter() - started)
        return statistics.median(times)


@contextlib.contextmanager
def running_webhook(folder: Path) -> Iterator[Webhook]:
    """Start the webhook on loopback, with the recorded namespaces in place of an API server."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump({"cniEnabled": True, "disableIPv6": not has_ipv6()}))
    namespaces = folder / "namespaces.json"
    namespaces.write_bytes((DATA / "namespaces.json").read_bytes())
    certificates = folder / "certificates"
    process = Process(
        "webhook",
        [
            *(sys.executable, "-m", "meshgraft", "webhook"),
            *("--profile", "envoy"),
            *("--values", str(values)),
            *("--cert-dir", str(certificates)),
            *("--listen", "127.0.0.1:0"),
            *("--metrics-listen", "127.0.0.1:0"),
            *("--offline-objects", str(namespaces)),
            *("--log-format", "json"),
            *("--shutdown-delay", "0"),
        ],
        folder / "webhook.log",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = process.wait_for(lambda: _listen_address(folder / "webhook.log"), "its address")
        trust = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        with httpx.Client(base_url=f"https://{address}", verify=trust, trust_env=False) as client:
            yield Webhook(client, folder)
    finally:
        process.stop()


def _listen_address(log: Path) -> str | None:
    """The address that the webhook says it serves on, as soon as it says so."""
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record.get("msg") == "serving":
                return str(record["address"])
    return None


def apply_patch(pod: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server would store it."""
    if "patch" not in response:
        return pod
    patch = json.loads(base64.b64decode(response["patch"]))
    patched: dict[str, Any] = jsonpatch.apply_patch(pod, patch)
    return patched


def show_admission(report: Report, webhook: Webhook) -> dict[str, Any]:
    """Part one: an annotated pod is patched, a plain one is not. Gives back the patched pod."""
    report.step("1. The webhook: reviews recorded from a Kubernetes 1.36 API server, over TLS 1.3")
    patched = _show_injected(report, webhook)
    _show_skipped(report, webhook)
    report.time(
        "webhook answer, an injected pod",
        webhook.seconds_per_answer("annotated.json"),
        f"median of {_TIMED}, as the client sees it",
    )
    return patched


def _show_injected(report: Report, webhook: Webhook) -> dict[str, Any]:
    pod, response = webhook.review("annotated.json")
    patched = apply_patch(pod, response)
    report.say("pod web of a Deployment, in namespace shop (linkerd.io/inject: enabled)")
    for line in added(pod, patched):
        report.say(f"  + {line}")
    new = [c for c in _containers(patched) if c["name"] not in _names(pod)]
    report.prove(
        "an annotated pod is patched with a proxy",
        response["allowed"] and [c["name"] for c in new].count("envoy-proxy") == 1,
        f"containers added: {', '.join(c['name'] for c in new) or 'none'}",
    )
    capable = [f"{c['name']} {_capabilities(c)}" for c in new if _capabilities(c)]
    report.prove(
        "no container that was added has a capability",
        bool(new) and not capable,
        ", ".join(capable) or "each drops ALL and adds none",
    )
    return patched


def _show_skipped(report: Report, webhook: Webhook) -> None:
    pod, response = webhook.review("plain.json")
    patched = apply_patch(pod, response)
    reasons = skip_reasons(response)
    report.say("pod plain, in namespace legacy (no annotation)")
    for line in added(pod, patched):
        report.say(f"  + {line}")
    report.prove(
        "a pod that nobody annotated gets no proxy",
        response["allowed"] and patched["spec"] == pod["spec"] and bool(reasons),
        f"skipped: {reasons}" if reasons else "no reason was given",
    )


def skip_reasons(response: dict[str, Any]) -> str:
    """Why a pod was left alone, in words; the response carries the codes for the audit log."""
    codes = response.get("auditAnnotations", {}).get("reasons", "")
    return ", ".join(SkipReason(code).text for code in codes.split(",") if code)


def added(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a patch adds to a pod, a line each, for a person to read."""
    lines = []
    for where in ("annotations", "labels"):
        old = before["metadata"].get(where) or {}
        for key, value in (after["metadata"].get(where) or {}).items():
            if old.get(key) != value:
                lines.append(f"{where[:-1]} {key}: {_short(value)}")
    known = _names(before)
    for kind in ("initContainers", "containers"):
        for container in after["spec"].get(kind) or []:
            if container["name"] not in known:
                lines.append(_describe(kind, container))
    old_volumes = {volume["name"] for volume in before["spec"].get("volumes") or []}
    lines += [
        f"volume {volume['name']}"
        for volume in after["spec"].get("volumes") or []
        if volume["name"] not in old_volumes
    ]
    return lines


def _describe(kind: str, container: dict[str, Any]) -> str:
    context = container.get("securityContext", {})
    sidecar = container.get("restartPolicy") == "Always"
    role = "native sidecar" if sidecar else "init container" if kind[0] == "i" else "container"
    ports = [str(port["containerPort"]) for port in container.get("ports", [])]
    return (
        f"{role} {container['name']}: image {container['image']}, uid {context.get('runAsUser')}"
        f"{', ports ' + ', '.join(ports) if ports else ''}"
    )


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    spec = pod["spec"]
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def _names(pod: dict[str, Any]) -> set[str]:
    return {container["name"] for container in _containers(pod)}


def _capabilities(container: dict[str, Any]) -> list[str]:
    """What a container may do beyond an ordinary user: what it adds, or does not drop."""
    capabilities = (container.get("securityContext") or {}).get("capabilities") or {}
    kept = [] if capabilities.get("drop") == ["ALL"] else ["the runtime's default"]
    return kept + (capabilities.get("add") or [])


def _short(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
