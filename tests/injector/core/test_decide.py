"""Which pods get a proxy, and every reason why others do not."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.decide import decide
from injector.core.marks import PROFILE
from injector.core.model import Namespace, Object
from injector.core.skips import SkipReason
from injector.core.values import Values
from tests.injector.support import COMMAND, WEBHOOK, meshed, pod, recorded, settings

R = SkipReason


@pytest.mark.parametrize(
    ("at_namespace", "at_pod", "reason", "annotation_at"),
    [
        ("enabled", None, None, "namespace"),
        ("enabled", "", None, "namespace"),
        ("enabled", "enabled", None, "namespace"),
        ("enabled", "ingress", None, "namespace"),
        ("enabled", "disabled", R.DISABLED, "workload"),
        ("enabled", "yes please", R.INVALID_AT_WORKLOAD, ""),
        ("ingress", None, None, "namespace"),
        ("ingress", "enabled", None, "namespace"),
        ("ingress", "disabled", R.DISABLED, "workload"),
        ("disabled", None, R.ENABLE_ABSENT, ""),
        ("disabled", "enabled", None, "workload"),
        ("disabled", "ingress", None, "workload"),
        ("disabled", "disabled", R.ENABLE_ABSENT, ""),
        ("", "enabled", None, "workload"),
        (None, None, R.ENABLE_ABSENT, ""),
        (None, "", R.ENABLE_ABSENT, ""),
        (None, "enabled", None, "workload"),
        (None, "ingress", None, "workload"),
        (None, "disabled", R.ENABLE_ABSENT, ""),
        (None, "Enabled", R.INVALID_AT_WORKLOAD, ""),
        ("on", "enabled", R.INVALID_AT_NAMESPACE, ""),
        ("on", "off", R.INVALID_AT_NAMESPACE, ""),
    ],
)
def test_truth_table_of_the_webhook(
    at_namespace: str | None, at_pod: str | None, reason: SkipReason | None, annotation_at: str
) -> None:
    key = "linkerd.io/inject"
    where = Namespace("n", {} if at_namespace is None else {key: at_namespace})
    decision = decide(pod(None if at_pod is None else {key: at_pod}), where, Values(), WEBHOOK)
    assert decision.reasons == ((reason,) if reason else ())
    assert decision.annotation_at == annotation_at


@pytest.mark.parametrize("at_pod", [None, "enabled", "ingress", "", "whatever"])
def test_the_command_injects_unless_the_pod_says_no(at_pod: str | None) -> None:
    where = Namespace("n", {"linkerd.io/inject": "disabled"})
    given = pod(None if at_pod is None else {"linkerd.io/inject": at_pod})
    assert decide(given, where, Values(), COMMAND).reasons == ()
    refused = pod({"linkerd.io/inject": "disabled"})
    assert decide(refused, meshed(), Values(), COMMAND).reasons == (R.DISABLED,)


def _with(place: str, **container: Any) -> Object:
    given = pod()
    given["spec"].setdefault(place, []).append({"image": "x", "name": "x", **container})
    return given


@pytest.mark.parametrize("place", ["containers", "initContainers"])
@pytest.mark.parametrize(
    "container",
    [
        {"name": "linkerd-proxy"},
        {"name": "istio-proxy"},
        {"image": "cr.l5d.io/linkerd/proxy:v1"},
        {"image": "gcr.io/istio-release/proxyv2:1"},
    ],
)
def test_a_proxy_of_a_mesh_is_a_sidecar_anywhere(place: str, container: dict[str, str]) -> None:
    found = decide(_with(place, **container), meshed(), Values(), WEBHOOK)
    assert found.reasons == (R.SIDECAR_EXISTS,)


@pytest.mark.parametrize(
    "container",
    [
        {"name": "linkerd-init"},
        {"name": "istio-init"},
        {"name": "meshgraft-init"},
        {"name": "meshgraft-network-validator"},
        {"image": "cr.l5d.io/linkerd/proxy-init:v1"},
        {"image": "gcr.io/istio-release/proxy_init:1"},
    ],
)
def test_a_meshs_init_container_counts_among_init_containers_only(
    container: dict[str, str],
) -> None:
    as_init = decide(_with("initContainers", **container), meshed(), Values(), WEBHOOK)
    assert as_init.reasons == (R.SIDECAR_EXISTS,)
    assert decide(_with("containers", **container), meshed(), Values(), WEBHOOK).reasons == ()


@pytest.mark.parametrize("name", ["envoy", "envoy-proxy", "contour", "linkerd-proxy-2"])
def test_an_envoy_of_the_applications_own_is_no_sidecar(name: str) -> None:
    given = _with("containers", name=name, image="envoyproxy/envoy:v1")
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == ()


def test_all_reasons_are_collected_in_order() -> None:
    given = pod({"linkerd.io/inject": "disabled"}, hostNetwork=True)
    given["spec"]["automountServiceAccountToken"] = False
    given["spec"]["containers"].append({"name": "linkerd-proxy"})
    values = settings(identity={"serviceAccountTokenProjection": False})
    assert decide(given, meshed(), values, WEBHOOK).reasons == (
        R.HOST_NETWORK,
        R.SIDECAR_EXISTS,
        R.DISABLED,
        R.NO_SERVICE_ACCOUNT_TOKEN,
    )


def test_without_projection_the_proxy_needs_the_pods_own_token() -> None:
    values = settings(identity={"serviceAccountTokenProjection": False})
    mounted, _, _ = recorded("pod-shop-web")
    assert decide(mounted, meshed(), values, WEBHOOK).reasons == ()
    assert decide(pod(), meshed(), values, WEBHOOK).reasons == (R.NO_SERVICE_ACCOUNT_TOKEN,)
    # The API server adds the mount; the command sees the pod before that.
    assert decide(pod(), meshed(), values, COMMAND).reasons == ()
    refused = pod(automountServiceAccountToken=False)
    assert decide(refused, meshed(), values, COMMAND).reasons == (R.NO_SERVICE_ACCOUNT_TOKEN,)


def test_mirrors_of_static_pods_are_left_alone() -> None:
    given = pod({"kubernetes.io/config.mirror": "hash", "linkerd.io/inject": "enabled"})
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == (R.MIRROR_POD,)


@pytest.mark.parametrize(
    "given", [{"kind": "Service", "spec": {}}, {"kind": "Namespace"}, {}, {"kind": "Pod"}]
)
def test_what_is_no_pod_is_unsupported(given: Object) -> None:
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == (R.UNSUPPORTED_RESOURCE,)


def test_every_reason_has_a_text() -> None:
    assert len({reason.text for reason in SkipReason}) == len(SkipReason)


def test_a_windows_pod_is_left_alone() -> None:
    """The API server refuses it with a security context for Linux."""
    assert decide(pod(os={"name": "windows"}), meshed(), Values(), WEBHOOK).reasons == (R.WINDOWS,)
    assert decide(pod(os={"name": "linux"}), meshed(), Values(), WEBHOOK).reasons == ()


def _node_affinity(*terms: list[tuple[str, str, list[str]]]) -> dict[str, Any]:
    """Required, each term with its expressions."""
    listed = [
        {
            "matchExpressions": [
                {"key": key, "operator": operator, "values": named} for key, operator, named in term
            ]
        }
        for term in terms
    ]
    required = {"nodeSelectorTerms": listed}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"kubernetes.io/os": "windows"}},
        {"nodeSelector": {"beta.kubernetes.io/os": "windows"}},
        {"securityContext": {"windowsOptions": {"hostProcess": True}}},
        {"affinity": _node_affinity([("kubernetes.io/os", "In", ["windows"])])},
        {"affinity": _node_affinity([("kubernetes.io/os", "NotIn", ["linux"])])},
        {
            "affinity": _node_affinity(
                [("zone", "In", ["a"]), ("kubernetes.io/os", "In", ["windows"])],
                [("kubernetes.io/os", "In", ["windows"])],
            )
        },
    ],
)
def test_however_a_pod_says_that_it_is_for_windows(spec: dict[str, Any]) -> None:
    assert decide(pod(**spec), meshed(), Values(), WEBHOOK).reasons == (R.WINDOWS,)


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"kubernetes.io/os": "linux"}},
        {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "windows"}},
        {"securityContext": {"windowsOptions": {}}},
        {"affinity": _node_affinity()},
        {"affinity": _node_affinity([("kubernetes.io/os", "In", ["linux", "windows"])])},
        {"affinity": _node_affinity([("kubernetes.io/os", "NotIn", ["windows"])])},
        {
            "affinity": _node_affinity(
                [("kubernetes.io/os", "In", ["windows"])], [("zone", "In", ["a"])]
            )
        },
        {"affinity": {"nodeAffinity": None}},
    ],
)
def test_what_may_run_on_linux_is_not_for_windows(spec: dict[str, Any]) -> None:
    assert decide(pod(**spec), meshed(), Values(), WEBHOOK).reasons == ()


@pytest.mark.parametrize("place", ["containers", "initContainers"])
@pytest.mark.parametrize(
    "container",
    [
        {"name": "kuma-sidecar"},
        {"image": "docker.io/kumahq/kuma-dp:2"},
        {"image": "mirror.example:5000/istio/proxyv2@sha256:" + "0" * 64},
        {"name": "consul-dataplane"},
        {"name": "envoy", "image": "public.ecr.aws/appmesh/aws-appmesh-envoy:v1.29.6.1-prod"},
    ],
)
def test_other_meshes_are_known_by_name_or_image(place: str, container: dict[str, str]) -> None:
    found = decide(_with(place, **container), meshed(), Values(), WEBHOOK)
    assert found.reasons == (R.SIDECAR_EXISTS,)


@pytest.mark.parametrize("name", ["kuma-init", "istio-validation", "consul-connect-inject-init"])
def test_other_meshes_are_known_by_what_runs_first(name: str) -> None:
    found = decide(_with("initContainers", name=name), meshed(), Values(), WEBHOOK)
    assert found.reasons == (R.SIDECAR_EXISTS,)


def test_istios_ambient_mode_needs_no_container() -> None:
    given = pod()
    given["metadata"]["labels"] = {"istio.io/dataplane-mode": "ambient"}
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == (R.SIDECAR_EXISTS,)
    given["metadata"]["labels"] = {"istio.io/dataplane-mode": "none"}
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == ()


@pytest.mark.parametrize(("profile", "reasons"), [("envoy", (R.SIDECAR_EXISTS,)), (None, ())])
def test_a_name_of_ours_counts_where_the_pod_says_that_it_is_ours(
    profile: str | None, reasons: tuple[R, ...]
) -> None:
    given = pod({PROFILE: profile} if profile else None)
    given["spec"]["containers"].append({"name": "envoy-proxy", "image": "anything"})
    assert decide(given, meshed(), Values(), WEBHOOK).reasons == reasons
