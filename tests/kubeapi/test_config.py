"""Ways to reach a cluster: kubeconfigs, service accounts, certificates."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

import pytest
import trustme
from lightkube.config import kubeconfig as lightkube_kubeconfig

from kubeapi.client import ApiServer, ApiServerError
from kubeapi.config import KubeconfigError, load_config
from tests.kubeapi.fake_apiserver import FakeApiServer, running


def test_a_cluster_is_reached_over_tls_with_the_configured_authority(tmp_path: Path) -> None:
    authority = trustme.CA()

    async def test() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
        async with running(tls=context) as server:
            server.put("shop")
            config = server.kubeconfig(tmp_path, **{"certificate-authority": "ca.crt"})
            body = await _get(config)
            assert b'"shop"' in body
            assert server.asked[0].headers["authorization"] == "Bearer secret"
            with pytest.raises(ApiServerError, match=r"does not answer: .*certificate"):
                await _get(server.kubeconfig(tmp_path))

    asyncio.run(test())


async def _get(kubeconfig: Path) -> bytes:
    api = ApiServer(load_config(kubeconfig))
    try:
        return await api.get("api/v1/namespaces/shop", accept="application/json")
    finally:
        await api.close()


def test_in_a_pod_the_service_account_is_used_and_its_token_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "namespace").write_text("meshgraft")
    (tmp_path / "token").write_text("first")
    in_folder = partial(lightkube_kubeconfig.KubeConfig.from_service_account, tmp_path)
    monkeypatch.setattr(lightkube_kubeconfig.KubeConfig, "from_service_account", in_folder)

    async def test() -> None:
        async with running() as server:
            server.put("shop")
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
            config = load_config(None)
            assert config.cluster.server == f"https://127.0.0.1:{server.port}"
            config.cluster.server = server.url
            api = ApiServer(config)
            await api.get("api/v1/namespaces/shop", accept="application/json")
            (tmp_path / "token").write_text("second")
            await api.get("api/v1/namespaces/shop", accept="application/json")
            (tmp_path / "token").unlink()
            with pytest.raises(ApiServerError, match="token"):
                await api.get("api/v1/namespaces/shop", accept="application/json")
            await api.close()
            tokens = [asked.headers["authorization"] for asked in server.asked]
            assert tokens == ["Bearer first", "Bearer second"]

    asyncio.run(test())


CLUSTER = "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "config: cannot be read: No such file"),
        ("", "config: is no kubeconfig"),
        ("- a", "config: is no kubeconfig"),
        ("{", "config: neither YAML nor JSON"),
        ("clusters: [{}]\ncontexts: []\n", "'name' is missing"),
        ("clusters: 3\ncontexts: []\n", "config: 'int' object"),
        ("clusters: []\ncontexts: []\n", "current context"),
        ("clusters: []\ncontexts: []\ncurrent-context: x\n", "'x' not found"),
        (
            f"{CLUSTER}contexts: [{{name: a, context: {{cluster: b}}}}]\ncurrent-context: a\n",
            "'b' is missing",
        ),
        (
            f"{CLUSTER}contexts: [{{name: a, context: {{cluster: 3}}}}]\ncurrent-context: a\n",
            "Expected `str`",
        ),
    ],
)
def test_a_kubeconfig_that_is_not_usable_says_why(
    tmp_path: Path, content: str | None, text: str
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KubeconfigError, match=text):
        load_config(path)


def test_an_authority_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = FakeApiServer(port=1)
    config = server.kubeconfig(tmp_path, **{"certificate-authority": "/does/not/exist"})
    with pytest.raises(KubeconfigError, match=r"cannot connect to http://\S+: .*No such"):
        ApiServer(load_config(config))


def test_outside_a_cluster_one_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeconfigError, match="--kubeconfig FILE"):
        load_config(None)
