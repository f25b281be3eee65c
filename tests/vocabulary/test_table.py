"""The table of annotations is whole and consistent with itself and with the settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from injector.core.resolve import resolve
from injector.core.values import Values
from vocabulary.annotations import ANNOTATIONS, BY_KEY, REMOVED, Annotation, is_unknown
from vocabulary.annotations.parse import BadValue

# One value for each key that differs from the default, and what no key takes (None: takes all).
EXAMPLES: dict[str, tuple[str, str | None]] = {
    "linkerd.io/inject": ("ingress", "yes please"),
    "proxy-image": ("example.com/proxy", "a b"),
    "proxy-version": ("v9", "a b"),
    "image-pull-policy": ("Always", "Sometimes"),
    "debug-image": ("example.com/debug", "a b"),
    "debug-image-version": ("v9", "a b"),
    "debug-image-pull-policy": ("Never", "never"),
    "enable-debug-sidecar": ("true", "yes"),
    "control-port": ("4290", "99999"),
    "admin-port": ("4291", "0"),
    "inbound-port": ("4243", "x"),
    "outbound-port": ("4240", "-1"),
    "skip-inbound-ports": ("22", "x"),
    "skip-outbound-ports": ("22,80-90", "90-80"),
    "skip-subnets": ("10.0.0.0/8", "10.0.0.0/33"),
    "skip-outbound-subnets": ("fd00::/8", "x"),
    "opaque-ports": ("1,pg", "No_Port"),
    "pod-inbound-ports": ("80", "x"),
    "proxy-require-identity-inbound-ports": ("80", "x"),
    "proxy-cpu-request": ("2", "lots"),
    "proxy-cpu-limit": ("3", "-1"),
    "proxy-cpu-ratio-limit": ("0.10", "1"),
    "proxy-memory-request": ("20Mi", "20MB"),
    "proxy-memory-limit": ("250Mi", "x"),
    "proxy-ephemeral-storage-request": ("1Gi", "x"),
    "proxy-ephemeral-storage-limit": ("2Gi", "x"),
    "proxy-uid": ("1337", "root"),
    "proxy-gid": ("1337", "-2"),
    "proxy-log-level": ("debug", None),
    "proxy-log-http-headers": ("insecure", "everything"),
    "proxy-log-format": ("json", "xml"),
    "access-log": ("apache", "nginx"),
    "proxy-metrics-hostname-labels": ("true", "yes"),
    "proxy-admin-shutdown": ("enabled", "true"),
    "enable-external-profiles": ("true", "yes"),
    "enable-gateway": ("true", "yes"),
    "proxy-outbound-connect-timeout": ("2s", "2"),
    "proxy-inbound-connect-timeout": ("2s", "2"),
    "proxy-outbound-discovery-cache-unused-timeout": ("500ms", "x"),
    "proxy-inbound-discovery-cache-unused-timeout": ("10s", "x"),
    "proxy-disable-outbound-protocol-detect-timeout": ("true", "x"),
    "proxy-disable-inbound-protocol-detect-timeout": ("true", "x"),
    "trace-collector": ("collector.tracing:4317", "collector"),
    "default-inbound-policy": ("deny", "allow"),
    "proxy-await": ("disabled", "false"),
    "proxy-enable-native-sidecar": ("false", "off"),
    "config.beta.linkerd.io/proxy-enable-native-sidecar": ("false", "off"),
    "config.alpha.linkerd.io/proxy-enable-native-sidecar": ("false", "off"),
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds": ("5", "5s"),
    "shutdown-grace-period": ("6s5ms", "6"),
    "close-wait-timeout": ("30s", "30"),
    "proxy-additional-env": ('[{"name": "A", "value": "b"}]', "{not json"),
    "resource.opentelemetry.io/<name>": ("x", None),
}


def _example(row: Annotation) -> tuple[str, str | None]:
    return EXAMPLES[row.key.removeprefix("config.linkerd.io/")]


def test_every_key_has_an_example_and_is_there_once() -> None:
    assert len(BY_KEY) == len(ANNOTATIONS) == len(EXAMPLES)


@pytest.mark.parametrize("row", ANNOTATIONS, ids=lambda row: row.key)
def test_a_good_value_changes_the_setting_that_the_table_names(row: Annotation) -> None:
    good, _ = _example(row)
    root = Values(proxy_init=Values().proxy_init.__class__(run_as_root=True))
    resolved = resolve(root, {}, {row.key: good})
    assert resolved.warnings == ()
    assert (resolved.values != root) == (row.sets is not None)


@pytest.mark.parametrize("row", ANNOTATIONS, ids=lambda row: row.key)
def test_a_bad_value_is_refused_with_what_is_expected(row: Annotation) -> None:
    _, bad = _example(row)
    if bad is None:
        assert row.parse("any \0 text") == "any \0 text"
        return
    with pytest.raises(BadValue):
        row.parse(bad)
    resolved = resolve(Values(), {}, {row.key: bad})
    assert resolved.values == Values()
    (warning,) = resolved.warnings
    assert row.key in warning
    assert (repr(bad) in warning) is not row.secret
    assert "expected" in warning
    assert "on the pod" in warning


@pytest.mark.parametrize("row", ANNOTATIONS, ids=lambda row: row.key)
def test_every_row_can_be_documented(row: Annotation) -> None:
    assert row.type
    assert row.effect.endswith(".")


def test_other_rows_name_only_known_keys() -> None:
    assert {other for row in ANNOTATIONS for other in row.hidden_by} <= BY_KEY.keys()
    assert not REMOVED & BY_KEY.keys()


@pytest.mark.parametrize(
    ("key", "unknown"),
    [
        ("config.linkerd.io/proxy-uuid", True),
        ("config.beta.linkerd.io/proxy-await", True),
        ("config.linkerd.io/init-image", True),
        ("config.linkerd.io/proxy-uid", False),
        ("config.linkerd.io/admission-webhooks", False),
        ("linkerd.io/created-by", False),
        ("example.com/proxy-uid", False),
    ],
)
def test_only_keys_in_our_vocabulary_can_be_unknown(key: str, unknown: bool) -> None:
    assert is_unknown(key) is unknown


def test_the_vocabulary_imports_without_the_injector() -> None:
    """The node half imports it: no server, no settings."""
    code = (
        "import sys, vocabulary.annotations;"
        "print([name for name in sys.modules if name.split('.')[0] in ('fastapi', 'pydantic',"
        " 'jsonpatch', 'yaml', 'asyncio')"
        " or name in ('injector.core.values', 'injector.core.model')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
