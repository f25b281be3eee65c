"""What would break the pod is not applied, and the warning says what and why."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from injector.core.model import Namespace, Object, Outcome, Owner
from injector.core.mutate import mutate
from injector.core.values import Values
from injector.profiles import get_profile
from tests.injector.support import WEBHOOK, pod, settings

PROFILES = ("envoy", "linkerd")
WHOLE = {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}
SELF: dict[str, Any] = {
    "proxy": {"resources": {"cpu": {"request": "100m"}, "memory": {"limit": "64Mi"}}}
}


def _inject(
    given: Object, profile: str = "envoy", labels: dict[str, str] | None = None, **tree: Any
) -> Outcome:
    values: Values = settings(**{"cniEnabled": True, **tree})
    namespace = Namespace("shop", {"linkerd.io/inject": "enabled"}, labels or {})
    owner = Owner("deployment", "web")
    return mutate(given, namespace, owner, values, get_profile(profile), WEBHOOK)


def _container(patched: Object, name: str) -> Object:
    spec = patched["spec"]
    everyone = (*(spec.get("initContainers") or ()), *spec["containers"])
    return next(one for one in everyone if one["name"].endswith(name))


def _sized(cpu: str, memory: str, own: str = "500m") -> Object:
    amounts = {"cpu": cpu, "memory": memory}
    resources = {"requests": dict(amounts), "limits": dict(amounts)}
    app = {"name": "app", "image": "a", "resources": {"requests": {"cpu": own, "memory": "1Mi"}}}
    return pod(containers=[app], resources=resources)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("given", "left", "said"),
    [
        (_sized("600m", "128Mi"), WHOLE, []),
        (_sized("500m", "128Mi"), {"limits": {"memory": "64Mi"}}, ["cpu"]),
        (_sized("1", "32Mi"), {"requests": {"cpu": "100m"}}, ["memory"]),
        (_sized("500m", "64Mi"), None, ["cpu", "memory"]),
        (pod(resources={"limits": {"hugepages-2Mi": "4Mi"}}), WHOLE, []),
        (pod(resources={"limits": {"cpu": "?"}}), WHOLE, []),
    ],
)
def test_the_proxy_fits_into_the_pods_own_resources(
    profile: str, given: Object, left: Object | None, said: list[str]
) -> None:
    outcome = _inject(given, profile, **SELF)
    assert outcome.injected
    assert _container(outcome.patched, "-proxy").get("resources") == left
    assert len(outcome.conflicts) == len(said)
    for text, name in zip(outcome.conflicts, said, strict=True):
        assert f"the proxy's {name}" in text
        assert f"config.linkerd.io/proxy-{name}-request" in text


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("uid", "expected"),
    [("2102", 65534), ("65534", 65533), ("1000650000", 1000650001), ("1000650007", 1000650000)],
)
def test_the_validator_is_another_user_than_the_proxy(
    profile: str, uid: str, expected: int
) -> None:
    patched = _inject(pod({"config.linkerd.io/proxy-uid": uid}), profile).patched
    context = _container(patched, "network-validator")["securityContext"]
    assert context["runAsUser"] == expected
    assert _container(patched, "-proxy")["securityContext"]["runAsUser"] == int(uid)


def test_a_debug_sidecar_without_a_tag_or_in_a_restricted_namespace_is_left_out() -> None:
    asked = pod({"config.linkerd.io/enable-debug-sidecar": "true"})
    outcome = _inject(asked, linkerdVersion="")
    assert outcome.injected
    assert [one["name"] for one in outcome.patched["spec"]["containers"]] == ["app"]
    assert any("debug-image-version" in text for text in outcome.warnings)
    version = pod(
        {**asked["metadata"]["annotations"], "config.linkerd.io/debug-image-version": "v1"}
    )
    cured = _inject(version, linkerdVersion="")
    assert _container(cured.patched, "linkerd-debug")["image"] == "cr.l5d.io/linkerd/debug:v1"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    refused = _inject(version, labels=labels)
    assert [one["name"] for one in refused.patched["spec"]["containers"]] == ["app"]
    assert any("restricted" in text for text in refused.warnings)


def test_an_annotation_does_not_choose_the_image_that_has_net_admin() -> None:
    chosen = pod(
        {
            "config.linkerd.io/proxy-image": "evil.example/proxy",
            "config.linkerd.io/proxy-version": "v666",
        }
    )
    patched = _inject(chosen, "linkerd", cniEnabled=False).patched
    assert _container(patched, "linkerd-init")["image"] == "cr.l5d.io/linkerd/proxy:v1"
    assert _container(patched, "linkerd-proxy")["image"] == "evil.example/proxy:v666"


@pytest.mark.parametrize("profile", PROFILES)
def test_annotations_that_would_be_too_large_get_no_proxy(profile: str) -> None:
    full = pod({"a": "x" * (256 * 1024 - 200)})
    outcome = _inject(full, profile)
    assert not outcome.injected
    assert outcome.patched == full
    assert "262144" in outcome.warnings[0]
    assert _inject(pod({"a": "x" * (250 * 1024)}), profile).injected


def test_opaque_ports_are_not_handed_down_to_a_pod_that_is_full() -> None:
    full = pod({"a": "x" * (256 * 1024 - 30)})
    namespace = Namespace("shop", {"config.linkerd.io/opaque-ports": "1,2,3"})
    envoy = get_profile("envoy")
    outcome = mutate(full, namespace, Owner("pod", ""), settings(), envoy, WEBHOOK)
    assert outcome.patched == full


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_policy_made_of_the_proxys_user_is_told(profile: str) -> None:
    native = {"config.linkerd.io/proxy-enable-native-sidecar": "true"}
    changed = copy.deepcopy(_inject(pod(native), profile).patched)
    assert not _inject(changed, profile).warnings
    for name in ("-proxy", "network-validator"):
        _container(changed, name)["securityContext"]["runAsUser"] = 1000650000
    again = _inject(changed, profile)
    assert again.patched == changed
    assert ["runAsUser 1000650000" in text for text in again.warnings] == [True, True]
    assert all("config.linkerd.io/proxy-uid" in text for text in again.warnings)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_another_webhook_put_in_front_of_the_proxy_is_told(profile: str) -> None:
    native = {"config.linkerd.io/proxy-enable-native-sidecar": "true"}
    changed = copy.deepcopy(_inject(pod(native), profile).patched)
    changed["spec"]["initContainers"].insert(0, {"name": "vault-agent-init", "image": "v"})
    (warning,) = _inject(changed, profile).warnings
    assert '"vault-agent-init" was put in front of the proxy' in warning
    assert "skip-outbound-ports" in warning
