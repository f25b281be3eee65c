"""``meshgraft inject`` and ``uninject`` as a shell runs them: every input, output and error."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.commands.support import Shell
from vocabulary.version import __version__

DEPLOYMENT = """\
# Source: chart/templates/web.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      containers:
      - name: app
        image: "app:1"  # pinned
        env:
        - {name: PORT, value: "080"}
        - {name: DEBUG, value: 'yes'}
"""
CONFIG = """\
# Nothing is   reformatted here.
apiVersion: v1
kind:   ConfigMap
metadata:
    name: settings
data: {a:   "b"}
"""
HOST = """\
apiVersion: v1
kind: Pod
metadata: {name: agent}
spec: {hostNetwork: true, containers: [{name: app}]}
"""
BOTH = f"{DEPLOYMENT}---\n{CONFIG}"


def _annotations(document: Any) -> dict[str, str]:
    found: dict[str, str] = document["spec"]["template"]["metadata"]["annotations"]
    return found


# --- output ------------------------------------------------------------------------------------


def test_annotations_are_all_that_is_added(shell: Shell) -> None:
    run = shell("inject", "-", stdin=BOTH)
    assert run.code == 0
    before, config = yaml.safe_load_all(BOTH)
    web, same = run.documents
    assert _annotations(web) == {"linkerd.io/inject": "enabled"}
    del web["spec"]["template"]["metadata"]
    note = web["metadata"].pop("annotations")
    assert note == {
        "linkerd.io/created-by": f'meshgraft/cli {__version__} {{"linkerd.io/inject":null}}'
    }
    assert (web, same) == (before, config)


def test_the_report_is_linkerds_and_on_stderr(shell: Shell) -> None:
    run = shell("inject", "-", stdin=BOTH)
    assert run.stderr == '\ndeployment "web" injected\nconfigmap "settings" skipped\n\n'
    back = shell("uninject", "-", stdin=run.stdout)
    assert back.stderr == '\ndeployment "web" uninjected\nconfigmap "settings" skipped\n\n'


def test_documents_that_are_not_changed_stay_to_the_letter(shell: Shell) -> None:
    run = shell("inject", "-", stdin=BOTH)
    assert run.stdout.startswith("# Source: chart/templates/web.yaml\napiVersion: apps/v1\n")
    assert run.stdout.endswith(f"---\n{CONFIG}")
    assert 'image: "app:1"\n' in run.stdout
    assert '- {name: PORT, value: "080"}' in run.stdout
    assert "- {name: DEBUG, value: 'yes'}" in run.stdout


@pytest.mark.parametrize("text", [CONFIG, "", "# nothing\n", "---\n---\n", "a:\r\n  - 1\r\n"])
@pytest.mark.parametrize("command", ["inject", "uninject"])
def test_a_file_without_workloads_comes_out_as_it_went_in(
    command: str, text: str, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode())
    run = shell(command, file)
    assert (run.code, run.stdout) == (0, text)


def test_manual_writes_the_proxy_and_uninject_takes_it_away(shell: Shell) -> None:
    run = shell("inject", "--manual", "-", stdin=BOTH)
    spec = run.documents[0]["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["meshgraft-init", "envoy-proxy"]
    assert _annotations(run.documents[0])["meshgraft.io/profile"] == "envoy"
    back = shell("uninject", "-", stdin=run.stdout)
    assert back.documents == [*yaml.safe_load_all(BOTH)]


@pytest.mark.parametrize(
    ("profile", "container"), [("envoy", "envoy-proxy"), ("linkerd", "linkerd-proxy")]
)
def test_the_profile_comes_from_the_flag_or_the_values(
    profile: str, container: str, shell: Shell, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(f"linkerdVersion: v1\nmeshgraft: {{profile: {profile}}}\n")
    for flags in (["--values", values], ["--profile", profile, "--proxy-version", "v1"]):
        run = shell("inject", "--manual", "--ignore-cluster", *flags, "-", stdin=DEPLOYMENT)
        spec = run.documents[0]["spec"]["template"]["spec"]
        assert container in [one["name"] for one in spec["initContainers"]]


def test_json_is_one_document_after_the_other(shell: Shell) -> None:
    run = shell("inject", "-o", "json", "-", stdin=BOTH)
    first, end = json.JSONDecoder().raw_decode(run.stdout)
    second = json.loads(run.stdout[end:])
    assert _annotations(first) == {"linkerd.io/inject": "enabled"}
    assert second["kind"] == "ConfigMap"
    back = shell("uninject", "-", stdin=run.stdout)
    assert back.documents == [*yaml.safe_load_all(BOTH)]


def test_json_in_gives_yaml_or_json_out(shell: Shell) -> None:
    text = json.dumps(yaml.safe_load(DEPLOYMENT), indent="\t")
    run = shell("inject", "-", stdin=text)
    assert _annotations(run.documents[0]) == {"linkerd.io/inject": "enabled"}
    again = shell("uninject", "--output=json", "-", stdin=run.stdout)
    assert json.loads(again.stdout) == json.loads(text)


# --- input -------------------------------------------------------------------------------------


def test_folders_are_read_with_all_below_in_order(shell: Shell, tmp_path: Path) -> None:
    for name, text in {
        "b/z.yaml": DEPLOYMENT,
        "b/a.txt": CONFIG,
        "a.json": '{"kind": "Secret", "metadata": {"name": "s"}}',
        ".git/config": "[not yaml",
        ".a.yaml.swp": "\0",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.json").write_text('{"kind": "Role", "metadata": {"name": "r"}}')
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    run = shell("inject", tmp_path)
    assert [one["kind"] for one in run.documents] == [
        *("Secret", "ConfigMap", "Deployment"),
        "Role",
    ], "a subfolder's where its name is, as with Linkerd's command"


def test_several_resources_come_out_as_one_stream(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG.rstrip())
    run = shell("inject", tmp_path / "a.yaml", "-", tmp_path / "a.yaml", stdin=DEPLOYMENT)
    assert [one["kind"] for one in run.documents] == ["ConfigMap", "Deployment", "ConfigMap"]
    assert run.stderr.count("skipped") == 2


@dataclass(frozen=True)
class _Server:
    url: str
    ca: Path


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A manifest, a redirect, or nothing."""
        moved = {"/moved": "/web.yaml", "/astray": "http://localhost:1/web.yaml"}.get(self.path)
        self.send_response(302 if moved else 200 if self.path == "/web.yaml" else 404)
        if moved:
            self.send_header("Location", moved)
        self.end_headers()
        if self.path == "/web.yaml":
            self.wfile.write(DEPLOYMENT.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Listening(http.server.ThreadingHTTPServer):
    """Shakes hands in the thread of the connection, which closes it whatever comes of that."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, object]:
        """A connection, with TLS to come."""
        raw, address = super().get_request()
        return self.context.wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        ), address

    def handle_error(self, *_: object) -> None:
        """A client that refuses the certificate is what some tests are about."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with _Listening(("127.0.0.1", 0), _Pages) as listening:
        listening.context = context
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield _Server(f"https://localhost:{listening.server_port}", tmp_path / "ca.pem")
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize("page", ["/web.yaml", "/moved"])
def test_https_urls_are_read(
    page: str, server: _Server, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
    run = shell("inject", server.url + page)
    assert run.code == 0, run.stderr
    assert _annotations(run.documents[0]) == {"linkerd.io/inject": "enabled"}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("/nothing", "HTTP 404 Not Found"),
        ("/astray", "redirects to http://localhost:1/web.yaml: only HTTPS URLs are allowed"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    page: str, said: str, server: _Server, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
    run = shell("inject", server.url + page)
    assert (run.code, run.stdout) == (1, "")
    assert run.stderr == f"Error: {server.url}{page}: {said}\n"


def test_a_server_that_nobody_vouches_for_is_not_read(server: _Server, shell: Shell) -> None:
    run = shell("inject", f"{server.url}/web.yaml")
    assert run.code == 1
    assert "certificate verify failed" in run.stderr


@pytest.mark.parametrize("command", ["inject", "uninject"])
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ([], "please specify a kubernetes resource file"),
        (["http://example.com/a.yaml"], "http://example.com/a.yaml: only HTTPS URLs are allowed"),
        (["/nowhere.yaml"], "/nowhere.yaml: cannot be read: No such file or directory"),
        (["--verbos", "-"], "unknown option: --verbos"),
        (["-", "-"], "stdin (-) can be read only once"),
    ],
)
def test_what_cannot_be_read_is_told(
    command: str, resources: list[str], said: str, shell: Shell
) -> None:
    run = shell(command, *resources)
    assert (run.code, run.stdout) == (1, "")
    assert run.stderr.startswith(f"Error: {said}")


def test_what_is_not_text_is_told(shell: Shell) -> None:
    run = shell("inject", "-", stdin=b"a: \xff")
    assert run.stderr == "Error: stdin: not UTF-8 text (byte 3)\n"


# --- errors in documents -----------------------------------------------------------------------


def test_a_pod_that_cannot_be_injected_stops_everything(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(f"{DEPLOYMENT}---\n{HOST}")
    run = shell("inject", file)
    assert (run.code, run.stdout) == (1, "")
    assert run.stderr == (
        '‼ "hostNetwork: true" detected in pod/agent\n'
        "Error transforming resources:\n"
        f"failed to inject pod/agent: hostNetwork is enabled ({file}, document 2,"
        " spec.hostNetwork)\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{CONFIG}---\na: [\n", "stdin: document 2: line 9: not YAML: "),
        ("---\na: 1\na: 2\n", 'stdin: document 1: line 3: key "a" is given twice'),
        (
            f"{CONFIG}---\n{HOST.replace('hostNetwork: true', 'hostNetwork: maybe')}",
            "pod/agent: expected bool | null, got str (stdin, document 2, spec.hostNetwork)",
        ),
        ("- 1\n", "a Kubernetes object is expected here (stdin, document 1)"),
        (
            "kind: List\nitems:\n- kind: Pod\n  metadata: {name: p, labels: {a: 1}}\n",
            "pod/p: a text is expected, not a number; quotes make it one (stdin, document 1,"
            " items[0].metadata.labels[a])",
        ),
    ],
)
def test_errors_name_file_document_and_field(text: str, said: str, shell: Shell) -> None:
    run = shell("inject", "-", stdin=text)
    assert (run.code, run.stdout) == (1, "")
    assert f"Error transforming resources:\n{said}" in run.stderr


def test_all_errors_are_told_at_once(shell: Shell) -> None:
    run = shell("inject", "-", stdin=f"{HOST}---\na: [\n---\n{HOST}")
    assert run.stderr.count("failed to inject pod/agent") == 2
    assert "document 2: line 7" in run.stderr


def test_what_inject_refuses_uninject_leaves_alone(shell: Shell) -> None:
    run = shell("uninject", "-", stdin=HOST)
    assert (run.code, run.stdout) == (0, HOST)


# --- flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--skip-inbound-ports", "22,80"], {"config.linkerd.io/skip-inbound-ports": "22,80"}),
        (["--enable-debug-sidecar"], {"config.linkerd.io/enable-debug-sidecar": "true"}),
        (["--ingress"], {"linkerd.io/inject": "ingress"}),
        (["-v", "v9"], {"config.linkerd.io/proxy-version": "v9"}),
        (["--config=proxy-await=disabled"], {"config.linkerd.io/proxy-await": "disabled"}),
        (["--set", "proxy.logLevel=debug"], {"config.linkerd.io/proxy-log-level": "debug"}),
        (["--native-sidecar=false"], {"config.linkerd.io/proxy-enable-native-sidecar": "false"}),
        (["--manual=false"], {}),
    ],
)
def test_flags_become_annotations_and_go_again(
    flags: list[str], said: dict[str, str], shell: Shell
) -> None:
    run = shell("inject", *flags, "-", stdin=DEPLOYMENT)
    assert run.code == 0, run.stderr
    found = _annotations(run.documents[0])
    found.pop("linkerd.io/created-by", None)
    assert found == {"linkerd.io/inject": "enabled", **said}
    back = shell("uninject", "-", stdin=run.stdout)
    assert back.documents == [yaml.safe_load(DEPLOYMENT)]


def test_with_envoy_a_flag_means_what_its_annotation_means(shell: Shell) -> None:
    flags = ["--proxy-image=r.io/envoy", "--proxy-cpu-limit=3"]
    run = shell("inject", "--manual", *flags, "-", stdin=DEPLOYMENT)
    init = run.documents[0]["spec"]["template"]["spec"]["initContainers"]
    proxy = next(one for one in init if one["name"] == "envoy-proxy")
    assert proxy["image"].startswith("r.io/envoy:")
    assert proxy["resources"]["limits"]["cpu"] == "3"
    assert proxy["args"][proxy["args"].index("--concurrency") + 1] == "3"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--proxy-cpu", "1"], "‼ flag --proxy-cpu has been deprecated, use --proxy-cpu-request"),
        (["--set", "nope=1"], "‼ --set nope: no setting of that name has an effect here"),
        (["--set", "cniEnabled=true"], "‼ cniEnabled has no effect without --manual"),
        (["--verbose"], "√ pods do not use host networking"),
    ],
)
def test_what_a_flag_does_not_do_is_told(flags: list[str], said: str, shell: Shell) -> None:
    run = shell("inject", *flags, "-", stdin=DEPLOYMENT)
    assert run.code == 0
    assert said in run.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--proxy-cpu-limit=x"], "--proxy-cpu-limit: 'x': expected a quantity"),
        (["--config=skip-inbound-prots=1"], 'did you mean "skip-inbound-ports"?'),
        (["--set=proxy.uid=x"], "proxy.uid"),
        (["--admin-port=4143"], "must be four different"),
        (["--disable-identity"], "--disable-identity is no longer supported"),
        (["--manual", "--profile=linkerd"], "cannot ask a cluster for them yet"),
        (["--manual", "--profile=linkerd", "--ignore-cluster"], "give --proxy-version"),
        (["--values=/nowhere"], "/nowhere: cannot be read"),
    ],
)
def test_flags_that_cannot_be_used_are_errors(flags: list[str], said: str, shell: Shell) -> None:
    run = shell("inject", *flags, "-", stdin=DEPLOYMENT)
    assert (run.code, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: ")
    assert said in run.stderr


def test_the_registry_may_come_from_the_environment(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINKERD_DOCKER_REGISTRY", "r.io/mesh")
    run = shell("inject", "--profile=linkerd", "-", stdin=DEPLOYMENT)
    found = _annotations(run.documents[0])
    assert found["config.linkerd.io/proxy-image"] == "r.io/mesh/proxy"
    assert _annotations(shell("inject", "-", stdin=DEPLOYMENT).documents[0]) == {
        "linkerd.io/inject": "enabled"
    }


def test_linkerds_documents_hold_no_annotation_that_linkerd_does_not_know(shell: Shell) -> None:
    tracing = ("--set=proxy.tracing.enabled=true", "--set=proxy.tracing.collector.endpoint=c:1")
    flags = ("--manual", "--profile=linkerd", "--ignore-cluster", "-v", "v1", *tracing)
    run = shell("inject", *flags, "-", stdin=DEPLOYMENT)
    assert "config.linkerd.io/trace-collector" not in _annotations(run.documents[0])
    assert "identityTrustAnchorsPEM is empty" in run.stderr
    asked = shell("inject", "--profile=linkerd", *tracing, "-", stdin=DEPLOYMENT)
    assert _annotations(asked.documents[0])["config.linkerd.io/trace-collector"] == "c:1"


# --- as processes ------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "meshgraft"]


def test_in_a_pipe_uninject_undoes_inject() -> None:
    inject = subprocess.run(
        [*COMMAND, "inject", "--manual", "-"], input=BOTH.encode(), capture_output=True, check=True
    )
    back = subprocess.run(
        [*COMMAND, "uninject", "-"], input=inject.stdout, capture_output=True, check=True
    )
    assert [*yaml.safe_load_all(back.stdout)] == [*yaml.safe_load_all(BOTH)]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_causes_no_traceback(unbuffered: str) -> None:
    many = "---\n".join([DEPLOYMENT] * 300)
    with subprocess.Popen(
        [*COMMAND, "inject", "--manual", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(many.encode())
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert b"Traceback" not in process.stderr.read()
