"""A pod of ours that the API server sends again, after another webhook changed it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from injector.core.diff import diff
from injector.core.model import Namespace, Object, Origin, Outcome, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import PROFILES
from tests.injector.support import container, env
from vocabulary.annotations.redirect import WEBHOOK

NAMESPACE = Namespace("shop", {"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-uid": "7"})
MODES: dict[str, dict[str, Any]] = {
    "native": {},
    "cni": {"cniEnabled": True},
    "first": {"proxy": {"nativeSidecar": False}},
    "last": {"proxy": {"nativeSidecar": False, "await": False}},
}


def inject(pod: Object, profile: str, mode: str) -> Outcome:
    return mutate(
        pod,
        NAMESPACE,
        Owner("deployment", "web"),
        decode_values(MODES[mode]),
        PROFILES[profile],
        Origin(f"{WEBHOOK} 1.2.3", additions=True),
    )


def fresh() -> Object:
    app = {"name": "app", "image": "app", "ports": [{"containerPort": 3306}]}
    spec = {"containers": [app], "initContainers": [{"name": "setup", "image": "app"}]}
    return {"kind": "Pod", "metadata": {"name": "web"}, "spec": spec}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", PROFILES)
class TestAgain:
    def test_an_unchanged_pod_gets_an_empty_patch_and_no_event(
        self, profile: str, mode: str
    ) -> None:
        first = inject(fresh(), profile, mode).patched
        again = inject(copy.deepcopy(first), profile, mode)
        assert diff(first, again.patched) == []
        assert profile == "node" or again.events == ()

    def test_what_another_webhook_put_among_ours_stays_where_it_is(
        self, profile: str, mode: str
    ) -> None:
        changed = copy.deepcopy(inject(fresh(), profile, mode).patched)
        changed["spec"]["initContainers"].insert(0, {"name": "theirs", "image": "x"})
        changed["spec"].setdefault("volumes", []).append({"name": "theirs", "emptyDir": {}})
        again = inject(changed, profile, mode)
        if profile != "node":
            assert again.patched == changed

    def test_a_container_that_came_later_is_seen(self, profile: str, mode: str) -> None:
        changed = copy.deepcopy(inject(fresh(), profile, mode).patched)
        later = {"name": "later", "image": "x", "ports": [{"containerPort": 9999}]}
        changed["spec"]["containers"].append(later)
        again = inject(changed, profile, mode).patched
        names = [
            c["name"] for c in (*again["spec"]["initContainers"], *again["spec"]["containers"])
        ]
        assert len(names) == len(set(names))
        assert "later" in names
        if profile == "linkerd":
            assert env(again)["LINKERD2_PROXY_INBOUND_PORTS"] == "3306,9999"
        if profile == "node":
            assert "NODE_NAME" in {v["name"] for v in container(again, "later")["env"]}


def test_a_pod_that_somebody_elses_injector_meshed_is_left_alone() -> None:
    theirs = copy.deepcopy(inject(fresh(), "linkerd", "native").patched)
    theirs["metadata"]["annotations"]["linkerd.io/created-by"] = "linkerd/proxy-injector edge"
    outcome = inject(theirs, "envoy", "native")
    assert not outcome.injected
    assert outcome.patched == theirs


def admitted(pod: Object) -> Object:
    """The pod as the API server sends it again: defaults filled in, zero values left out, and its
    own admission plugins were at the containers."""
    pod = copy.deepcopy(pod)
    for one in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
        one["terminationMessagePath"] = "/dev/termination-log"
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            if name in one:
                probe = {"successThreshold": 1, "periodSeconds": 10, **one[name]}
                probe["httpGet"] = {**probe["httpGet"], "scheme": "HTTP"}
                one[name] = {key: value for key, value in probe.items() if value != 0}
        for variable in one.get("env", ()):
            if "fieldRef" in variable.get("valueFrom", {}):
                variable["valueFrom"]["fieldRef"]["apiVersion"] = "v1"
            if variable.get("value") == "":
                del variable["value"]
        one.setdefault("resources", {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
        token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/x", "readOnly": True}
        one.setdefault("volumeMounts", []).append(token)
    for volume in pod["spec"].get("volumes", ()):
        for source in volume.values():
            if isinstance(source, dict) and "sources" in source:
                source.setdefault("defaultMode", 420)
    return pod


OURS = {"envoy": "envoy-proxy", "linkerd": "linkerd-proxy"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_the_api_server_itself_added_to_our_containers_is_no_news(
    profile: str, mode: str
) -> None:
    first = admitted(inject(fresh(), profile, mode).patched)
    again = inject(copy.deepcopy(first), profile, mode)
    assert diff(first, again.patched) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", OURS)
@pytest.mark.parametrize("with_news", [False, True])
class TestOthersWorkOnOurContainers:
    def again(self, profile: str, mode: str, with_news: bool) -> tuple[Object, Object]:
        """Our proxy as others left it, and as it comes back."""
        pod = admitted(inject(fresh(), profile, mode).patched)
        proxy = container(pod, OURS[profile])
        proxy["image"] = "mirror.example/" + proxy["image"]
        proxy["securityContext"]["seccompProfile"] = {"type": "Localhost"}
        proxy["env"].append({"name": "AWS_REGION", "value": "here"})
        if with_news:
            ports = [{"containerPort": 9999}]
            pod["spec"]["containers"].append({"name": "later", "image": "x", "ports": ports})
            note = {"config.linkerd.io/proxy-log-level": "debug"}
            pod["metadata"]["annotations"].update(note)
        after = inject(copy.deepcopy(pod), profile, mode).patched
        names = [one["name"] for one in pod["spec"]["containers"]]
        assert [one["name"] for one in after["spec"]["containers"]] == names
        return proxy, container(after, OURS[profile])

    def test_it_is_kept(self, profile: str, mode: str, with_news: bool) -> None:
        before, after = self.again(profile, mode, with_news)
        for field in ("image", "securityContext", "resources"):
            assert after[field] == before[field]
        assert after["volumeMounts"][-1] == before["volumeMounts"][-1]
        assert {"name": "AWS_REGION", "value": "here"} in after["env"]
        names = [variable["name"] for variable in after["env"]]
        assert len(names) == len(set(names))

    def test_and_what_is_new_in_the_pod_reaches_the_proxy(
        self, profile: str, mode: str, with_news: bool
    ) -> None:
        before, after = self.again(profile, mode, with_news)
        assert ((before["env"], before.get("args")) != (after["env"], after.get("args"))) == (
            with_news
        )


def test_an_order_that_another_webhook_chose_stays_when_there_is_news() -> None:
    pod = inject(fresh(), "linkerd", "native").patched
    pod["spec"]["initContainers"] = [
        {"name": "theirs", "image": "x"},
        *pod["spec"]["initContainers"],
    ]
    pod["spec"]["containers"].append(
        {"name": "later", "image": "x", "ports": [{"containerPort": 9999}]}
    )
    again = inject(copy.deepcopy(pod), "linkerd", "native").patched
    assert env(again)["LINKERD2_PROXY_INBOUND_PORTS"] == "3306,9999"
    names = [one["name"] for one in pod["spec"]["initContainers"]]
    assert [one["name"] for one in again["spec"]["initContainers"]] == names


def test_amounts_that_an_annotation_brings_later_join_those_that_are_there() -> None:
    pod = admitted(inject(fresh(), "envoy", "native").patched)
    pod["metadata"]["annotations"]["config.linkerd.io/proxy-memory-limit"] = "64Mi"
    outcome = inject(copy.deepcopy(pod), "envoy", "native")
    assert outcome.events == ()
    again = outcome.patched
    assert container(again, "envoy-proxy")["resources"] == {
        "limits": {"cpu": "500m", "memory": "64Mi"},
        "requests": {"cpu": "100m"},
    }


def test_what_another_version_of_ours_made_is_made_anew() -> None:
    pod = inject(fresh(), "envoy", "native").patched
    pod = copy.deepcopy(pod)
    pod["metadata"]["annotations"]["linkerd.io/created-by"] = f"{WEBHOOK} 0.0.1"
    container(pod, "envoy-proxy")["image"] = "envoy:old"
    again = inject(pod, "envoy", "native").patched
    assert container(again, "envoy-proxy")["image"] != "envoy:old"
