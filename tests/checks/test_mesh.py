"""The checks of the mesh, over a cluster that is well except for one thing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import yaml

from certificates.x509 import issue_authority
from injector.core.model import Object
from tests.checks.support import Change, cni, faults, find, gone
from tests.commands.cluster_support import installation, thing
from tests.kubeapi.fake_cluster import rolled_out

NOW = datetime.now(UTC)
ROOT = issue_authority(NOW).pem.decode()


def meshed() -> list[Object]:
    objects = [*installation(), *cni()]
    held = find(objects, "ConfigMap", "meshgraft-injector-config")["data"]
    values = yaml.safe_load(held["values"]) or {}
    values |= {"cniEnabled": True}
    values["meshgraft"] = {**(values.get("meshgraft") or {}), "mesh": {"enabled": True}}
    held["values"] = yaml.safe_dump(values)
    containers = [{"name": "install-cni"}, {"name": "relay"}]
    daemon_set = find(objects, "DaemonSet")
    daemon_set["spec"] = {"template": {"spec": {"containers": containers}}}
    for part in ("control", "identity"):
        made = thing("Deployment", f"meshgraft-{part}", "meshgraft", spec={"replicas": 1})
        objects.append({**made, "status": rolled_out(made)})
    for namespace in ("meshgraft", "linkerd-cni"):
        data = {"ca-bundle.crt": ROOT}
        objects.append(thing("ConfigMap", "meshgraft-trust-roots", namespace, data=data))
    return objects


def ours(change: Change = lambda _: None) -> dict[str, str]:
    found = faults(change, objects=meshed())
    return {name: one.problem for name, one in found.items() if name.startswith("meshgraft-mesh")}


def roots(text: str, *, both: bool = True) -> Change:
    def change(objects: list[Object]) -> None:
        maps = [one for one in objects if one["metadata"]["name"] == "meshgraft-trust-roots"]
        for one in maps if both else maps[1:]:
            one["data"] = {"ca-bundle.crt": text}

    return change


def unready(part: str) -> Change:
    def change(objects: list[Object]) -> None:
        find(objects, "Deployment", f"meshgraft-{part}")["status"] = {}

    return change


def without_relay(objects: list[Object]) -> None:
    find(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"].pop()


def test_a_mesh_that_is_well_has_no_fault() -> None:
    assert ours() == {}


def test_without_a_mesh_nothing_is_asked() -> None:
    found = faults(objects=[*installation(), *cni()])
    assert not any(name.startswith("meshgraft-mesh") for name in found)


@pytest.mark.parametrize(
    ("change", "check", "text"),
    [
        (unready("control"), "control", "0 of 1 replicas are ready"),
        (gone("Deployment", "meshgraft-identity"), "identity", "missing Deployment"),
        (roots("", both=False), "roots", "there is no root"),
        (roots("x", both=False), "roots", "not PEM certificates"),
        (roots(issue_authority(NOW).pem.decode(), both=False), "roots", "other roots"),
        (
            roots(issue_authority(NOW - timedelta(days=20), timedelta(days=1)).pem.decode()),
            "roots-valid",
            "no root",
        ),
        (without_relay, "relay", "no container relay"),
    ],
)
def test_one_thing_that_is_wrong_is_named(change: Change, check: str, text: str) -> None:
    found = ours(change)
    assert list(found) == [f"meshgraft-mesh-{check}"]
    assert text in found[f"meshgraft-mesh-{check}"]
