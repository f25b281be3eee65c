"""Without the CNI plugin: the init container that the patch adds sets the rules from inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshgraft.lab.envoy import container_of, running_envoy
from tests.dataplane.conftest import Mesh, patched_pod
from tests.dataplane.peers import serving, web
from tests.dataplane.test_traffic import get

pytestmark = pytest.mark.root


def with_capabilities(names: list[str], *argv: str) -> list[str]:
    """Root with these capabilities only: what ``drop: [ALL], add: [...]`` leaves a container."""
    kept = "".join(f",+{name.lower()}" for name in names)
    return [
        "setpriv",
        f"--bounding-set=-all{kept}",
        "--inh-caps=-all",
        "--no-new-privs",
        "--",
        *argv,
    ]


def test_traffic_goes_through_the_proxy_after_it_ran(
    mesh: Mesh, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    mode = request.node.callspec.params["mesh"]
    pod = patched_pod(values={"cniEnabled": False, "proxyInit": {"iptablesMode": mode}})
    init = container_of(pod, "meshgraft-init")
    client = mesh.lab.pod(f"init-{mode}", {})
    argv = [sys.executable, "-m", *init["command"], *init["args"]]
    done = subprocess.run(
        client.netns.command(
            *with_capabilities(init["securityContext"]["capabilities"]["add"], *argv)
        ),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    with (
        running_envoy(pod, client.netns, tmp_path / "envoy.log") as envoy,
        serving(mesh.server.netns, web) as port,
    ):
        for address in mesh.server.addresses:
            assert get(client.netns, address, port)[0] == 200
        assert envoy.counters()["http.outbound.downstream_rq_total"] == len(mesh.server.addresses)
