"""Single objects: names that lead nowhere else, and writes of which the second one loses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kubeapi.client import ApiServer, ApiServerError
from kubeapi.config import load_config
from kubeapi.objects import ObjectRef, RefError, parse_ref, read, write
from kubeapi.reading import MUTATING_WEBHOOKS, NAMESPACES, SECRETS
from tests.kubeapi.fake_apiserver import Fault
from tests.kubeapi.keeping_apiserver import keeping

REF = ObjectRef(SECRETS, "tls", "shop")


@pytest.mark.parametrize(
    ("ref", "path", "text"),
    [
        (REF, "api/v1/namespaces/shop/secrets/tls", "secrets shop/tls"),
        (
            ObjectRef(MUTATING_WEBHOOKS, "hooks"),
            "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/hooks",
            "mutatingwebhookconfigurations hooks",
        ),
    ],
)
def test_the_path_is_by_group_and_namespace(ref: ObjectRef, path: str, text: str) -> None:
    assert (ref.path, str(ref)) == (path, text)
    assert ref.path == f"{ref.collection}/{ref.name}"
    assert ref.selector == {"fieldSelector": f"metadata.name={ref.name}"}


@pytest.mark.parametrize("text", ["tls", "/tls", "shop/", "shop/a/b", "shop/..", "Shop/tls", ""])
def test_what_is_no_reference_is_said_to_be_none(text: str) -> None:
    with pytest.raises(RefError, match=r"is not NAMESPACE/NAME|cannot be the name"):
        parse_ref(text, SECRETS)


def test_a_name_is_needed() -> None:
    with pytest.raises(RefError):
        ObjectRef(NAMESPACES, "")


def test_of_two_writers_the_second_loses(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping() as server:
            api = ApiServer(load_config(server.kubeconfig(tmp_path)))
            assert await read(api, REF) is None
            new = {"metadata": {"namespace": "shop", "name": "tls"}, "data": {}}
            await write(api, REF, new)
            with pytest.raises(ApiServerError) as refused:
                await write(api, REF, new)
            assert refused.value.status == 409
            found = await read(api, REF)
            assert found is not None
            await write(api, REF, {**found, "data": {"a": "1"}})
            with pytest.raises(ApiServerError) as refused:
                await write(api, REF, {**found, "data": {"a": "2"}})
            assert refused.value.status == 409
            now = await read(api, REF)
            assert now is not None
            assert now["data"] == {"a": "1"}
            await api.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(lambda _: True, status=200, body=b"<html>"), "answer is not understood"),
        (Fault(lambda _: True, status=200, body=b"[]"), "answer is not understood"),
        (Fault(lambda _: True, status=403), "with 403"),
    ],
)
def test_an_answer_that_is_no_object_is_an_error(tmp_path: Path, fault: Fault, text: str) -> None:
    async def test() -> None:
        async with keeping(faults=[fault]) as server:
            api = ApiServer(load_config(server.kubeconfig(tmp_path)))
            with pytest.raises(ApiServerError, match=text):
                await read(api, REF)
            await api.close()

    asyncio.run(test())
