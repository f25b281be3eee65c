"""The static program as a process: what it forwards, and what it answers without the agent."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.protocol import MAX_STDIN, Request, Response
from meshgraft.lab.netns import Netns
from tests.cni_plugin.shim_support import (
    ANNOTATIONS,
    ROOT,
    Finished,
    environment,
    fake_agent,
    netconf,
    program,
    read_request,
    recorded,
    run_program,
)

UNMARKED = {"kubernetes.io/config.source": "api"}


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    source = ROOT / "cni_plugin/shim/linkerd-cni.c"
    flags = ["-std=gnu11", "-static", "-Os", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, source, "-o", tmp_path / "out"], check=True, timeout=60)


def test_it_is_static() -> None:
    """No program header asks for an interpreter (ELF's PT_INTERP), so no libc is loaded."""
    image = program().read_bytes()
    start, size, count = (
        *struct.unpack_from("=Q", image, 32),
        *struct.unpack_from("=HH", image, 54),
    )
    kinds = [struct.unpack_from("=I", image, start + n * size)[0] for n in range(count)]
    assert 1 in kinds
    assert 3 not in kinds
    assert struct.unpack_from("=H", image, 16) == (3,), "ET_DYN: loaded at a random address"


class TestBuildScript:
    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "scripts/build-cni")
        return subprocess.run(
            [script, *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
        )

    def test_it_names_the_package_of_a_missing_compiler(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path / "out"), CC="no-such-compiler")
        assert done.returncode == 1
        assert "apt-get install gcc" in done.stderr

    def test_it_names_the_package_of_a_missing_static_libc(self, tmp_path: Path) -> None:
        compiler = tmp_path / "cc"
        compiler.write_text("#!/bin/sh\nexit 1\n")
        compiler.chmod(0o755)
        done = self.run(str(tmp_path / "out"), CC=str(compiler))
        assert done.returncode == 1
        assert "apt-get install libc6-dev" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cc"]

    def test_it_explains_its_usage(self) -> None:
        assert self.run().returncode == 2


class TestEnvironment:
    @pytest.mark.parametrize("command", ["add", "AD", "ADD ", "UPDATE", "ADD CHECK"])
    def test_an_unknown_command_is_an_error(self, command: str) -> None:
        error = run_program(environment(command)).error
        assert (error["code"], error["msg"]) == (4, f"unknown CNI_COMMAND: {command}")

    @pytest.mark.parametrize(
        ("command", "missing"),
        [
            ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
            ("GC", "CNI_PATH"),
            ("STATUS", "CNI_PATH"),
        ],
    )
    def test_all_missing_names_are_reported_at_once(self, command: str, missing: str) -> None:
        error = run_program({"CNI_COMMAND": command}).error
        assert error["code"] == 4
        assert error["msg"] == f"required env variables [{missing}] missing"

    @pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}])
    def test_a_missing_command_is_reported_alone(self, env: dict[str, str]) -> None:
        assert run_program(env).error["msg"] == "required env variables [CNI_COMMAND] missing"

    @pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", ".a"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", 'a"b\\'),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "eth0/1"),
            ("CNI_IFNAME", "eth0:1"),
            ("CNI_IFNAME", "eth 0"),
            ("CNI_IFNAME", "sixteen-letters-"),
        ],
    )
    def test_a_value_of_the_wrong_form_is_named(self, command: str, name: str, value: str) -> None:
        error = run_program(environment(command, **{name: value})).error
        assert error["code"] == 4
        assert name in error["msg"]

    def test_more_environment_than_fits_is_an_error(self) -> None:
        error = run_program(environment(CNI_PATH="x" * (65 << 10)), netconf()).error
        assert error["code"] == 4
        assert "65536" in error["msg"]


class TestAnsweredAlone:
    def test_version_is_told_without_reading_stdin(self) -> None:
        process = subprocess.Popen(
            [program()],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.PIPE,  # never closed
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            versions = json.loads(process.stdout.read())
        assert process.returncode == 0
        assert versions["cniVersion"] == "1.1.0"
        assert versions["supportedVersions"][0] == "0.1.0"
        assert versions["supportedVersions"][-1] == "1.1.0"

    def test_the_recorded_del_succeeds_in_silence(self) -> None:
        env, stdin = recorded("del")
        done = run_program(env, json.dumps(stdin).encode())
        assert (done.exit_code, done.stdout, done.stderr) == (0, b"", "")

    def test_del_needs_neither_netns_nor_stdin(self) -> None:
        done = run_program(environment("DEL", CNI_NETNS=None), b"not JSON")
        assert (done.exit_code, done.stdout) == (0, b"")

    @pytest.mark.parametrize("command", ["DEL", "GC"])
    def test_an_agent_that_hangs_blocks_no_deletion(self, command: str, tmp_path: Path) -> None:
        with hanging_agent(tmp_path) as agent:
            done = run_program(environment(command), netconf(), agent)
        assert (done.exit_code, done.stdout) == (0, b"")
        assert done.seconds < 1


class TestStdin:
    @pytest.mark.parametrize(
        "stdin",
        [
            b"",
            b"  ",
            b"{",
            b"[]",
            b"null",
            b"3",
            b'"x"',
            b"{}{}",
            b'{"a":}',
            b'{"a" 1}',
            b'{"a":1,}',
            b"{'a':1}",
            b'{"a":01}',
            b'{"a":1.}',
            b'{"a":1e}',
            b'{"a":-}',
            b'{"a":+1}',
            b'{"a":nul}',
            b'{"a":[1,]}',
            b'{"a":[1}',
            b'{"a":"\n"}',
            b'{"a":"\\x"}',
            b'{"a":"\\u12g4"}',
            b'{"a":"b',
            b'{"a":"b\\',
            b'{"a":"b\\u1',
            b'{"a":1}\0',
            b'\xef\xbb\xbf{"a":1}',
        ],
    )
    def test_what_is_no_json_object_is_code_6(self, stdin: bytes) -> None:
        error = run_program(environment(), stdin).error
        assert error["code"] == 6
        assert "shop/web-0" in error["msg"]

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_deep_nesting_is_refused_not_followed(self, opening: bytes) -> None:
        stdin = b'{"x":' + opening * 100_000
        error = run_program(environment(), stdin).error
        assert error["code"] == 6
        assert "64 levels" in error["msg"]

    def test_nesting_within_the_bound_is_fine(self) -> None:
        stdin = b'{"prevResult":{"a":' + b"[" * 62 + b"]" * 62 + b"}}"
        done = run_program(environment(pod="kube-system/dns"), stdin)
        assert done.stdout == stdin[len(b'{"prevResult":') : -1]

    def test_more_than_two_mebibytes_are_refused(self) -> None:
        error = run_program(environment(), b" " * (MAX_STDIN + 1)).error
        assert error["code"] == 6
        assert str(MAX_STDIN) in error["msg"]

    def test_two_mebibytes_are_taken(self) -> None:
        stdin = netconf().ljust(MAX_STDIN)
        assert run_program(environment(pod="kube-system/dns"), stdin).exit_code == 0

    def test_no_pod_may_have_more_annotations_than_fit(self) -> None:
        """The API server allows 256 KiB, and Go writes an angle bracket as six bytes."""
        stdin = netconf({"page": "<" * (256 << 10)}).replace(b"<", b"\\u003c")
        done = run_program(environment(), stdin)
        assert (done.exit_code, json.loads(done.stdout)) == (0, recorded("add")[1]["prevResult"])

    def test_stdin_that_is_never_closed_ends_in_time(self) -> None:
        process = subprocess.Popen(
            [program()],
            env={**environment(), "LINKERD_CNI_TIMEOUT_MS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started = time.monotonic()
        with process:
            assert process.stdout is not None
            error = json.loads(process.stdout.read())
        assert error["code"] == 5
        assert time.monotonic() - started < 2

    @pytest.mark.parametrize(
        ("version", "shown"),
        [("1.0.0", "1.0.0"), ("0.3.1", "0.3.1"), (None, "1.1.0"), (7, "1.1.0"), ('1"0', "1.1.0")],
    )
    def test_an_error_has_the_version_of_the_config(self, version: Any, shown: str) -> None:
        error = run_program(environment(), netconf(cniVersion=version)).error
        assert error["cniVersion"] == shown


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


class TestReadsJsonAsPythonDoes:
    @given(st.dictionaries(st.text(max_size=4), json_values), st.sampled_from([None, 1, "\t"]))
    def test_prev_result_comes_back_byte_for_byte(
        self, result: dict[str, Any], indent: int | str | None
    ) -> None:
        raw = json.dumps(result, indent=indent, ensure_ascii=False).encode()
        stdin = b' {"before" :[{}],\n"prevResult"\t: ' + raw + b' ,"after":{"prevResult":1}} '
        done = run_program(environment(pod="kube-system/dns"), stdin)
        assert (done.exit_code, done.stdout) == (0, raw)

    @given(json_values, st.data())
    def test_it_takes_and_refuses_the_same_texts(self, value: Any, data: st.DataObject) -> None:
        text = json.dumps({"prevResult": {"a": value}})
        at = data.draw(st.integers(0, len(text) - 1))
        insert = data.draw(st.sampled_from(["", *' {}[],:"\\0-.eEu+tn\x01']))
        broken = text[:at] + insert + text[at + data.draw(st.integers(0, 1)) :]
        done = run_program(environment(pod="kube-system/dns"), broken.encode())
        try:
            entry = json.loads(broken, parse_constant=refuse)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            assert done.error["code"] == 6
        elif "prevResult" in entry or "\\" not in broken:
            result = entry.get("prevResult")
            wanted = {"cniVersion": "1.1.0"} if result is None else result
            if isinstance(wanted, dict) and done.exit_code == 0:
                assert json.loads(done.stdout) == wanted
            else:
                assert done.error["code"] == 7


def refuse(constant: str) -> None:
    raise ValueError(constant)


def hanging_agent(tmp_path: Path) -> Any:
    """An agent that takes the call and never answers; it ends when the program gives up."""

    def serve(connection: socket.socket) -> None:
        connection.settimeout(10)
        while connection.recv(1 << 16):
            pass

    return fake_agent(tmp_path / "agent.sock", serve)


class TestForwarding:
    @pytest.mark.root
    def test_it_sends_environment_stdin_and_netns_and_relays_the_answer(
        self, netns: Netns, tmp_path: Path
    ) -> None:
        seen: list[tuple[Request, list[int]]] = []

        def serve(connection: socket.socket) -> None:
            request, fds = read_request(connection)
            seen.append((request, [os.fstat(fd).st_ino for fd in fds]))
            for fd in fds:
                os.close(fd)
            answer = Response(7, b"out\0\xff" * 1000, b"linkerd-cni: err\n" * 100)
            connection.sendall(answer.encode())

        env, stdin = environment(CNI_NETNS=str(netns.path)), netconf() + b"\n"
        with fake_agent(tmp_path / "agent.sock", serve) as agent:
            done = run_program({**env, "HOME": "/root"}, stdin, agent)
        assert done.exit_code == 7
        assert done.stdout == b"out\0\xff" * 1000
        assert done.stderr == "linkerd-cni: err\n" * 100
        assert seen == [(Request(env, stdin), [netns.path.stat().st_ino])]

    def test_large_input_and_output_go_through(self, tmp_path: Path) -> None:
        def serve(connection: socket.socket) -> None:
            request, fds = read_request(connection)
            for fd in fds:
                os.close(fd)
            connection.sendall(Response(0, request.stdin).encode())

        stdin = netconf().ljust(MAX_STDIN)
        with fake_agent(tmp_path / "agent.sock", serve) as agent:
            assert run_program(environment(), stdin, agent).stdout == stdin

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("/nonexistent/netns", "No such file or directory"),
            ("/proc/self/ns/net", "it is the node's own network namespace"),
            ("/proc/self/ns/mnt", "it is not a network namespace"),
            ("/dev/null", "it is not a network namespace"),
        ],
    )
    def test_a_netns_that_cannot_be_used_is_told_to_the_agent(
        self, path: str, problem: str, tmp_path: Path
    ) -> None:
        seen: list[tuple[Request, list[int]]] = []

        def serve(connection: socket.socket) -> None:
            seen.append(read_request(connection))
            connection.sendall(Response().encode())

        with fake_agent(tmp_path / "agent.sock", serve) as agent:
            run_program(environment(CNI_NETNS=path), netconf(), agent)
        [(request, fds)] = seen
        assert fds == []
        assert request.env["LINKERD_CNI_NETNS_ERROR"] == problem

    def test_an_excluded_namespace_needs_no_agent_even_if_one_hangs(self, tmp_path: Path) -> None:
        with hanging_agent(tmp_path) as agent:
            done = run_program(environment(pod="kube-system/dns"), netconf(), agent)
        assert done.exit_code == 0
        assert done.seconds < 1
        assert "pod=kube-system/dns reason=excluded-namespace" in done.stderr


class TestOutputThatNobodyReads:
    @staticmethod
    def run(**closed: bool) -> subprocess.CompletedProcess[bytes]:
        reader, writer = os.pipe()
        os.close(reader)  # writing raises SIGPIPE, unless that is ignored
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        streams.update(dict.fromkeys(closed, writer))
        env = environment(pod="kube-system/dns")
        try:
            return subprocess.run(
                [program()], input=netconf(), env=env, timeout=10, check=False, **streams
            )
        finally:
            os.close(writer)

    def test_a_log_line_is_not_worth_a_pod(self) -> None:
        done = self.run(stderr=True)
        assert done.returncode == 0
        assert json.loads(done.stdout) == recorded("add")[1]["prevResult"]

    def test_a_result_that_cannot_be_written_is_a_failure(self) -> None:
        assert self.run(stdout=True).returncode == 1


def agent_down(tmp_path: Path) -> Any:
    return fake_agent(tmp_path / "other.sock", lambda _: None)


def agent_dies_half_way(tmp_path: Path) -> Any:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(Response(0, b"{}" * 100).encode()[:-7])

    return fake_agent(tmp_path / "agent.sock", serve)


def agent_talks_garbage(tmp_path: Path) -> Any:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

    return fake_agent(tmp_path / "agent.sock", serve)


def agent_promises_too_much(tmp_path: Path) -> Any:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        header = Response().encode()
        connection.sendall(header[:12] + b"\xff\xff\xff\xff" + header[16:])

    return fake_agent(tmp_path / "agent.sock", serve)


def agent_closes_at_once(tmp_path: Path) -> Any:
    return fake_agent(tmp_path / "agent.sock", lambda _: None)


@pytest.mark.parametrize(
    "agent",
    [
        agent_down,
        hanging_agent,
        agent_dies_half_way,
        agent_talks_garbage,
        agent_promises_too_much,
        agent_closes_at_once,
    ],
)
class TestWithoutAWholeAnswer:
    def run(self, agent: Any, tmp_path: Path, env: dict[str, str], stdin: bytes) -> Any:
        with agent(tmp_path):
            done = run_program(env, stdin, tmp_path / "agent.sock", timeout_ms=300)
        assert done.seconds < 3
        return done

    def test_an_add_waits_and_says_for_which_pod(self, agent: Any, tmp_path: Path) -> None:
        error = self.run(agent, tmp_path, environment(), netconf()).error
        assert (error["code"], error["cniVersion"]) == (11, "1.0.0")
        assert "shop/web-0" in error["msg"]
        assert "kubectl -n linkerd-cni" in error["msg"]
        assert str(tmp_path / "agent.sock") in error["msg"]

    def test_an_add_without_marks_is_handed_on(self, agent: Any, tmp_path: Path) -> None:
        done = self.run(agent, tmp_path, environment(), netconf(UNMARKED))
        assert done.exit_code == 0
        assert json.loads(done.stdout) == recorded("add")[1]["prevResult"]
        assert "pod=shop/web-0 reason=no-mark" in done.stderr

    def test_a_check_fails_for_now(self, agent: Any, tmp_path: Path) -> None:
        error = self.run(agent, tmp_path, environment("CHECK"), netconf(UNMARKED)).error
        assert error["code"] == 11

    def test_status_takes_no_node_out_of_service(self, agent: Any, tmp_path: Path) -> None:
        """With code 50 the kubelet starts no pod any more, and so not the agent's either."""
        env = environment("STATUS", CNI_NETNS=None)
        done = self.run(agent, tmp_path, env, netconf())
        assert (done.exit_code, done.stdout) == (0, b"")
        assert "the agent of this node cannot serve" in done.stderr
        assert "kubectl -n linkerd-cni" in done.stderr


class TestAnAgentThatComesBack:
    """What a restart of the agent looks like from a pod that is starting."""

    @pytest.mark.parametrize("command", ["ADD", "CHECK"])
    def test_the_call_is_made_again_and_succeeds(self, command: str, tmp_path: Path) -> None:
        path = tmp_path / "agent.sock"

        def die(connection: socket.socket) -> None:
            read_request(connection)

        def serve(connection: socket.socket) -> None:
            request, _ = read_request(connection)
            connection.sendall(Response(0, request.stdin).encode())

        stdin, done = netconf(), list[Finished]()
        with fake_agent(path, die):
            caller = threading.Thread(
                target=lambda: done.append(run_program(environment(command), stdin, path))
            )
            caller.start()
            time.sleep(0.2)
        path.unlink()
        time.sleep(0.4)
        with fake_agent(path, serve):
            caller.join(timeout=10)
        [finished] = done
        assert (finished.exit_code, finished.stdout) == (0, stdin)
        assert 0.5 < finished.seconds < 3

    def test_a_pod_without_marks_does_not_wait_for_it(self, tmp_path: Path) -> None:
        path = tmp_path / "agent.sock"
        done = run_program(environment(), netconf(UNMARKED), path)
        assert done.exit_code == 0
        assert done.seconds < 1


def raw_conf(runtime_config: str, extra: str = "") -> bytes:
    return f'{{"runtimeConfig":{runtime_config}{extra},"prevResult":{{"a":1}}}}'.encode()


class TestFallbackRule:
    """Which ADDs are handed on while no agent is there."""

    @pytest.mark.parametrize(
        "annotations",
        [
            "{}",
            "null",  # containerd's for a pod that has none
            '{"a":"linkerd.io/created-by"}',
            '{"a":"\\n","xlinkerd.io/created-by":"b"}',
        ],
    )
    def test_annotations_without_a_mark_are_certain(self, annotations: str) -> None:
        done = run_program(environment(), raw_conf(f'{{"{ANNOTATIONS}":{annotations}}}'))
        assert (done.exit_code, done.stdout) == (0, b'{"a":1}')

    @pytest.mark.parametrize(
        "runtime_config",
        [
            "{}",
            "null",
            "[]",
            '"x"',
            f'{{"{ANNOTATIONS}":[]}}',
            f'{{"{ANNOTATIONS}":""}}',
            f'{{"{ANNOTATIONS}":null,"{ANNOTATIONS}":{{"linkerd.io/created-by":"x"}}}}',
            f'{{"{ANNOTATIONS}":null,"\\u0069o":1}}',
            f'{{"{ANNOTATIONS}":{{"meshgraft.io/redirect":"{{}}"}}}}',
            f'{{"{ANNOTATIONS}":{{"a":"b","linkerd.io/proxy-version":"v1"}}}}',
            f'{{"{ANNOTATIONS}":{{"linkerd.io/created-by":null}}}}',
            f'{{"{ANNOTATIONS}":{{"linkerd.io/trust-root-sha256":"x","z":""}}}}',
            f'{{"{ANNOTATIONS}":{{"meshgraft.io\\/redirect":"x"}}}}',
            f'{{"{ANNOTATIONS}":{{"\\u006deshgraft.io/redirect":"x"}}}}',
            f'{{"{ANNOTATIONS}":{{}},"\\u0069o":1}}',
        ],
    )
    def test_anything_else_is_not(self, runtime_config: str) -> None:
        assert run_program(environment(), raw_conf(runtime_config)).error["code"] == 11

    def test_the_recorded_add_waits_because_it_carries_our_mark(self) -> None:
        env, stdin = recorded("add")
        error = run_program(env, json.dumps(stdin).encode()).error
        assert error["code"] == 11
        assert "default/p3" in error["msg"]

    @pytest.mark.parametrize(
        ("namespace", "meshgraft", "excluded"),
        [
            ("kube-system", None, True),
            ("linkerd-cni", None, True),
            ("kube-systemd", None, False),
            ("kube", None, False),
            ("kube-system", {"excludeNamespaces": None}, True),
            ("kube-system", {"excludeNamespaces": []}, False),
            ("kube-system", {"excludeNamespaces": ["shop"]}, False),
            ("shop", {"excludeNamespaces": ["a", "shop"]}, True),
            ("shop", {"excludeNamespaces": "shop"}, False),
            ("shop", {"excludeNamespaces": [["shop"], {"shop": "shop"}, 1]}, False),
        ],
    )
    def test_excluded_namespaces(self, namespace: str, meshgraft: Any, excluded: bool) -> None:
        stdin = netconf(meshgraft=meshgraft)
        done = run_program(environment(pod=f"{namespace}/x"), stdin)
        assert done.exit_code == (0 if excluded else 1)

    @pytest.mark.parametrize(
        "args",
        [
            "",
            "K8S_POD_NAME=x",
            "XK8S_POD_NAMESPACE=kube-system",
            "K8S_POD_NAMESPACE=",
            "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAMESPACE=shop",
            "K8S_POD_NAMESPACE=" + "x" * 300,
        ],
    )
    def test_the_namespace_is_the_one_of_cni_args(self, args: str) -> None:
        assert run_program(environment(CNI_ARGS=args), netconf()).error["code"] == 11

    @pytest.mark.parametrize("prev_result", ['"x"', "[{}]", "7"])
    def test_a_prev_result_that_is_no_object_is_an_error(self, prev_result: str) -> None:
        stdin = f'{{"prevResult":{prev_result}}}'.encode()
        assert run_program(environment(pod="kube-system/x"), stdin).error["code"] == 7

    @pytest.mark.parametrize("prev_result", ["", ',"prevResult":null'])
    def test_without_a_prev_result_the_version_is_printed_as_linkerd_does(
        self, prev_result: str
    ) -> None:
        stdin = f'{{"cniVersion":"0.4.0"{prev_result}}}'.encode()
        done = run_program(environment(pod="kube-system/x"), stdin)
        assert (done.exit_code, done.stdout) == (0, b'{"cniVersion":"0.4.0"}')

    @pytest.mark.parametrize(
        ("level", "logged"), [("info", True), ("DEBUG", True), ("warn", False), (None, False)]
    )
    def test_the_config_says_whether_a_handed_on_pod_is_logged(
        self, level: str | None, logged: bool
    ) -> None:
        done = run_program(environment(pod="kube-system/x"), netconf(log_level=level))
        assert ("linkerd-cni:" in done.stderr) is logged
