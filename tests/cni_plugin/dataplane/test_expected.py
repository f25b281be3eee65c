"""What is remembered of namespaces' rules, within bounds that no pod's author moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni_plugin.dataplane.errors import InvalidRedirectError
from cni_plugin.dataplane.expected import Expected, RememberingBackend, key_of
from cni_plugin.dataplane.rules import MAX_ITEMS, rules
from tests.cni_plugin.shim_support import FakeBackend
from vocabulary.annotations.redirect import PortRange, Redirect


def _redirect(items: int) -> Redirect:
    ports = (PortRange(1, 1),) * items
    return Redirect(inbound_port=4143, outbound_port=4140, skip_inbound_ports=ports)


class Checking(FakeBackend):
    """Refuses what the real ones refuse."""

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        rules(redirect)
        return super().apply(netns_fd, redirect)


def test_rules_that_are_never_set_are_not_remembered(tmp_path: Path) -> None:
    """Each try to start such a pod has a namespace of its own, and a megabyte in its annotation."""
    expected = Expected()
    backend = RememberingBackend(Checking(), expected)
    netns = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InvalidRedirectError):
            backend.apply(netns, _redirect(MAX_ITEMS + 1))
        assert expected.get(key_of(netns)) is None
        backend.apply(netns, _redirect(MAX_ITEMS))
        assert expected.get(key_of(netns)) == _redirect(MAX_ITEMS)
    finally:
        os.close(netns)
