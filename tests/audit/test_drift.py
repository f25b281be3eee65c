"""What differs between a live pod and today's, in words, and what is no difference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from injector.core.model import Object
from meshgraft.audit.compare import differences, same_image
from meshgraft.audit.drift import drift
from tests.audit.support import finding, injected, mesh, pod
from tests.injector.support import container

PROXY = {"envoy": "envoy-proxy", "linkerd": "linkerd-proxy"}


def texts(live: Object, **tree: Any) -> list[str]:
    found = finding(live, mesh=mesh(**tree), template={})
    return [reason.text for reason in found.reasons] if found else []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            {},
            {"meshgraft": {"envoy": {"image": {"name": "envoyproxy/envoy", "version": "v1.41.0"}}}},
            ["envoy-proxy: image envoyproxy/envoy:v1.40.0 → envoyproxy/envoy:v1.41.0"],
            id="image",
        ),
        pytest.param(
            {},
            {"proxy": {"resources": {"cpu": {"limit": "200m"}}}},
            [
                "meshgraft-init: resources.limits.cpu (none) → 200m",
                "envoy-proxy: resources.limits.cpu (none) → 200m",
            ],
            id="limits",
        ),
        pytest.param(
            {},
            {"proxy": {"uid": 7}},
            [
                "meshgraft-init: --redirect differs, first at proxyUid",
                "envoy-proxy: securityContext.runAsUser 2102 → 7",
            ],
            id="user",
        ),
        pytest.param(
            {},
            {"proxy": {"logLevel": "debug"}},
            ["envoy-proxy: --log-level warning → debug"],
            id="log level",
        ),
        pytest.param(
            {},
            {"cniEnabled": True},
            [
                "annotation meshgraft.io/redirect",
                "init container meshgraft-network-validator would be added",
                "init container meshgraft-init would be gone",
            ],
            id="CNI plugin",
        ),
        pytest.param(
            {"cniEnabled": True},
            {"cniEnabled": True, "proxyInit": {"ignoreInboundPorts": "25"}},
            ["the traffic rules: skipInboundPorts"],
            id="ports to skip",
        ),
        pytest.param(
            {"proxy": {"nativeSidecar": False}},
            {},
            ["envoy-proxy would be a native sidecar, and is a container"],
            id="position",
        ),
        pytest.param(
            {"meshgraft": {"profile": "linkerd"}, "identityTrustAnchorsPEM": "-----BEGIN A"},
            {"meshgraft": {"profile": "linkerd"}, "identityTrustAnchorsPEM": "-----BEGIN B"},
            [
                "the trust anchors are others",
                "linkerd-proxy: env LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS (certificates) →"
                " (certificates)",
            ],
            id="trust anchors",
        ),
        pytest.param(
            {"meshgraft": {"profile": "linkerd"}, "proxy": {"accessLog": "json"}},
            {"meshgraft": {"profile": "linkerd"}},
            ["linkerd-proxy: env LINKERD2_PROXY_ACCESS_LOG json → (none)"],
            id="variable that is gone",
        ),
        pytest.param(
            {},
            {"meshgraft": {"profile": "linkerd"}},
            ["profile envoy → linkerd"],
            id="profile",
        ),
    ],
)
def test_what_differs_is_named(
    before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    found = texts(injected(pod(), **before), **after)
    for text in expected:
        assert any(text in one for one in found), (text, found)
    assert all(len(text) < 200 for text in found)


def test_settings_that_take_longer_texts_say_where_the_first_difference_is() -> None:
    (text,) = texts(injected(pod()), proxy={"opaquePorts": "25"})
    assert text.startswith("envoy-proxy: --config-yaml differs, first at static_resources")


def mirrored(proxy: Object) -> None:
    proxy["image"] = "mirror.example:5000/" + proxy["image"]


def pinned(proxy: Object) -> None:
    proxy["image"] += "@sha256:0"


def always_pulled(proxy: Object) -> None:
    proxy["imagePullPolicy"] = "Always"


def more_env(proxy: Object) -> None:
    proxy["env"].insert(0, {"name": "AWS_REGION", "value": "here"})


def more_rights(proxy: Object) -> None:
    proxy["securityContext"]["seLinuxOptions"] = {"level": "s0"}


def limits_of_a_range(proxy: Object) -> None:
    proxy["resources"] = {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}


@pytest.mark.parametrize("profile", PROXY)
@pytest.mark.parametrize(
    "change", [mirrored, pinned, always_pulled, more_env, more_rights, limits_of_a_range]
)
def test_what_others_made_of_the_proxy_is_no_difference(
    profile: str, change: Callable[[Object], None]
) -> None:
    tree: dict[str, Any] = {"meshgraft": {"profile": profile}}
    live = injected(pod(), **tree)
    change(container(live, PROXY[profile]))
    assert texts(live, **tree) == []


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        ("a/b:1", "a/b:1", True),
        ("mirror.io/a/b:1", "a/b:1", True),
        ("mirror.io/x/linkerd/proxy:1", "cr.l5d.io/linkerd/proxy:1", True),
        ("a/b:1@sha256:0", "a/b:1", True),
        ("a/b:1", "a/b:1@sha256:0", False),
        ("a/b:2", "a/b:1", False),
        ("xa/b:1", "a/b:1", False),
        ("", "a/b:1", False),
    ],
)
def test_which_images_are_the_same(live: str, wanted: str, expected: bool) -> None:
    assert same_image(live, wanted) is expected


JSON = st.recursive(
    st.one_of(st.integers(0, 3), st.text("ab", max_size=2), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(("name", "a", "b")), inner, max_size=3),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(JSON)
@example([{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}])
@example([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}])
def test_nothing_differs_from_itself(value: Any) -> None:
    assert list(differences(value, copy.deepcopy(value))) == []


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from("abc"), JSON), st.dictionaries(st.sampled_from("xyz"), JSON))
def test_what_the_live_object_says_more_is_no_difference(
    wanted: dict[str, Any], more: dict[str, Any]
) -> None:
    assert list(differences({**wanted, **more}, wanted)) == []


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"a": [{"name": "x"}, {"name": "y"}]}, {"a": [{"name": "z"}]}),
        ({"a": [1]}, {"a": [2]}),
        ({"a": "x"}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": "x"}),
        ({"a": [{"name": "x"}, {"name": "x"}]}, {"a": [{"name": "x", "b": 1}]}),
        (None, {"a": 1}),
    ],
)
def test_what_is_wanted_and_not_there_is_a_difference(live: Any, wanted: Any) -> None:
    assert list(differences(live, wanted))


def test_a_redirect_that_cannot_be_read_is_told() -> None:
    live = injected(pod(), cniEnabled=True)
    for text in ("{", "[]"):
        live["metadata"]["annotations"]["meshgraft.io/redirect"] = text
        assert "annotation meshgraft.io/redirect is not readable" in texts(live, cniEnabled=True)


def test_the_order_of_arguments_counts() -> None:
    live = injected(pod())
    wanted = copy.deepcopy(live)
    args = container(live, "envoy-proxy")["args"]
    args[:4] = [*args[2:4], *args[:2]]
    assert drift(live, wanted) == ["envoy-proxy: the order of its arguments"]
