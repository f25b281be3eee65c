"""Answers to calls of the plugin, with a stand-in for the dataplane."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from cni_plugin.agent.handler import NETNS_ERROR, Answer, handle, internal_error, log_line
from cni_plugin.agent.protocol import Request
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.pods.source import KnownPods, Pod, PodSource, PodSourceError
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.shim_support import (
    ANNOTATIONS,
    REDIRECT,
    FakeBackend,
    environment,
    netconf,
    recorded,
)
from vocabulary.annotations.redirect import ANNOTATION

MESHED = {ANNOTATION: REDIRECT.to_annotation()}
LINKERD_POD = msgspec.convert(
    {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "annotations": {"config.linkerd.io/skip-inbound-ports": "80,x"},
        },
        "spec": {"containers": [{"name": "linkerd-proxy"}]},
    },
    Pod,
)


class Trouble:
    """A pod source that cannot be asked."""

    name = "the API server"

    def get(self, namespace: str, name: str, uid: str) -> Pod | None:
        """Fails."""
        raise PodSourceError(f"GET {namespace}/{name} ({uid}): connection refused")

    def api_server_ports(self) -> tuple[int, ...]:
        """Is not asked, as no pod is known."""
        raise AssertionError


class Asked(KnownPods):
    """Knows pods, and counts how often it is asked for the API server's ports."""

    times = 0

    def api_server_ports(self) -> tuple[int, ...]:
        """Unusual ones."""
        self.times += 1
        return 443, 8443


@pytest.fixture
def netns_fd() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.fstat(fd)  # the handler leaves it open
    os.close(fd)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


def call(
    backend: FakeBackend,
    netns_fd: int | None,
    command: str = "ADD",
    annotations: Mapping[str, str] | None = MESHED,
    pods: PodSource | None = None,
    env: Mapping[str, str] | None = None,
    **conf: Any,
) -> Answer:
    ticks = iter([1.0, 1.00091])
    return handle(
        Request({**environment(command), **(env or {})}, netconf(annotations, **conf)),
        netns_fd,
        backend,
        pods or KnownPods(name="a list"),
        clock=lambda: next(ticks),
    )


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer.result == "failed"
    assert answer.response.exit_code == 1
    error: dict[str, Any] = json.loads(answer.response.stdout)
    assert answer.reason == f"code-{error['code']}"
    assert answer.error == error["msg"]
    assert "linkerd-cni:" in answer.response.stderr.decode()
    return error


class TestAdd:
    def test_a_meshed_pod_is_redirected(self, backend: FakeBackend, netns_fd: int) -> None:
        answer = call(backend, netns_fd)
        assert backend.applied == [REDIRECT]
        assert answer.response.exit_code == 0
        assert json.loads(answer.response.stdout) == recorded("add")[1]["prevResult"]
        assert answer.response.stderr == (
            b'linkerd-cni: msg="redirected" pod=shop/web-0 backend=fake rulesMs=0.91 '
            b"changed=true reason=redirect-annotation\n"
        )
        assert (answer.command, answer.result, answer.pod) == ("ADD", "redirected", "shop/web-0")
        assert answer.rules_seconds == pytest.approx(0.00091)

    def test_an_unmeshed_pod_passes_and_needs_no_netns(self, backend: FakeBackend) -> None:
        answer = call(backend, None, annotations={})
        assert backend.applied == []
        assert json.loads(answer.response.stdout) == recorded("add")[1]["prevResult"]
        assert answer.response.stderr == (
            b'linkerd-cni: msg="passed through" pod=shop/web-0 reason=no-mark\n'
        )
        assert (answer.result, answer.rules_seconds) == ("passed-through", None)

    def test_nothing_is_said_below_the_log_level(self, backend: FakeBackend, netns_fd: int) -> None:
        assert call(backend, netns_fd, log_level="warn").response.stderr == b""

    def test_debug_shows_the_rules(self, backend: FakeBackend, netns_fd: int) -> None:
        stderr = call(backend, netns_fd, log_level="debug").response.stderr.decode()
        assert "inboundPort" in stderr

    def test_a_pod_of_linkerds_injector_is_looked_up(
        self, backend: FakeBackend, netns_fd: int
    ) -> None:
        source = KnownPods([LINKERD_POD])
        answer = call(backend, netns_fd, annotations=None, pods=source, log_level="warn")
        assert answer.reason == "proxy-container"
        assert [str(ports) for ports in backend.applied[0].skip_inbound_ports] == ["80"]
        assert "skip-inbound-ports" in answer.warnings[0]
        assert "skip-inbound-ports" in answer.response.stderr.decode()

    @pytest.mark.parametrize(("component", "asked"), [("destination", 1), (None, 0)])
    def test_the_api_servers_ports_are_asked_for_only_for_linkerds_control_plane(
        self, backend: FakeBackend, netns_fd: int, component: str | None, asked: int
    ) -> None:
        labels = {"linkerd.io/control-plane-component": component} if component else {}
        meta = msgspec.structs.replace(LINKERD_POD.metadata, labels=labels)
        source = Asked([msgspec.structs.replace(LINKERD_POD, metadata=meta)])
        assert call(backend, netns_fd, annotations=None, pods=source).result == "redirected"
        assert source.times == asked
        direct = [str(ports) for ports in backend.applied[0].skip_outbound_ports]
        assert direct == ["443", "8443"][: 2 * asked]

    def test_an_unknown_pod_is_to_be_tried_again(self, backend: FakeBackend, netns_fd: int) -> None:
        error = error_of(call(backend, netns_fd, annotations=None))
        assert error["code"] == 11
        assert "shop/web-0" in error["msg"]
        assert "a list" in error["msg"]

    def test_a_source_in_trouble_is_to_be_tried_again(
        self, backend: FakeBackend, netns_fd: int
    ) -> None:
        error = error_of(call(backend, netns_fd, annotations=None, pods=Trouble()))
        assert error["code"] == 11
        assert "connection refused" in error["msg"]

    def test_an_unusable_annotation_names_the_pod(
        self, backend: FakeBackend, netns_fd: int
    ) -> None:
        error = error_of(call(backend, netns_fd, annotations={ANNOTATION: "{"}))
        assert error["code"] == 7
        assert "shop/web-0" in error["msg"]

    def test_rules_that_cannot_be_set_fail_the_pod(
        self, backend: FakeBackend, netns_fd: int
    ) -> None:
        backend.failure = DataplaneError("the kernel said no")
        answer = call(backend, netns_fd)
        assert error_of(answer)["code"] == 101
        assert "pod shop/web-0: the kernel said no" in answer.error
        assert answer.rules_seconds is not None

    def test_a_meshed_pod_without_netns_fails(self, backend: FakeBackend) -> None:
        env = {NETNS_ERROR: "No such file or directory", "CNI_NETNS": "/run/netns/x"}
        error = error_of(call(backend, None, env=env))
        assert error["code"] == 4
        assert "'/run/netns/x' cannot be used: No such file" in error["msg"]

    def test_simulation_touches_nothing(self, backend: FakeBackend, netns_fd: int) -> None:
        answer = call(backend, netns_fd, linkerd={"simulate": True})
        assert (answer.result, backend.applied) == ("simulated", [])


class TestCheck:
    def test_rules_as_they_should_be_are_silent(self, backend: FakeBackend, netns_fd: int) -> None:
        answer = call(backend, netns_fd, "CHECK")
        assert backend.applied == [REDIRECT]
        assert (answer.response.exit_code, answer.response.stdout) == (0, b"")

    def test_a_difference_is_an_error_that_names_it(
        self, backend: FakeBackend, netns_fd: int
    ) -> None:
        backend.found = "the table is missing"
        error = error_of(call(backend, netns_fd, "CHECK"))
        assert error["code"] == 100
        assert "the table is missing" in error["msg"]

    def test_an_unmeshed_pod_has_nothing_to_check(self, backend: FakeBackend) -> None:
        assert call(backend, None, "CHECK", annotations={}).result == "ok"

    def test_an_old_config_does_not_allow_it(self, backend: FakeBackend, netns_fd: int) -> None:
        error = error_of(call(backend, netns_fd, "CHECK", cniVersion="0.3.1"))
        assert (error["code"], error["msg"]) == (1, "config version does not allow CHECK")


class TestOtherCalls:
    def test_status_is_fine_when_it_can_be_answered(self, backend: FakeBackend) -> None:
        answer = call(backend, None, "STATUS", cniVersion="1.1.0")
        assert (answer.response.exit_code, answer.response.stdout) == (0, b"")

    def test_status_needs_a_config_that_knows_it(self, backend: FakeBackend) -> None:
        assert error_of(call(backend, None, "STATUS", cniVersion="1.0.0"))["code"] == 1

    def test_an_unknown_command_is_an_error(self, backend: FakeBackend) -> None:
        assert error_of(call(backend, None, "UPDATE"))["code"] == 4

    def test_stdin_that_is_not_json_is_an_error(self, backend: FakeBackend) -> None:
        answer = handle(Request(environment(), b"{"), None, backend, KnownPods())
        assert error_of(answer)["code"] == 6

    def test_a_bug_is_answered_with_code_999(self) -> None:
        answer = internal_error(Request(environment(), netconf()))
        error = error_of(answer)
        assert (error["code"], error["cniVersion"]) == (999, "1.0.0")
        assert (answer.command, answer.pod) == ("ADD", "shop/web-0")
        assert "shop/web-0" in error["msg"]


PREVIOUS = {
    "0.1.0": b'{"ip4": {"ip":"10.0.0.2/24"} ,"dns":{}}',
    "0.2.0": b'{"cniVersion":"0.2.0", "ip4":{"ip":"10.0.0.2/24"}}',
    "0.3.0": b'{"cniVersion":"0.3.0","ips":[{"version":"4","address":"10.0.0.2/24"}] }',
    "0.3.1": b'{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}],"x":1.0}',
    "0.4.0": b'{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}',
    "1.0.0": b'{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"new":null}',
    "1.1.0": b'{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1450}]}',
}
"""A result for each version of CNI, in its own form, and with what nobody here knows."""


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
class TestVersions:
    def answer(self, backend: FakeBackend, command: str, version: str) -> Answer:
        conf = json.dumps({"cniVersion": version, "name": "net", "type": "linkerd-cni"}).encode()
        handed = msgspec.json.encode({ANNOTATIONS: MESHED})
        stdin = conf[:-1] + b',"runtimeConfig":' + handed + b',"prevResult":' + PREVIOUS[version]
        return handle(Request(environment(command), stdin + b"}"), 0, backend, KnownPods())

    def test_the_result_so_far_is_handed_on_byte_for_byte(
        self, backend: FakeBackend, version: str
    ) -> None:
        assert self.answer(backend, "ADD", version).response.stdout == PREVIOUS[version]
        assert backend.applied == [REDIRECT]

    @pytest.mark.parametrize(("command", "first"), [("CHECK", "0.4.0"), ("STATUS", "1.1.0")])
    def test_a_command_is_answered_from_its_version_on(
        self, backend: FakeBackend, version: str, command: str, first: str
    ) -> None:
        answer = self.answer(backend, command, version)
        if SUPPORTED_VERSIONS.index(version) >= SUPPORTED_VERSIONS.index(first):
            assert (answer.response.exit_code, answer.response.stdout) == (0, b"")
        else:
            assert error_of(answer)["code"] == 1
            assert error_of(answer)["cniVersion"] == version


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("shop/web-0", "shop/web-0"),
        ("two words", '"two words"'),
        ('say "x"', '"say \\"x\\""'),
        ("a\nb", '"a?b"'),
        ("", '""'),
        (1.005, "1.00"),
        (7, "7"),
    ],
)
def test_a_log_line_stays_one_line_of_words(value: object, shown: str) -> None:
    assert log_line("done", key=value) == f'linkerd-cni: msg="done" key={shown}\n'
