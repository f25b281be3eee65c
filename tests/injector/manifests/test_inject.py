"""What inject does with each kind of object, and what it says of it."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.model import Object
from injector.manifests.inject import inject_rule
from injector.manifests.objects import Problem, Refusal, Report, transform, uninject_rule
from tests.injector.manifest_support import PATHS, how, inject, pod_in, workload
from tests.injector.support import container, env, names, pod, settings

POD: Object = {"spec": {"containers": [{"name": "app", "image": "app:1"}]}}
OVERRIDES = {"config.linkerd.io/skip-inbound-ports": "22"}


def _service(**spec: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": spec}


def _namespace(**annotations: str) -> Object:
    metadata: Object = {"name": "shop"}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _annotations(obj: Object) -> dict[str, str]:
    found: dict[str, str] = pod_in(obj)["metadata"]["annotations"]
    return found


@pytest.mark.parametrize("kind", PATHS)
def test_every_kind_of_workload_is_asked_for_at_its_pod(kind: str) -> None:
    after, report = inject(workload(kind, POD), how(overrides=OVERRIDES))
    found = _annotations(after)
    assert found["linkerd.io/inject"] == "enabled"
    assert found["config.linkerd.io/skip-inbound-ports"] == "22"
    assert (report.resource, report.status) == (f"{kind.lower()}/web", "injected")
    if kind != "Pod":
        # On a pod, this would say to the CNI plugin that there is a proxy.
        assert "linkerd.io/created-by" not in found
        assert [*after["metadata"]["annotations"]] == ["linkerd.io/created-by"]
        bare, _ = inject(workload(kind, POD))
        added = {"linkerd.io/created-by": 'meshgraft/cli test {"linkerd.io/inject":null}'}
        assert bare["metadata"] == {"name": "web", "namespace": "shop", "annotations": added}


@pytest.mark.parametrize("kind", PATHS)
def test_every_kind_of_workload_is_injected_whole(kind: str) -> None:
    after, report = inject(workload(kind, POD), how(manual=True, overrides=OVERRIDES))
    injected = pod_in(after)
    assert names(injected["spec"]["initContainers"]) == ["linkerd-init", "linkerd-proxy"]
    assert "linkerd.io/inject" not in _annotations(after)
    assert report.status == "injected"
    labels = injected["metadata"]["labels"]
    assert labels["linkerd.io/workload-ns"] == "shop"
    owner = {key: value for key, value in labels.items() if key.startswith("linkerd.io/proxy-")}
    assert owner == ({} if kind == "Pod" else {f"linkerd.io/proxy-{kind.lower()}": "web"})
    assert {"apiVersion", "kind"} & injected.keys() == (
        {"apiVersion", "kind"} if kind == "Pod" else set()
    )


def test_the_order_of_keys_is_kept() -> None:
    obj = {"kind": "Pod", **pod(), "spec": {"z": 1, "containers": [], "a": 2}}
    after, _ = inject(obj)
    assert list(after) == list(obj)
    assert list(after["spec"]) == ["z", "containers", "a"]


@pytest.mark.parametrize("manual", [False, True])
def test_a_namespace_asks_for_all_its_pods(manual: bool) -> None:
    after, report = inject(_namespace(), how(manual=manual, overrides=OVERRIDES))
    annotations = after["metadata"]["annotations"]
    assert annotations["linkerd.io/inject"] == "enabled"
    assert annotations["config.linkerd.io/skip-inbound-ports"] == "22"
    assert report.status == "annotated"


def test_a_namespace_that_was_disabled_is_enabled_and_can_be_given_back() -> None:
    obj = _namespace(**{"linkerd.io/inject": "disabled"})
    after, _ = inject(obj)
    assert after["metadata"]["annotations"]["linkerd.io/inject"] == "enabled"
    assert uninject_rule(after)[0] == obj


@pytest.mark.parametrize("manual", [False, True])
def test_who_asked_for_ingress_keeps_it(manual: bool) -> None:
    asked = {"metadata": {"annotations": {"linkerd.io/inject": "ingress"}}, **POD}
    after, _ = inject(workload("Deployment", asked), how(manual=manual))
    assert _annotations(after)["linkerd.io/inject"] == "ingress"
    if manual:
        assert env(pod_in(after))["LINKERD2_PROXY_INGRESS_MODE"] == "true"
    namespace, _ = inject(_namespace(**{"linkerd.io/inject": "ingress"}))
    assert namespace["metadata"]["annotations"]["linkerd.io/inject"] == "ingress"


@pytest.mark.parametrize(
    ("flags", "annotation"),
    [
        ({}, None),
        ({"overrides": OVERRIDES}, None),
        ({"overrides": {"config.linkerd.io/opaque-ports": "3306"}}, "3306"),
        ({"config": {"config.linkerd.io/opaque-ports": "25"}}, "25"),
    ],
)
def test_a_service_is_told_its_opaque_ports_only(
    flags: dict[str, Any], annotation: str | None
) -> None:
    obj = _service(ports=[{"port": 3306}])
    after, report = inject(obj, how(**flags))
    assert report.status == ("annotated" if annotation else "skipped")
    found = after["metadata"].get("annotations", {})
    assert found.get("config.linkerd.io/opaque-ports") == annotation
    assert uninject_rule(after)[0] == obj


@pytest.mark.parametrize(
    "obj",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "c"}},
        {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "c"}},
    ],
)
def test_other_kinds_are_skipped(obj: Object) -> None:
    after, report = inject(obj, how(overrides={"config.linkerd.io/opaque-ports": "1"}))
    assert after is obj
    assert (report.status, report.supported) == ("skipped", False)


def test_a_document_without_kind_is_skipped() -> None:
    assert transform({"a": 1}, inject_rule(how())).reports == (Report(kind="", name=""),)


def test_disabled_keeps_a_pod_out_without_an_error() -> None:
    obj = pod({"linkerd.io/inject": "disabled"}, hostNetwork=True)
    after, report = inject(obj)
    assert after is obj
    assert (report.status, report.disabled, report.host_network) == ("skipped", True, True)


@pytest.mark.parametrize(
    ("spec", "why", "field"),
    [
        ({"hostNetwork": True}, "hostNetwork is enabled", "hostNetwork"),
        (
            {"containers": [{"name": "istio-proxy"}]},
            "pod has a sidecar injected already",
            "containers",
        ),
        (
            {"hostNetwork": True, "initContainers": [{"name": "istio-init"}]},
            "hostNetwork is enabled, pod has a sidecar injected already",
            "hostNetwork",
        ),
    ],
)
@pytest.mark.parametrize("manual", [False, True])
def test_what_cannot_be_injected_is_refused(
    manual: bool, spec: Object, why: str, field: str
) -> None:
    obj = workload("Deployment", {"spec": {**POD["spec"], **spec}})
    with pytest.raises(Refusal) as caught:
        inject(obj, how(manual=manual))
    assert caught.value.problem == Problem(
        f"failed to inject deployment/web: {why}", f"spec.template.spec.{field}"
    )


def test_a_pod_whose_token_is_not_mounted_is_refused_where_it_is_needed() -> None:
    values = settings(identity={"serviceAccountTokenProjection": False})
    obj = pod(automountServiceAccountToken=False)
    with pytest.raises(Refusal, match='automountServiceAccountToken set to "false"'):
        inject(obj, how(values=values))
    assert inject(obj)[1].status == "injected"


def test_a_container_called_as_the_proxy_is_not_lost() -> None:
    obj = pod(containers=[{"name": "envoy-proxy", "image": "own:1"}])
    with pytest.raises(Refusal, match='a container is called "envoy-proxy"'):
        inject(obj, how("envoy", manual=True))


@pytest.mark.parametrize(
    ("annotations", "spec", "said"),
    [
        ({"kubernetes.io/config.mirror": "x"}, {}, "mirror of a static pod"),
        ({}, {"os": {"name": "windows"}}, "Windows"),
    ],
)
def test_pods_that_are_never_meshed_are_skipped_with_a_word(
    annotations: dict[str, str], spec: Object, said: str
) -> None:
    _, report = inject(pod(annotations, **spec))
    assert report.status == "skipped"
    assert said in report.warnings[0]


def test_control_plane_components_take_manual() -> None:
    labels = {"linkerd.io/control-plane-component": "destination", "app": "x"}
    obj = workload("Deployment", {"metadata": {"labels": labels}, **POD})
    with pytest.raises(Refusal, match="--manual must be set when injecting control plane"):
        inject(obj)
    after, _ = inject(obj, how(manual=True))
    assert pod_in(after)["metadata"]["labels"].items() >= labels.items()


def test_udp_is_told_and_does_not_matter() -> None:
    ports = [{"containerPort": 53, "protocol": "UDP"}]
    _, report = inject(pod(containers=[{"name": "dns", "ports": ports}]))
    assert (report.status, report.udp) == ("injected", True)


def test_an_earlier_injection_is_renewed() -> None:
    old = pod(
        {"linkerd.io/proxy-version": "old"},
        containers=[{"name": "app"}, {"name": "linkerd-proxy", "image": "proxy:old"}],
    )
    after, _ = inject(old, how(manual=True))
    assert names(after["spec"]["containers"]) == ["app"]
    assert container(after, "linkerd-proxy")["image"].endswith(":v1")


def test_flags_win_over_annotations_and_config_acts_as_one() -> None:
    cpu = "config.linkerd.io/proxy-cpu-limit"
    given = {"config.linkerd.io/skip-inbound-ports": "1", cpu: "9"}
    obj = pod(given)
    values = settings(proxyInit={"ignoreInboundPorts": "22"})
    after, _ = inject(obj, how(values=values, manual=True, overrides=OVERRIDES, config={cpu: "2"}))
    assert "4190,4191,22" in container(after, "linkerd-init")["args"]
    assert env(after)["LINKERD2_PROXY_CORES_MAX"] == "2"
    assert after["metadata"]["annotations"].items() >= {**OVERRIDES, cpu: "2"}.items()
    assert uninject_rule(after)[0] == obj


@pytest.mark.parametrize("manual", [False, True])
def test_annotations_that_mean_nothing_are_told(manual: bool) -> None:
    obj = pod({"config.linkerd.io/skip-inbound-prots": "22", "config.linkerd.io/proxy-uid": "x"})
    _, report = inject(obj, how(manual=manual))
    assert any('did you mean "config.linkerd.io/skip-inbound-ports"' in w for w in report.warnings)
    assert any("proxy-uid" in warning for warning in report.warnings)


def test_no_key_is_offered_that_is_nothing_like_the_one_that_was_meant() -> None:
    obj = pod({"config.linkerd.io/wholly-different-thing": "1"})
    _, report = inject(obj, how())
    assert not any("did you mean" in warning for warning in report.warnings)


def test_an_object_without_a_name_of_its_own_is_named_by_its_prefix() -> None:
    obj = workload("Job", POD)
    obj["metadata"] = {"generateName": "report-"}
    after, report = inject(obj, how(manual=True))
    assert report.resource == "job/report-"
    assert pod_in(after)["metadata"]["labels"]["linkerd.io/proxy-job"] == ""


def test_who_opts_out_of_an_earlier_injection_gets_it_taken_away() -> None:
    injected, _ = inject(pod(), how(manual=True))
    injected["metadata"]["annotations"]["linkerd.io/inject"] = "disabled"
    after, report = inject(injected, how(manual=True))
    assert after == pod({"linkerd.io/inject": "disabled"})
    assert report.disabled


@pytest.mark.parametrize("manual", [False, True], ids=["annotations", "manual"])
def test_what_does_not_go_together_is_told_by_the_command_too(manual: bool) -> None:
    given = {"spec": {"securityContext": {"runAsUser": 2102}, **POD["spec"]}}
    _, report = inject(workload("Deployment", given), how("envoy", manual=manual))
    assert any("proxy-uid" in warning for warning in report.warnings)
