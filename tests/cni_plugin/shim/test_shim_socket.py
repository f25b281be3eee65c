"""Where the static program looks for the agent: the environment, the configuration, the default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.agent.protocol import Response
from tests.cni_plugin.shim_support import (
    environment,
    fake_agent,
    netconf,
    read_request,
    run_program,
)

BY_CONFIGURATION = {"LINKERD_CNI_SOCKET": ""}
UNMARKED = {"app": "web"}


def answering(path: Path) -> Any:
    def serve(connection: Any) -> None:
        read_request(connection)
        connection.sendall(Response(0, b"answered").encode())

    return fake_agent(path, serve)


def test_the_configuration_names_the_agents_socket(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sock"
    with answering(path):
        conf = netconf(meshgraft={"socket": str(path)})
        assert run_program({**environment(), **BY_CONFIGURATION}, conf).stdout == b"answered"


def test_the_environment_has_the_last_word(tmp_path: Path) -> None:
    with answering(tmp_path / "agent.sock") as path:
        conf = netconf(meshgraft={"socket": "/nonexistent"})
        assert run_program(environment(), conf, path).stdout == b"answered"


@pytest.mark.parametrize(
    ("socket", "text"),
    [
        ("/nonexistent/a.sock", "/nonexistent/a.sock: No such file"),
        ("/" + "x" * 500, "the socket's path is too long"),
        ("agent.sock", "meshgraft.socket: not an absolute path"),
        ('/a"b', "meshgraft.socket: not an absolute path"),
        ("", "meshgraft.socket: not an absolute path"),
        (7, "meshgraft.socket: not an absolute path"),
        (["/a"], "meshgraft.socket: not an absolute path"),
    ],
)
def test_a_socket_that_leads_nowhere_is_an_agent_that_is_away(
    socket: Any, text: str, tmp_path: Path
) -> None:
    env = {**environment(), **BY_CONFIGURATION}
    error = run_program(env, netconf(meshgraft={"socket": socket})).error
    assert error["code"] == 11
    assert text in error["msg"]
    handed_on = run_program(env, netconf(UNMARKED, meshgraft={"socket": socket}))
    assert json.loads(handed_on.stdout) == json.loads(netconf())["prevResult"]
