"""The postStart hook of a proxy that is no native sidecar: the application waits for it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from meshgraft.lab.envoy import container_of, running_envoy
from meshgraft.lab.process import unprivileged
from tests.dataplane.conftest import Mesh, patched_pod

pytestmark = pytest.mark.root


@pytest.mark.parametrize("mesh", ["nft"], indirect=True)
def test_it_ends_when_the_proxy_is_ready_and_not_before(mesh: Mesh, tmp_path: Path) -> None:
    pod = patched_pod({"config.linkerd.io/proxy-enable-native-sidecar": "false"})
    waiting = mesh.lab.pod("waiting", pod["metadata"]["annotations"])
    hook = container_of(pod)["lifecycle"]["postStart"]["exec"]["command"]
    with subprocess.Popen(waiting.netns.command(*unprivileged(2102, *hook))) as process:
        time.sleep(0.5)  # nothing is there to be waited for: that it goes on is what is shown
        assert process.poll() is None
        with running_envoy(pod, waiting.netns, tmp_path / "envoy.log"):
            assert process.wait(10) == 0
