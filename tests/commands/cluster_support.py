"""Commands as processes against an API server on loopback, and what a cluster holds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from certificates.x509 import issue_authority, issue_serving
from meshgraft import cli
from tests.kubeapi.fake_apiserver import Object
from tests.kubeapi.fake_cluster import FakeCluster, rolled_out
from vocabulary.version import __version__

IMAGE = {"name": "meshgraft/meshgraft", "version": __version__}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


async def meshgraft(cluster: FakeCluster, folder: Path, *args: str) -> Ended:
    """Run ``meshgraft`` to its end beside the cluster's server, in a thread of this process."""
    return await asyncio.to_thread(_run, [*args, "--kubeconfig", str(cluster.kubeconfig(folder))])


def _run(args: list[str]) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(args)
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


async def process(cluster: FakeCluster, folder: Path, *args: str) -> Ended:
    """Run ``meshgraft`` to its end as a process of its own."""
    ended = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshgraft", *args),
        *("--kubeconfig", str(cluster.kubeconfig(folder))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await ended.communicate()
    assert ended.returncode is not None
    return Ended(ended.returncode, out.decode(), err.decode())


def thing(kind: str, name: str, namespace: str = "", **parts: Any) -> Object:
    """An object with metadata; ``annotations``, ``labels`` and ``meta`` are options."""
    meta: Object = {"name": name, **parts.pop("meta", {})}
    if namespace:
        meta["namespace"] = namespace
    for part in ("annotations", "labels"):
        if part in parts:
            meta[part] = parts.pop(part)
    return {"kind": kind, "metadata": meta, **parts}


def namespace(name: str, annotations: dict[str, str] | None = None, **labels: str) -> Object:
    found = {"kubernetes.io/metadata.name": name, **labels}
    return thing("Namespace", name, labels=found, annotations=annotations or {})


def config_map(profile: str = "envoy", **values: Any) -> Object:
    tree = yaml.safe_dump({"meshgraft": {"image": IMAGE}, **values})
    data = {"profile": profile, "values": tree}
    return thing("ConfigMap", "meshgraft-injector-config", "meshgraft", data=data)


def deployment(name: str, namespace: str, replicas: int = 1, **spec: Any) -> Object:
    image = {"containers": [{"name": "injector", "image": f"meshgraft/meshgraft:{__version__}"}]}
    obj = thing(
        "Deployment",
        name,
        namespace,
        spec={"replicas": replicas, "template": {"spec": image}, **spec},
    )
    return {**obj, "status": rolled_out(obj)}


def webhook_configuration(bundle: bytes, policy: str = "Ignore") -> Object:
    excluded = {
        "matchExpressions": [
            {
                "key": "config.linkerd.io/admission-webhooks",
                "operator": "NotIn",
                "values": ["disabled"],
            },
            {
                "key": "kubernetes.io/metadata.name",
                "operator": "NotIn",
                "values": ["kube-system", "meshgraft"],
            },
        ]
    }
    service = {"name": "meshgraft-injector", "namespace": "meshgraft"}
    webhook = {
        "name": "injector.meshgraft.io",
        "clientConfig": {"service": service, "caBundle": base64.b64encode(bundle).decode()},
        "namespaceSelector": excluded,
        "failurePolicy": policy,
    }
    meta = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    return thing(
        "MutatingWebhookConfiguration",
        "meshgraft-injector-webhook-config",
        webhooks=[webhook],
        meta=meta,
    )


def installation(replicas: int = 1, policy: str = "Ignore") -> list[Object]:
    """All objects of an injector that is well."""
    now = datetime.now(UTC)
    authority = issue_authority(now)
    pair = issue_serving(authority, ["meshgraft-injector.meshgraft.svc"], now)
    crt = base64.b64encode(pair.certificate).decode()
    return [
        namespace("meshgraft"),
        namespace("default"),
        config_map(),
        deployment("meshgraft-injector", "meshgraft", replicas),
        webhook_configuration(authority.pem, policy),
        thing("Secret", "meshgraft-injector-tls", "meshgraft", data={"tls.crt": crt}),
        thing("Service", "meshgraft-injector", "meshgraft"),
        thing("ServiceAccount", "meshgraft-injector", "meshgraft"),
        thing("ClusterRole", "meshgraft-injector"),
        thing("ClusterRoleBinding", "meshgraft-injector"),
    ]
