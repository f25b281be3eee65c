"""Annotations of namespace and pod are laid over the settings, and bad ones never deny."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.core.resolve import resolve
from injector.core.values import Values, decode_values
from vocabulary.annotations import ANNOTATIONS, BY_KEY

P = "config.linkerd.io/"


def test_without_annotations_the_settings_are_used_as_they_are() -> None:
    values = Values()
    assert resolve(values, {}, {"example.com/x": "y"}).values is values


def test_the_pod_wins_over_its_namespace_and_that_over_the_settings() -> None:
    values = decode_values({"proxy": {"uid": 1, "gid": 1, "logLevel": "one"}})
    namespace = {P + "proxy-gid": "2", P + "proxy-log-level": "two"}
    resolved = resolve(values, namespace, {P + "proxy-log-level": "three"})
    proxy = resolved.values.proxy
    assert (proxy.uid, proxy.gid, proxy.log_level) == (1, 2, "three")
    assert resolved.inherited == {P + "proxy-gid": "2"}


def test_the_settings_are_not_changed() -> None:
    values = Values()
    before = msgspec.json.encode(values)
    resolve(values, {}, {P + "admin-port": "9998", P + "proxy-additional-env": '[{"name": "A"}]'})
    assert msgspec.json.encode(values) == before


def test_a_bad_value_on_the_pod_leaves_the_namespaces_good_one() -> None:
    resolved = resolve(Values(), {P + "proxy-uid": "7"}, {P + "proxy-uid": "root"})
    assert resolved.values.proxy.uid == 7
    (warning,) = resolved.warnings
    assert "on the pod" in warning
    assert "proxy-uid" in warning
    assert resolved.inherited == {}


def test_a_bad_value_on_the_namespace_is_named_there_and_not_spread() -> None:
    resolved = resolve(Values(), {P + "proxy-uid": "root"}, {})
    (warning,) = resolved.warnings
    assert "on the namespace" in warning
    assert resolved.inherited == {}


def test_a_namespaces_bad_value_that_the_pod_hides_is_not_the_pods_matter() -> None:
    assert resolve(Values(), {P + "proxy-uid": "root"}, {P + "proxy-uid": "7"}).warnings == ()


def test_the_good_items_of_a_list_hold() -> None:
    resolved = resolve(Values(), {P + "skip-subnets": "10.0.0.0/8,x"}, {P + "opaque-ports": "1,?"})
    assert resolved.values.proxy_init.skip_subnets == "10.0.0.0/8"
    assert resolved.values.proxy.opaque_ports == "1"
    assert resolved.inherited == {P + "skip-subnets": "10.0.0.0/8"}
    assert len(resolved.warnings) == 2


def test_an_empty_list_replaces_the_default() -> None:
    assert resolve(Values(), {}, {P + "skip-inbound-ports": ""}).values.proxy_init == (
        msgspec.structs.replace(Values().proxy_init, ignore_inbound_ports="")
    )


@pytest.mark.parametrize(
    ("namespace", "pod", "native"),
    [
        ({}, {}, True),
        ({}, {"alpha": "false"}, False),
        ({}, {"beta": "false"}, False),
        ({}, {"beta": "true", "alpha": "false"}, True),
        ({}, {"": "true", "beta": "false", "alpha": "false"}, True),
        ({}, {"": "nonsense", "beta": "false"}, True),
        ({"": "true"}, {"alpha": "false"}, True),
        ({"beta": "false"}, {}, False),
        ({"alpha": "false"}, {"": "true"}, True),
        ({"": "false"}, {"": "nonsense"}, False),
    ],
)
def test_newer_names_of_native_sidecar_hide_older_ones(
    namespace: dict[str, str], pod: dict[str, str], native: bool
) -> None:
    def spelled(layer: dict[str, str]) -> dict[str, str]:
        name = "linkerd.io/proxy-enable-native-sidecar"
        return {f"config.{stage}.{name}".replace("..", "."): text for stage, text in layer.items()}

    resolved = resolve(Values(), spelled(namespace), spelled(pod))
    assert resolved.values.proxy.native_sidecar is native


@pytest.mark.parametrize(
    ("namespace", "pod", "ingress"),
    [
        ("ingress", None, True),
        ("ingress", "enabled", False),
        ("ingress", "", False),
        ("enabled", "ingress", True),
        ("enabled", None, False),
        (None, "ingress", True),
    ],
)
def test_ingress_mode_is_the_pods_own_word_or_else_its_namespaces(
    namespace: str | None, pod: str | None, ingress: bool
) -> None:
    layers = [{} if value is None else {"linkerd.io/inject": value} for value in (namespace, pod)]
    assert resolve(Values(), *layers).values.proxy.is_ingress is ingress


def test_additional_env_adds_up_by_name() -> None:
    values = decode_values(
        {"proxy": {"additionalEnv": [{"name": "A", "value": "0"}, {"name": "B", "value": "0"}]}}
    )
    resolved = resolve(
        values,
        {P + "proxy-additional-env": '[{"name":"B","value":"1"},{"name":"C","value":"1"}]'},
        {P + "proxy-additional-env": '[{"name":"C","value":"2"},{"name":"D","value":"2"}]'},
    )
    found = [(item["name"], item["value"]) for item in resolved.values.proxy.additional_env]
    assert found == [("A", "0"), ("B", "1"), ("C", "2"), ("D", "2")]


def test_cpu_amounts_set_the_threads_too() -> None:
    pod = {P + "proxy-cpu-request": "1100m", P + "proxy-cpu-limit": "2500m"}
    proxy = resolve(Values(), {}, pod).values.proxy
    assert (proxy.resources.cpu.request, proxy.resources.cpu.limit) == ("1100m", "2500m")
    assert (proxy.runtime.workers.minimum, proxy.cores) == (2, 3)


def test_a_request_above_its_limit_would_be_refused_and_is_lowered() -> None:
    values = decode_values({"proxy": {"resources": {"memory": {"limit": "100Mi"}}}})
    resolved = resolve(values, {}, {P + "proxy-memory-request": "1Gi"})
    assert resolved.values.proxy.resources.memory.request == "100Mi"
    (warning,) = resolved.warnings
    assert "memory request 1Gi" in warning
    assert "limit 100Mi" in warning


def test_ports_that_collide_are_not_used() -> None:
    resolved = resolve(Values(), {}, {P + "admin-port": "4143"})
    assert resolved.values.proxy.ports == Values().proxy.ports
    (warning,) = resolved.warnings
    assert "four different ports" in warning


def test_close_wait_timeout_takes_an_init_container_that_runs_as_root() -> None:
    pod = {P + "close-wait-timeout": "30s"}
    resolved = resolve(Values(), {}, pod)
    assert resolved.values.proxy_init.close_wait_timeout_secs == 0
    (warning,) = resolved.warnings
    assert "proxyInit.runAsRoot" in warning
    root = decode_values({"proxyInit": {"runAsRoot": True}})
    assert resolve(root, {}, pod).values.proxy_init.close_wait_timeout_secs == 30
    assert resolve(root, {}, pod).warnings == ()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (P + "proxy-uuid", f'did you mean "{P}proxy-uid"?'),
        (P + "skip-outbound-port", f'did you mean "{P}skip-outbound-ports"?'),
        ("config.linkerd.io/inject", 'did you mean "linkerd.io/inject"?'),
        (P + "wholly-different-thing", "not known, it has no effect"),
        (P + "init-image", "Linkerd has removed"),
    ],
)
@pytest.mark.parametrize("layer", ["pod", "namespace"])
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    key: str, text: str, layer: str
) -> None:
    layers = ({}, {key: "x"}) if layer == "pod" else ({key: "x"}, {})
    resolved = resolve(Values(), *layers)
    (warning,) = resolved.warnings
    assert key in warning
    assert text in warning
    assert f"on the {layer}" in warning
    assert resolved.inherited == {}
    assert ("did you mean" in warning) == ("did you mean" in text)


def test_a_long_bad_value_does_not_fill_the_warning() -> None:
    (warning,) = resolve(Values(), {}, {P + "proxy-uid": "x" * 100_000}).warnings
    assert len(warning) < 256


def test_every_known_key_is_handed_down() -> None:
    """Linkerd forgets some: the debug image, the beta key, close-wait-timeout, the gateway."""
    namespace = {
        P + "debug-image": "example.com/debug",
        P + "enable-gateway": "true",
        P + "proxy-cpu-ratio-limit": "0.5",
        "config.beta.linkerd.io/proxy-enable-native-sidecar": "false",
    }
    assert resolve(Values(), namespace, {}).inherited == namespace


_KEYS = st.sampled_from([*BY_KEY, P + "unknown"])
_TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["80", "true", "1s", "enabled", "10.0.0.0/8", "100m"])
)
_LAYER = st.dictionaries(_KEYS, _TEXTS, max_size=len(ANNOTATIONS))


@settings(max_examples=100)
@given(_LAYER, _LAYER)
def test_no_annotation_ever_denies_a_pod(namespace: dict[str, str], pod: dict[str, str]) -> None:
    resolved = resolve(Values(), namespace, pod)
    again: Any = resolve(Values(), namespace, {**resolved.inherited, **pod})
    assert again.values == resolved.values, "inherited annotations change nothing once copied"
    assert decode_values(msgspec.to_builtins(resolved.values)) == resolved.values


def test_thousands_of_unknown_keys_do_not_hold_up_other_pods() -> None:
    """Any user may bring them; looking for a near key to each would take seconds."""
    keys = {f"{P}proxy-enable-native-sideca{number}": "" for number in range(5000)}
    warnings = resolve(Values(), {}, keys).warnings
    assert len(warnings) == 11
    assert warnings[-1] == "4990 more annotations on the pod are not known"


def test_a_lowered_cpu_request_lowers_the_least_number_of_threads_too() -> None:
    pod = {P + "proxy-cpu-request": "4", P + "proxy-cpu-limit": "1500m"}
    proxy = resolve(Values(), {}, pod).values.proxy
    assert (proxy.resources.cpu.request, proxy.resources.cpu.limit) == ("1500m", "1500m")
    assert (proxy.runtime.workers.minimum, proxy.cores) == (2, 2)


@pytest.mark.parametrize("way", ["inbound", "outbound"])
def test_no_time_at_all_to_connect_is_not_used(way: str) -> None:
    resolved = resolve(Values(), {}, {f"{P}proxy-{way}-connect-timeout": "0s"})
    assert resolved.values.proxy == Values().proxy
    (warning,) = resolved.warnings
    assert "expected a duration above 0" in warning


@pytest.mark.parametrize("key", ["opaque-ports", "skip-inbound-ports", "skip-subnets"])
def test_a_value_longer_than_the_api_server_takes_is_not_read(key: str) -> None:
    resolved = resolve(Values(), {}, {P + key: "80," * 100_000})
    assert resolved.values == Values()
    (warning,) = resolved.warnings
    assert "expected at most 262144 characters" in warning


def test_of_many_bad_items_a_few_are_named() -> None:
    (warning,) = resolve(Values(), {}, {P + "skip-inbound-ports": "!," * 1000}).warnings
    assert "and 990 more" in warning
    assert len(warning) < 400
