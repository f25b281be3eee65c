"""Settings: values files, Linkerd's ConfigMap, the profile on top, and errors that lead there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from injector.core.values import Values
from injector.service.settings import Settings, SettingsError, load_values

VALUES = {"clusterDomain": "example.org", "proxy": {"ports": {"admin": 4999}}}
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "linkerd-config"},
    "data": {"linkerd-crd-version": "x", "values": yaml.safe_dump(VALUES)},
}


@pytest.mark.parametrize(
    "text",
    [
        yaml.safe_dump(VALUES),
        json.dumps(VALUES),
        yaml.safe_dump(CONFIG_MAP),
        json.dumps(CONFIG_MAP),
    ],
    ids=["yaml", "json", "configmap yaml", "configmap json"],
)
def test_values_come_from_helm_files_and_from_linkerds_config_map(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "values"
    path.write_text(text)
    values = load_values(path)
    assert (values.cluster_domain, values.proxy.ports.admin) == ("example.org", 4999)


@pytest.mark.parametrize(
    ("text", "kept", "expected"),
    [
        ("{debugContainer: {image: {version: x}}}", "debug_container", "cr.l5d.io/linkerd/debug"),
        ("{meshgraft: {image: {version: x}}}", "meshgraft", "meshgraft/meshgraft"),
    ],
)
def test_an_image_of_which_only_the_version_is_given_keeps_its_name(
    tmp_path: Path, text: str, kept: str, expected: str
) -> None:
    (tmp_path / "values.yaml").write_text(text)
    image = getattr(load_values(tmp_path / "values.yaml"), kept).image
    assert (image.name, image.version) == (expected, "x")


def test_a_probe_of_which_one_time_is_given_keeps_its_others(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("{proxy: {livenessProbe: {periodSeconds: 5}}}")
    probe = load_values(tmp_path / "values.yaml").proxy.liveness_probe
    assert (probe.initial_delay_seconds, probe.period_seconds) == (10, 5)


def test_an_empty_file_and_no_file_give_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("# nothing yet\n")
    assert load_values(path) == Settings().current == Values()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("proxy: {ports: {admin: high}}", "$.proxy.ports.admin"),
        ("meshgraft: {profile: istio}", 'meshgraft.profile "istio": expected one of'),
        ("proxy: {ports: {inbound: 0}}", "$.proxy.ports.inbound"),
        ("imagePullPolicy: Allways", "$.imagePullPolicy"),
        ("proxy: {image: {pullPolicy: Allways}}", "$.proxy.image.pullPolicy"),
        ("proxy: {ports: {inbound: 70000}}", "$.proxy.ports.inbound"),
        ("proxy: {uid: 0}", "$.proxy.uid"),
        ("proxy: {gid: -2}", "$.proxy.gid"),
        ("meshgraft: {envoy: {drainSeconds: -1}}", "$.meshgraft.envoy.drainSeconds"),
        ("a: &a {b: *a}", "nested too deeply"),
        ("- a\n", "must be a mapping"),
        ("a: 1\n---\nb: 2\n", "one document is expected, not 2"),
        ("a: [\n", "neither YAML nor JSON"),
        ("kind: ConfigMap\n", 'no text under data key "values"'),
        ("kind: ConfigMap\ndata: {values: 'a: ['}\n", 'data key "values": neither YAML'),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as problem:
        load_values(path)
    assert str(problem.value).startswith(str(path))
    assert sentence in str(problem.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_values(path)


def test_the_profile_given_beats_the_files(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("meshgraft: {profile: envoy, skipOutboundSubnets: 10.0.0.0/8}")
    assert Settings(path).current.meshgraft.profile == "envoy"
    overridden = Settings(path, "linkerd").current.meshgraft
    assert (overridden.profile, overridden.skip_outbound_subnets) == ("linkerd", "10.0.0.0/8")


def test_reloading_takes_what_is_good_and_keeps_what_was_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("clusterDomain: one")
    settings = Settings(path)
    assert settings.reload() is False
    path.write_text("clusterDomain: two")
    assert settings.reload() is True
    path.write_text("clusterDomain: [")
    with pytest.raises(SettingsError):
        settings.reload()
    assert settings.current.cluster_domain == "two"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("proxy: {inboundConnectTimeout: abc}", "proxy.inboundConnectTimeout: 'abc': expected a d"),
        ("proxy: {outboundConnectTimeout: 0s}", "proxy.outboundConnectTimeout: '0s': expected a d"),
        ("proxy: {shutdownGracePeriod: 5}", "Expected `str`"),
        ("proxy: {shutdownGracePeriod: '5'}", "proxy.shutdownGracePeriod: '5': expected a dur"),
        ("proxy: {resources: {cpu: {limit: lots}}}", "proxy.resources.cpu.limit: 'lots'"),
        ("proxy: {ports: {admin: 4143}}", "proxy.ports: expected four different ports"),
        ("{meshgraft: {profile: linkerd}, proxyInit: {iptablesMode: x}}", "iptablesMode: 'x'"),
        ("{meshgraft: {profile: envoy}, proxyInit: {iptablesMode: x}}", "iptablesMode: 'x'"),
        ("proxy: {additionalEnv: [{value: x}]}", "expected a variable with a name"),
        ("proxy: {cores: -1}", "$.proxy.cores"),
        ("proxy: {livenessProbe: {timeoutSeconds: -1}}", "$.proxy.livenessProbe.timeoutSeconds"),
    ],
)
def test_what_no_pod_could_be_injected_with_is_found_at_once(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as problem:
        Settings(path)
    assert str(problem.value).startswith(str(path))
    assert sentence in str(problem.value)


def test_a_profile_laid_over_the_file_is_tried_too(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("proxyInit: {iptablesMode: x}")
    with pytest.raises(SettingsError, match="iptablesMode"):
        Settings(path, "linkerd")
