"""What an ADD means for a pod, and the redirection of pods that Linkerd's injector meshed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from cni_plugin.agent.decide import MARKS, NeedPod, PassThrough, Reason, Redirected, decide
from cni_plugin.agent.netconf import LinkerdConf, NetConf, PodArgs
from cni_plugin.pods.linkerd import wants_api_server
from cni_plugin.pods.source import Pod
from cni_plugin.spec import CniError
from tests.cni_plugin.shim_support import REDIRECT, ROOT
from vocabulary.annotations.redirect import ANNOTATION, PortRange

ARGS = PodArgs("shop", "web-0", "uid-1")


def conf(annotations: Mapping[str, str] | None = None, **changes: Any) -> NetConf:
    return NetConf(cni_version="1.0.0", annotations=annotations, **changes)


def pod(
    annotations: Mapping[str, str] | None = None,
    containers: tuple[str, ...] = ("app", "linkerd-proxy"),
    init: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
) -> Pod:
    """A pod as the API server would send it; the keys are written without their prefix."""
    prefixed = {
        key if "/" in key else f"config.linkerd.io/{key}": value
        for key, value in (annotations or {}).items()
    }
    return msgspec.convert(
        {
            "metadata": {"name": "web-0", "annotations": prefixed, "labels": labels},
            "spec": {
                "containers": [{"name": name} for name in containers],
                "initContainers": [{"name": name} for name in init] or None,
            },
        },
        Pod,
    )


def redirected(given: Pod, **linkerd: Any) -> Redirected:
    decision = decide(conf(linkerd=LinkerdConf(**linkerd)), ARGS, given)
    assert isinstance(decision, Redirected)
    assert decision.reason == Reason.PROXY_CONTAINER
    return decision


def ports(*numbers: int) -> tuple[PortRange, ...]:
    return tuple(PortRange(number, number) for number in numbers)


class TestOrderOfKnowledge:
    @pytest.mark.parametrize("namespace", ["kube-system", "linkerd-cni"])
    def test_an_excluded_namespace_comes_first(self, namespace: str) -> None:
        netconf = conf({ANNOTATION: REDIRECT.to_annotation()})
        decision = decide(netconf, PodArgs(namespace, "x"))
        assert decision == PassThrough(Reason.EXCLUDED_NAMESPACE)

    def test_the_annotation_that_was_handed_over_needs_no_look_up(self) -> None:
        decision = decide(conf({ANNOTATION: REDIRECT.to_annotation()}), ARGS)
        assert decision == Redirected(REDIRECT, Reason.REDIRECT_ANNOTATION)

    @pytest.mark.parametrize("text", ["", "{}", '{"in":4143}', '{"version":2,"inboundPort":1}'])
    def test_an_unusable_annotation_is_code_7_and_names_the_pod(self, text: str) -> None:
        with pytest.raises(CniError, match=r"pod shop/web-0: annotation meshgraft\.io") as caught:
            decide(conf({ANNOTATION: text}), ARGS)
        assert caught.value.code == 7

    def test_annotations_without_a_mark_mean_no_mesh(self) -> None:
        assert decide(conf({}), ARGS) == PassThrough(Reason.NO_MARK)
        assert decide(conf({"a": ANNOTATION}), ARGS) == PassThrough(Reason.NO_MARK)

    @pytest.mark.parametrize("mark", [mark for mark in MARKS if mark != ANNOTATION])
    def test_linkerds_marks_ask_for_the_pod(self, mark: str) -> None:
        assert decide(conf({mark: "x"}), ARGS) == NeedPod()

    def test_a_pod_that_our_injector_meshed_without_the_plugin_passes(self) -> None:
        marks = {"linkerd.io/created-by": "meshgraft/injector 0.1.0"}
        assert decide(conf(marks), ARGS) == PassThrough(Reason.NOT_BY_CNI)
        marks[ANNOTATION] = REDIRECT.to_annotation()
        assert decide(conf(marks), ARGS) == Redirected(REDIRECT, Reason.REDIRECT_ANNOTATION)

    def test_no_annotations_at_all_ask_for_the_pod(self) -> None:
        assert decide(conf(), ARGS) == NeedPod()

    @pytest.mark.parametrize("args", [PodArgs(), PodArgs("shop"), PodArgs("", "web-0")])
    def test_what_is_no_pod_of_kubernetes_passes(self, args: PodArgs) -> None:
        assert decide(conf(), args) == PassThrough(Reason.NOT_A_POD)

    def test_the_static_program_knows_the_same_marks(self) -> None:
        source = (ROOT / "cni_plugin/shim/linkerd-cni.c").read_text()
        assert all(f'"{mark}"' in source for mark in MARKS)


class TestPodObject:
    def test_our_annotation_counts_there_too(self) -> None:
        given = pod({ANNOTATION: REDIRECT.to_annotation()}, containers=("app",))
        assert decide(conf(), ARGS, given) == Redirected(REDIRECT, Reason.REDIRECT_ANNOTATION)

    def test_a_pod_without_proxy_passes(self) -> None:
        decision = decide(conf(), ARGS, pod(containers=("app",), init=("setup",)))
        assert decision == PassThrough(Reason.NO_PROXY)

    def test_a_pod_that_sets_its_rules_itself_passes(self) -> None:
        decision = decide(conf(), ARGS, pod(init=("linkerd-init",)))
        assert decision == PassThrough(Reason.PROXY_INIT)

    def test_a_native_sidecar_counts(self) -> None:
        redirected(pod(containers=("app",), init=("linkerd-network-validator", "linkerd-proxy")))


class TestLinkerdRedirect:
    def test_the_entry_gives_the_defaults(self) -> None:
        decision = redirected(
            pod(),
            inbound_ports_to_ignore=["4191", 4190],
            outbound_ports_to_ignore=["4567-4568"],
            ports_to_redirect=[80],
            subnets_to_ignore=["10.1.2.3/8"],
            proxy_gid=2103,
            ipv6=True,
        )
        redirect = decision.redirect
        assert (redirect.inbound_port, redirect.outbound_port) == (4143, 4140)
        assert (redirect.proxy_uid, redirect.proxy_gid) == (2102, 2103)
        assert redirect.skip_inbound_ports == ports(4191, 4190)
        assert redirect.skip_outbound_ports == (PortRange(4567, 4568),)
        assert redirect.only_inbound_ports == ports(80)
        assert redirect.skip_subnets == ("10.0.0.0/8",)
        assert redirect.ipv6
        assert decision.warnings == ()

    def test_a_port_of_zero_falls_back_to_the_default(self) -> None:
        redirect = redirected(pod(), incoming_proxy_port=0, outgoing_proxy_port=0).redirect
        assert (redirect.inbound_port, redirect.outbound_port) == (4143, 4140)

    @pytest.mark.parametrize("number", [0, -1])
    def test_no_id_means_no_rule(self, number: int) -> None:
        redirect = redirected(pod(), proxy_uid=number, proxy_gid=number).redirect
        assert (redirect.proxy_uid, redirect.proxy_gid) == (0, None)

    @pytest.mark.parametrize(
        ("key", "text", "field", "value"),
        [
            ("skip-inbound-ports", "80, 443", "skip_inbound_ports", ports(4191, 80, 443)),
            ("skip-inbound-ports", "4191,80", "skip_inbound_ports", ports(4191, 80)),
            ("skip-outbound-ports", "25,", "skip_outbound_ports", ports(25)),
            ("skip-outbound-ports", "", "skip_outbound_ports", ports(3306)),
            ("skip-subnets", "192.168.0.0/16 ,fd00::/8", "skip_subnets",
             ("192.168.0.0/16", "fd00::/8")),
            ("skip-outbound-subnets", "10.0.0.0/8", "skip_outbound_subnets", ("10.0.0.0/8",)),
            ("proxy-uid", "1000", "proxy_uid", 1000),
            ("proxy-gid", "1000", "proxy_gid", 1000),
            ("proxy-gid", "0", "proxy_gid", None),
            ("inbound-port", "5143", "inbound_port", 5143),
            ("outbound-port", "5140", "outbound_port", 5140),
            ("admin-port", "5191", "skip_inbound_ports", ports(4191, 5191)),
            ("control-port", "5190", "skip_inbound_ports", ports(4191, 5190)),
        ],
    )  # fmt: skip
    def test_the_pods_annotations_are_laid_over(
        self, key: str, text: str, field: str, value: Any
    ) -> None:
        decision = redirected(
            pod({key: text}),
            inbound_ports_to_ignore=["4191"],
            outbound_ports_to_ignore=["3306"],
            subnets_to_ignore=["172.16.0.0/12"],
        )
        assert getattr(decision.redirect, field) == value
        assert decision.warnings == ()

    @pytest.mark.parametrize(
        ("key", "text", "field", "value"),
        [
            ("skip-inbound-ports", "80,x,443", "skip_inbound_ports", ports(80, 443)),
            ("skip-outbound-ports", "99999,25", "skip_outbound_ports", ports(25)),
            ("skip-subnets", "10.0.0.0/8,nowhere", "skip_subnets", ("10.0.0.0/8",)),
            ("proxy-uid", "root", "proxy_uid", 2102),
            ("inbound-port", "70000", "inbound_port", 4143),
        ],
    )
    def test_a_bad_value_is_warned_of_and_never_fails_the_pod(
        self, key: str, text: str, field: str, value: Any
    ) -> None:
        decision = redirected(pod({key: text}))
        assert getattr(decision.redirect, field) == value
        [warning] = decision.warnings
        assert key in warning
        assert text in warning

    def test_a_bad_item_of_the_entry_is_warned_of_too(self) -> None:
        decision = redirected(pod(), inbound_ports_to_ignore=["x", "80"])
        assert decision.redirect.skip_inbound_ports == ports(80)
        assert "linkerd.inbound-ports-to-ignore" in decision.warnings[0]

    @pytest.mark.parametrize(
        ("labels", "wanted"),
        [
            ({"linkerd.io/control-plane-component": "destination"}, ports(443, 25, 6443)),
            ({"linkerd.io/control-plane-component": ""}, ports(443, 25)),
            ({"linkerd.io/control-plane-ns": "linkerd"}, ports(443, 25)),
            (None, ports(443, 25)),
        ],
    )
    def test_linkerds_control_plane_alone_reaches_the_api_server_directly(
        self, labels: Mapping[str, str] | None, wanted: tuple[PortRange, ...]
    ) -> None:
        given = pod({"skip-outbound-ports": "443,25"}, labels=labels)
        assert wants_api_server(given) == (len(wanted) == 3)
        assert redirected(given).redirect.skip_outbound_ports == wanted

    def test_the_ports_of_the_api_server_are_those_that_were_found_out(self) -> None:
        given = pod(labels={"linkerd.io/control-plane-component": "destination"})
        decision = decide(conf(), ARGS, given, [8443])
        assert isinstance(decision, Redirected)
        assert decision.redirect.skip_outbound_ports == ports(8443)
