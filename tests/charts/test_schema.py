"""``values.schema.json`` catches what a person mistypes, and names the key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from meshgraft._errors import CommandError
from meshgraft.charts.__main__ import generated
from meshgraft.charts.helm import Tree
from meshgraft.charts.location import CHARTS, IN_CLONE, ChartName
from meshgraft.charts.schema import TYPES, values_schema
from meshgraft.charts.tables import described, undescribed
from tests.charts.support import CNI, INJECTOR, objects, rendered

MISTAKES: list[tuple[ChartName, Tree, str]] = [
    (INJECTOR, {"proxi": {}}, "'proxi'"),
    (INJECTOR, {"proxy": {"logLevl": "debug"}}, "proxy: additional properties 'logLevl'"),
    (INJECTOR, {"proxy": {"image": {"tag": "x"}}}, "proxy.image: additional properties 'tag'"),
    (INJECTOR, {"proxy": {"ports": {"inbound": 70000}}}, "proxy.ports.inbound"),
    (INJECTOR, {"proxy": {"uid": 0}}, "proxy.uid"),
    (INJECTOR, {"proxy": {"resources": {"cpu": {"request": 1}}}}, "proxy.resources.cpu.request"),
    (INJECTOR, {"meshgraft": {"profile": "istio"}}, "meshgraft.profile"),
    (INJECTOR, {"meshgraft": {"envoi": {}}}, "meshgraft: additional properties 'envoi'"),
    (INJECTOR, {"webhookFailurePolicy": "fail"}, "webhookFailurePolicy"),
    (INJECTOR, {"controllerReplicas": "3"}, "controllerReplicas"),
    (INJECTOR, {"controllerReplicas": -1}, "controllerReplicas"),
    (INJECTOR, {"certificates": {"mode": "certmanager"}}, "certificates.mode"),
    (INJECTOR, {"certificates": {"certManager": {"duration": "a day"}}}, "certManager.duration"),
    (INJECTOR, {"proxyInjector": {"timeoutSeconds": 31}}, "proxyInjector.timeoutSeconds"),
    (INJECTOR, {"meshgraft": {"optin": "label"}}, "additional properties 'optin'"),
    (INJECTOR, {"meshgraft": {"optIn": "labels"}}, "meshgraft.optIn"),
    (INJECTOR, {"deploymentStrategy": {"rollingUpdate": {"maxSurge": "many"}}}, "maxSurge"),
    (INJECTOR, {"nodeProxy": {"allowFrom": ["10.0.0.0"]}}, "nodeProxy.allowFrom[0]"),
    (INJECTOR, {"controllerLogLevel": "warn"}, "controllerLogLevel"),
    (INJECTOR, {"cniEnabled": "yes"}, "cniEnabled"),
    (INJECTOR, {"imagePullPolicy": "Allways"}, "imagePullPolicy"),
    (CNI, {"inboundPort": 4143}, "'inboundPort'"),
    (CNI, {"inboundProxyPort": 0}, "inboundProxyPort"),
    (CNI, {"ignoreInboundPorts": "ssh"}, "ignoreInboundPorts"),
    (CNI, {"destCNINetDir": "etc/cni/net.d"}, "destCNINetDir"),
    (CNI, {"iptablesMode": "nftables"}, "iptablesMode"),
    (CNI, {"repair": {"enable": True}}, "repair: additional properties 'enable'"),
    (CNI, {"startupTaint": {"key": ""}}, "startupTaint.key"),
    (CNI, {"excludeNamespaces": "kube-system"}, "excludeNamespaces"),
    (CNI, {"image": {"tag": "v1"}}, "image: additional properties 'tag'"),
]


@pytest.mark.parametrize(("chart", "values", "message"), MISTAKES)
def test_a_mistake_is_refused_and_its_key_is_named(
    chart: ChartName, values: Tree, message: str
) -> None:
    with pytest.raises(CommandError) as caught:
        objects(chart, values)
    assert message in str(caught.value)


@pytest.mark.parametrize("chart", CHARTS)
def test_every_key_of_the_values_is_known_and_every_known_key_is_in_the_values(
    chart: ChartName,
) -> None:
    """So that nobody can set what does nothing, and all that can be set is documented."""
    values = yaml.safe_load((IN_CLONE / chart / "values.yaml").read_text())
    assert _unlisted(TYPES[chart], values) == []


def _unlisted(kind: type, values: Any, path: str = "") -> list[str]:
    """Fields of a type that the values lack."""
    missing = []
    for field in msgspec.structs.fields(kind):
        here = f"{path}.{field.encode_name}".lstrip(".")
        if field.encode_name not in values:
            missing += [] if here == "global" else [here]
        elif _is_listed_in_parts(field.type, here):
            missing += _unlisted(field.type, values[field.encode_name], here)
    return missing


def _is_listed_in_parts(kind: Any, path: str) -> bool:
    """Selectors are Kubernetes' own, and have more fields than are needed."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and "Selector" not in path


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_may_hand_down_global_values(chart: ChartName) -> None:
    assert objects(chart, {"global": {"region": "eu"}}) == objects(chart)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_is_closed_wherever_it_names_properties(chart: ChartName) -> None:
    schema = values_schema(chart)
    for name, part in schema["$defs"].items():
        assert part["additionalProperties"] is False, name


@pytest.mark.parametrize("path", generated(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_made_from_the_code_is_as_the_code(path: Any) -> None:
    assert path.read_text() == generated()[path], "run: python -m meshgraft.charts"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_described(chart: ChartName) -> None:
    assert undescribed((IN_CLONE / chart / "values.yaml").read_text()) == []


def test_a_description_is_of_the_key_below_it() -> None:
    text = "# ---- Part one ----\n# -- About a,\n# and more.\na:\n  # -- About b.\n  b: 1\nc: 2\n"
    assert [(one.section, one.path, one.text) for one in described(text)] == [
        ("Part one", ("a",), "About a, and more."),
        ("Part one", ("a", "b"), "About b."),
    ]
    assert undescribed(text) == ["c"]


def test_a_null_takes_a_default_away() -> None:
    """Helm's way, so that a selector can be emptied."""
    plain = rendered(INJECTOR, {"nodeSelector": None})
    assert "nodeSelector" not in "".join(plain.objects)
