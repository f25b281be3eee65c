"""The finished Redirect says what proxy-init's arguments say for the same settings."""

from __future__ import annotations

from injector.core.redirect import redirect_for
from tests.injector.support import pod, settings
from vocabulary.annotations import PortRange, parse_redirect


def _ranges(*pairs: tuple[int, int]) -> tuple[PortRange, ...]:
    return tuple(PortRange(*pair) for pair in pairs)


def test_the_defaults() -> None:
    redirect, warnings = redirect_for(settings(), pod())
    assert warnings == ()
    assert (redirect.inbound_port, redirect.outbound_port) == (4143, 4140)
    assert (redirect.proxy_uid, redirect.proxy_gid, redirect.ipv6) == (2102, None, False)
    own = ((4190, 4190), (4191, 4191))
    assert redirect.skip_inbound_ports == _ranges(*own, (4567, 4567), (4568, 4568))
    assert redirect.skip_outbound_ports == _ranges((4567, 4567), (4568, 4568))
    assert redirect.only_inbound_ports == ()


def test_every_setting_is_used() -> None:
    values = settings(
        disableIPv6=False,
        proxy={
            "ports": {"admin": 1, "control": 2, "inbound": 3, "outbound": 4},
            "uid": 5,
            "gid": 0,
        },
        proxyInit={
            "ignoreInboundPorts": "22, 8100-8102",
            "ignoreOutboundPorts": "",
            "skipSubnets": "10.1.2.3/8",
        },
        meshgraft={"skipOutboundSubnets": "fd00::/8"},
    )  # fmt: skip
    redirect, warnings = redirect_for(values, pod())
    assert warnings == ()
    assert (redirect.inbound_port, redirect.outbound_port) == (3, 4)
    assert (redirect.proxy_uid, redirect.proxy_gid, redirect.ipv6) == (5, 0, True)
    assert redirect.skip_inbound_ports == _ranges((2, 2), (1, 1), (22, 22), (8100, 8102))
    assert redirect.skip_outbound_ports == ()
    assert redirect.skip_subnets == ("10.0.0.0/8",)
    assert redirect.skip_outbound_subnets == ("fd00::/8",)
    assert parse_redirect(redirect.to_annotation()) == redirect


def test_bad_items_of_the_values_file_are_named_by_their_path() -> None:
    values = settings(proxyInit={"ignoreInboundPorts": "x,80", "skipSubnets": "y"})
    redirect, warnings = redirect_for(values, pod())
    assert redirect.skip_inbound_ports[2:] == _ranges((80, 80))
    assert redirect.skip_subnets == ()
    assert "proxyInit.ignoreInboundPorts" in warnings[0]
    assert "'x'" in warnings[0]
    assert "proxyInit.skipSubnets" in warnings[1]


def test_ports_that_the_kubelet_probes_by_connecting() -> None:
    def probe(port: object, **more: object) -> object:
        return {"tcpSocket": {"port": port, **more}}

    containers = [
        {
            "name": "app",
            "ports": [{"name": "sql", "containerPort": 5432}],
            "livenessProbe": probe(9999),
            "readinessProbe": probe("sql"),
            "startupProbe": probe(9999),
        },
        {"name": "b", "readinessProbe": probe("sql"), "livenessProbe": probe(1, host="10.0.0.9")},
        {"name": "c", "readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": None},
    ]
    redirect, _ = redirect_for(settings(), pod(containers=containers))
    assert redirect.probe_ports == (9999, 5432)
    assert '"probePorts":[9999,5432]' in redirect.to_annotation()
    assert parse_redirect(redirect.to_annotation()) == redirect
