"""How many calls wait, as the kernel tells."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cni_plugin.agent import backlog as module
from cni_plugin.agent.backlog import backlog


def listener(stack: ExitStack, path: Path) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind(str(path))
    made.listen(8)
    return made


def test_what_nobody_accepted_is_counted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ours = listener(stack, tmp_path / "a")
        other = listener(stack, tmp_path / "b")
        if backlog(ours) is None:
            pytest.skip("this kernel has no unix_diag")
        for path in ("a", "a", "a", "b"):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(str(tmp_path / path))
        assert (backlog(ours), backlog(other)) == (3, 1)
        ours.accept()[0].close()
        assert backlog(ours) == 2


def test_a_socket_that_is_gone_is_not_told_of(tmp_path: Path) -> None:
    with ExitStack() as stack:
        gone = listener(stack, tmp_path / "a")
    assert backlog(gone) is None


@pytest.mark.parametrize("size", range(0, 40, 4))
def test_an_answer_that_is_cut_off_is_no_answer(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module._question(1) + bytes(40)

    class Kernel(socket.socket):
        def sendto(self, *_: object) -> int:
            return 0

        def recv(self, *_: object) -> bytes:
            return whole[:size]

    with ExitStack() as stack:
        ours = listener(stack, tmp_path / "a")
        monkeypatch.setattr(socket, "socket", Kernel)
        assert backlog(ours) is None
