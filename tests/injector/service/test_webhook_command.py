"""``meshgraft webhook``: flags that do not go together, and the names that certificates are for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509

from certificates.authority import dns_names
from injector.service.server import Process
from meshgraft._errors import CommandError
from meshgraft.commands.webhook import webhook
from vocabulary.errors import MeshgraftError

OFFLINE = Path(__file__).parents[2] / "data" / "namespaces.json"
KUBECONFIG = """
current-context: c
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c}}]
"""


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """What would have been run."""
    made: list[Process] = []
    monkeypatch.setattr(Process, "run", lambda process: made.append(process))
    return made


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"cert_secret": "a/b"}, "--cert-secret needs --webhook-config"),
        ({"webhook_config": "hooks"}, "go with --cert-secret"),
        ({"cert_lease": "a/b"}, "go with --cert-secret"),
        (
            {"cert_secret": "a/b", "webhook_config": "h", "cert_dir": Path("x")},
            "--cert-dir and --cert-secret exclude each other",
        ),
        ({"cert_secret": "b", "webhook_config": "h"}, "'b' is not NAMESPACE/NAME"),
        ({"cert_secret": "a/b", "webhook_config": "a/b"}, "'a/b' cannot be the name of an object"),
        (
            {"cert_secret": "a/b", "webhook_config": "h", "cert_lease": "x"},
            "'x' is not NAMESPACE/NAME",
        ),
        ({"cert_secret": "a/b", "webhook_config": "h"}, "needs an API server"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    flags: dict[str, Any], sentence: str, processes: list[Process]
) -> None:
    with pytest.raises(MeshgraftError, match=sentence):
        webhook(offline_objects=OFFLINE, **flags)
    assert processes == []


def test_a_certificate_of_a_trial_is_for_the_service_and_this_machine(
    tmp_path: Path, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "mesh")
    webhook(offline_objects=OFFLINE, cert_dir=tmp_path, service_name="hook")
    leaf = x509.load_pem_x509_certificate((tmp_path / "tls.crt").read_bytes())
    assert dns_names(leaf) == ["hook.mesh.svc", "hook.mesh.svc.cluster.local", "localhost"]
    assert {*processes[0].background} == {"reload"}


def test_with_a_secret_everything_runs_beside_and_no_folder_is_made(
    tmp_path: Path, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)
    webhook(
        kubeconfig=tmp_path / "kubeconfig",
        cert_secret="meshgraft/certs",
        webhook_config="hooks",
        cert_lease="meshgraft/lease",
    )
    [process] = processes
    beside = {"certificates", "secrets", "mutatingwebhookconfigurations", "lease"}
    assert beside < {*process.background}
    assert "waiting for secrets meshgraft/certs" in (process.health.report()["certificate"] or "")


def test_where_no_folder_can_be_made_the_way_out_is_told(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: object) -> object:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryDirectory", read_only)
    with pytest.raises(CommandError, match=r"Read-only file system.*--cert-dir"):
        webhook(offline_objects=OFFLINE)
    assert processes == []
