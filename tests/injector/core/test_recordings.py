"""What a real API server sent, through the whole webhook with the real core and both profiles."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from injector.cluster.events import LoggedEvents
from injector.cluster.source import load_offline_objects
from injector.core.diff import diff
from injector.core.mutate import mutate
from injector.profiles import get_profile
from injector.service.app import Injector, create_app
from injector.service.metrics import Metrics
from injector.service.settings import Settings
from process.health import Health
from tests.injector.support import DATA, INJECTED_PODS, REVIEWS, WEBHOOK, request

PROFILES: tuple[str, ...] = ("envoy", "linkerd")


def review(name: str) -> dict[str, Any]:
    """A recorded AdmissionReview, afresh."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": request(name),
    }


@functools.cache
def app(profile: str, cni: bool) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        values.write(f"cniEnabled: {str(cni).lower()}\n")
        values.flush()
        settings = Settings(Path(values.name), profile)
    injector = Injector(
        settings=settings,
        cluster=load_offline_objects(DATA / "namespaces.json"),
        profiles=get_profile,
        mutate=mutate,
        diff=diff,
        origin=WEBHOOK,
    )
    return create_app(
        injector=injector, metrics=Metrics("test"), events=LoggedEvents(), health=Health()
    )


def post(tree: dict[str, Any], profile: str, *, cni: bool) -> httpx.Response:
    """The webhook's HTTP response to this AdmissionReview."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app(profile, cni))
        async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
            return await client.post("/", content=json.dumps(tree).encode())

    return asyncio.run(send())


def answer(tree: dict[str, Any], profile: str, *, cni: bool) -> dict[str, Any]:
    """The ``response`` of the webhook's answer, after what all answers have in common."""
    response = post(tree, profile, cni=cni)
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    assert (answered["apiVersion"], answered["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    result: dict[str, Any] = answered["response"]
    assert (result["uid"], result["allowed"]) == (tree["request"]["uid"], True)
    assert ("patch" in result) == (result.get("patchType") == "JSONPatch")
    return result


def patched(tree: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """The object as the API server will store it."""
    operations = json.loads(base64.b64decode(response.get("patch", "W10=")))
    result: dict[str, Any] = jsonpatch.apply_patch(tree["request"]["object"], operations)
    return result


@pytest.mark.parametrize("cni", [False, True], ids=["init", "cni"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", REVIEWS)
def test_every_recording_gives_a_valid_object(name: str, profile: str, cni: bool) -> None:
    tree = review(name)
    response = answer(tree, profile, cni=cni)
    result = patched(tree, response)
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(result, version, strict=True)
    injected = response["auditAnnotations"]["result"] == "injected"
    assert injected == (name in INJECTED_PODS)
    assert all(len(warning) <= 256 for warning in response.get("warnings", []))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", INJECTED_PODS)
def test_a_second_pass_over_the_patched_pod_adds_nothing(name: str, profile: str) -> None:
    tree = review(name)
    result = patched(tree, answer(tree, profile, cni=True))
    tree["request"]["object"] = result
    assert "patch" not in answer(tree, profile, cni=True)


@pytest.mark.parametrize("profile", PROFILES)
def test_bad_values_warn_one_by_one_and_never_deny(profile: str) -> None:
    tree = review("pod-shop-bad-values")
    annotations = tree["request"]["object"]["metadata"]["annotations"]
    [about_inject] = answer(tree, profile, cni=True)["warnings"]
    assert "linkerd.io/inject: 'yes please'" in about_inject

    annotations["linkerd.io/inject"] = "enabled"
    warnings = answer(tree, profile, cni=True)["warnings"]
    bad = {key for key in annotations if key.startswith("config.linkerd.io/")}
    assert {key for key in bad if any(key in warning for warning in warnings)} == bad


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99999) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("app") | _JUNK},
        optional=dict.fromkeys(("image", "ports", "env", "volumeMounts", "resources"), _JUNK),
    ),
    max_size=2,
)
_SPECS = st.fixed_dictionaries(
    {"containers": _CONTAINERS | _JUNK},
    optional=dict.fromkeys(("initContainers", "volumes", "hostNetwork"), _CONTAINERS | _JUNK),
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(spec=_SPECS | _JUNK, profile=st.sampled_from(PROFILES))
def test_a_malformed_pod_is_the_senders_fault_and_never_a_defect(spec: Any, profile: str) -> None:
    tree = review("pod-shop-dry")
    tree["request"]["object"]["spec"] = spec
    response = post(tree, profile, cni=False)
    assert response.status_code in (200, 400), response.text
