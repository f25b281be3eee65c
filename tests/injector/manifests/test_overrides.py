"""Flags become settings, and what they changed becomes annotations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from injector.core.values import Values
from injector.manifests.overrides import (
    FLAGS,
    BadOverrideError,
    Overrides,
    go_duration,
    parse_config,
)
from tests.injector.support import settings
from vocabulary.annotations import BY_KEY

BASE = settings()


def _overrides(*flags: tuple[str, str], base: Values = BASE) -> Overrides:
    overrides = Overrides(base)
    for name, text in flags:
        overrides.flag(name, text)
    return overrides


def _at(values: Values, path: str) -> Any:
    tree: Any = msgspec.to_builtins(values)
    for name in path.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize(
    ("flag", "text", "path", "value", "annotation"),
    [
        ("admin-port", "9998", "proxy.ports.admin", 9998, "9998"),
        ("close-wait-timeout", "90s", "proxyInit.closeWaitTimeoutSecs", 90, "1m30s"),
        ("default-inbound-policy", "deny", "proxy.defaultInboundPolicy", "deny", "deny"),
        ("enable-debug-sidecar", "true", "enableDebugSidecar", True, "true"),
        ("enable-external-profiles", "true", "proxy.enableExternalProfiles", True, "true"),
        ("image-pull-policy", "Always", "proxy.image.pullPolicy", "Always", "Always"),
        ("ingress", "ingress", "proxy.isIngress", True, "ingress"),
        ("native-sidecar", "false", "proxy.nativeSidecar", False, "false"),
        ("opaque-ports", "80,mysql", "proxy.opaquePorts", "80,mysql", "80,mysql"),
        ("proxy-cpu", "1", "proxy.resources.cpu.request", "1", "1"),
        ("proxy-cpu-limit", "160m", "proxy.resources.cpu.limit", "160m", "160m"),
        ("proxy-image", "r.io/p", "proxy.image.name", "r.io/p", "r.io/p"),
        ("proxy-memory-limit", "64Mi", "proxy.resources.memory.limit", "64Mi", "64Mi"),
        ("proxy-uid", "33", "proxy.uid", 33, "33"),
        ("proxy-version", "v9", "proxy.image.version", "v9", "v9"),
        ("skip-inbound-ports", "22,8100-8102", "proxyInit.ignoreInboundPorts", None, None),
        ("wait-before-exit-seconds", "5", "proxy.waitBeforeExitSeconds", 5, "5"),
        (
            "require-identity-on-inbound-ports",
            "80",
            "proxy.requireIdentityOnInboundPorts",
            "80",
            "80",
        ),
    ],
)
def test_a_flag_sets_and_says(
    flag: str, text: str, path: str, value: Any, annotation: str | None
) -> None:
    overrides = _overrides((flag, text))
    assert _at(overrides.values, path) == (text if value is None else value)
    assert overrides.annotations == {FLAGS[flag]: annotation or text}
    assert overrides.unsaid == []


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_an_annotation_that_sets_something(flag: str) -> None:
    assert BY_KEY[FLAGS[flag]].sets


def test_what_the_settings_say_already_is_not_said_again() -> None:
    assert _overrides(("native-sidecar", "true"), ("proxy-uid", "2102")).annotations == {}


def test_the_debug_sidecar_is_always_said() -> None:
    on = settings(enableDebugSidecar=True)
    said = _overrides(("enable-debug-sidecar", "true"), base=on).annotations
    assert said == {"config.linkerd.io/enable-debug-sidecar": "true"}
    assert _overrides(("enable-debug-sidecar", "false")).annotations == {}


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [
        ("admin-port", "0", "--admin-port: '0': expected "),
        ("proxy-cpu-limit", "x", "--proxy-cpu-limit: 'x': expected a quantity"),
        ("skip-inbound-ports", "22,x", "--skip-inbound-ports: '22,x': expected .*not usable: 'x'"),
        ("default-inbound-policy", "all", "--default-inbound-policy: 'all': expected one of"),
    ],
)
def test_a_bad_flag_is_refused(flag: str, text: str, said: str) -> None:
    with pytest.raises(BadOverrideError, match=said):
        _overrides((flag, text))


def test_ports_that_collide_are_refused() -> None:
    overrides = _overrides(("admin-port", "4143"))
    with pytest.raises(BadOverrideError, match="four different"):
        _ = overrides.values


@pytest.mark.parametrize(
    ("assignment", "path", "value", "said"),
    [
        ("cniEnabled=true", "cniEnabled", True, {}),
        ("linkerdVersion=1.10", "linkerdVersion", "1.10", {}),
        ("proxy.logLevel=on", "proxy.logLevel", "on", {"proxy-log-level": "on"}),
        ("proxy.await=false", "proxy.await", False, {"proxy-await": "disabled"}),
        ("proxy.uid=null", "proxy.uid", 2102, {}),
        (
            "proxy.resources.ephemeral-storage.limit=1Gi",
            "proxy.resources.ephemeral-storage.limit",
            "1Gi",
            {"proxy-ephemeral-storage-limit": "1Gi"},
        ),
        (
            "proxy.inbound.server.http2.keepAliveTimeout=9s",
            "proxy.inbound.server.http2.keepAliveTimeout",
            "9s",
            {},
        ),
        (
            'proxy.additionalEnv=[{"name": "A", "value": "1"}]',
            "proxy.additionalEnv",
            [{"name": "A", "value": "1"}],
            {"proxy-additional-env": '[{"name":"A","value":"1"}]'},
        ),
    ],
)
def test_set_takes_any_setting(
    assignment: str, path: str, value: Any, said: dict[str, str]
) -> None:
    overrides = Overrides(BASE)
    overrides.set(assignment)
    assert _at(overrides.values, path) == value
    assert overrides.annotations == {f"config.linkerd.io/{key}": text for key, text in said.items()}
    assert overrides.warnings == []


@pytest.mark.parametrize("path", ["controllerReplicas", "proxy.ports.inbond", "proxy.uid.x"])
def test_set_tells_of_a_setting_that_means_nothing(path: str) -> None:
    overrides = Overrides(BASE)
    overrides.set(f"{path}=3")
    assert overrides.values == BASE
    assert overrides.warnings == [f"--set {path}: no setting of that name has an effect here"]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("proxy", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("proxy.ports.admin=x", "proxy.ports.admin"),
        ("proxy.logFormat=xml", "proxy.logFormat: 'xml': expected one of"),
        ("proxy=3", "proxy"),
    ],
)
def test_a_bad_setting_is_refused(assignment: str, said: str) -> None:
    with pytest.raises(BadOverrideError, match=said):
        _annotations_after(assignment)


def _annotations_after(assignment: str) -> dict[str, str]:
    overrides = Overrides(BASE)
    overrides.set(assignment)
    return overrides.annotations


def test_what_no_annotation_can_say_is_known() -> None:
    overrides = _overrides(("proxy-uid", "5"))
    overrides.set("cniEnabled=true")
    overrides.set("proxy.inbound.server.http2.keepAliveTimeout=9s")
    assert overrides.unsaid == ["cniEnabled", "proxy.inbound.server.http2.keepAliveTimeout"]
    assert overrides.rest.cni_enabled
    assert overrides.rest.proxy.uid == BASE.proxy.uid


def test_another_registry_keeps_the_images_names() -> None:
    overrides = Overrides(settings(meshgraft={"profile": "linkerd"}))
    overrides.registry("r.io/mesh/")
    assert overrides.values.proxy.image.name == "r.io/mesh/proxy"
    assert overrides.annotations == {"config.linkerd.io/proxy-image": "r.io/mesh/proxy"}
    overrides.flag("enable-debug-sidecar", "true")
    assert overrides.annotations["config.linkerd.io/debug-image"] == "r.io/mesh/debug"
    envoy = Overrides(BASE)
    envoy.registry("r.io/mesh")
    assert envoy.values.meshgraft.envoy.image.name == "r.io/mesh/envoy"


@pytest.mark.parametrize(
    ("assignment", "key", "text"),
    [
        ("proxy-await=disabled", "config.linkerd.io/proxy-await", "disabled"),
        ("config.linkerd.io/proxy-uid=7", "config.linkerd.io/proxy-uid", "7"),
        (
            "config.alpha.linkerd.io/proxy-wait-before-exit-seconds=7",
            "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
            "7",
        ),
        ("proxy-log-level=a=b", "config.linkerd.io/proxy-log-level", "a=b"),
    ],
)
def test_config_is_an_annotation(assignment: str, key: str, text: str) -> None:
    assert parse_config(assignment) == (key, text)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("proxy-await", "expected KEY=VALUE"),
        ("proxy-await=maybe", "--config proxy-await: 'maybe': expected one of"),
        ("skip-inbound-prots=1", 'did you mean "skip-inbound-ports"'),
        ("example.com/team=x", "is not an annotation of this mesh"),
    ],
)
def test_a_bad_config_is_refused(assignment: str, said: str) -> None:
    with pytest.raises(BadOverrideError, match=said):
        parse_config(assignment)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (30, "30s"), (60, "1m0s"), (90, "1m30s"), (3600, "1h0m0s"), (3661, "1h1m1s")],
)
def test_durations_are_written_as_go_writes_them(seconds: int, text: str) -> None:
    assert go_duration(seconds) == text


def test_worker_threads_follow_the_flags_of_cpu() -> None:
    overrides = _overrides(("proxy-cpu-limit", "2500m"), ("proxy-cpu-request", "1500m"))
    assert overrides.values.proxy.cores == 3
    assert overrides.values.proxy.runtime.workers.minimum == 2
    assert overrides.unsaid == []


def test_a_key_that_is_like_no_other_gets_no_hint() -> None:
    with pytest.raises(BadOverrideError) as caught:
        parse_config("wholly-different-thing=1")
    assert "did you mean" not in str(caught.value)
