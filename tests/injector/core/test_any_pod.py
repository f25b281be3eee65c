"""Whatever a pod and its namespace say: the answer decodes, the patch applies, the pod is valid."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import jsonpatch
import kubernetes_validate
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from injector.core.diff import diff
from injector.core.model import Namespace, Object
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import get_profile
from injector.service.review import Answer, decode, encode
from tests.injector.support import WEBHOOK, owner
from vocabulary.annotations import ANNOTATIONS

_TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        *("", "0", "1", "-1", "2", "0s", "1ns", "292y", "100000h", "9223372036854775807"),
        *("true", "false", "enabled", "disabled", "ingress", "json", "apache", "insecure"),
        *("4191", "65535", "65536", "80,,", "1-65535", "a,b", "web", "::/0", "10.0.0.0/8"),
        *("1e3", "1E", "5n", "100m", "1Ki", "v1", "Always", "$(POD_NAME)", "\"'\\\n\0"),
        '[{"name":"A","value":"b"}]',
        '[{"name":"A","valueFrom":{"fieldRef":{}}}]',
        '[{"name":"A","valueFrom":{"secretKeyRef":{"key":1}}}]',
        '[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]',
    ]
)
_KEYS = st.sampled_from(
    [
        *(row.key for row in ANNOTATIONS if row.key != "linkerd.io/inject"),
        "config.linkerd.io/typing-error",
        "kubectl.kubernetes.io/default-container",
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        *("0", "~1/"),
    ]
)
_ANNOTATIONS = st.dictionaries(_KEYS, _TEXTS, max_size=8)
_PORT = st.fixed_dictionaries(
    {"containerPort": st.integers(1, 65535)},
    optional={"name": st.sampled_from(["web", "a", "sql"])},
)
_PROBES = st.sampled_from([{"httpGet": {"port": 80}}, {"httpGet": {"port": "web"}}, None])
_TOKEN = {"name": "t", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}


def _container(name: str) -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries(
        {"name": st.just(name), "image": st.just("x")},
        optional={
            "ports": st.none() | st.lists(_PORT, max_size=3),
            "readinessProbe": _PROBES,
            "securityContext": st.sampled_from([None, {}, {"capabilities": {"drop": ["ALL"]}}]),
            "volumeMounts": st.sampled_from([None, [], [_TOKEN]]),
            "env": st.sampled_from([None, [], [{"name": "A"}]]),
        },
    )


_OWN = st.lists(
    st.sampled_from(["app", "b", "linkerd-debug", "envoy"]), min_size=1, max_size=3, unique=True
)
_METADATA: st.SearchStrategy[Object] = st.fixed_dictionaries(
    {"name": st.just("p")},
    optional={"annotations": st.none() | _ANNOTATIONS, "labels": st.sampled_from([None, {}])},
)
_SPEC: st.SearchStrategy[Object] = st.fixed_dictionaries(
    {"containers": _OWN.flatmap(lambda names: st.tuples(*map(_container, names)).map(list))},
    optional={
        "initContainers": st.none() | st.lists(_container("migrate"), max_size=1),
        "terminationGracePeriodSeconds": st.sampled_from([0, 1, 30, -1]),
        "volumes": st.sampled_from([None, [], [{"name": "linkerd-identity-token"}]]),
    },
)
_SETTINGS = st.sampled_from([{}, {"cniEnabled": True}, {"proxyInit": {"runAsRoot": True}}])


def _review(pod: Object) -> bytes:
    request = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "object": pod,
    }
    return msgspec.json.encode(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    )


@pytest.mark.parametrize("profile", ["envoy", "linkerd"])
@given(_METADATA, _SPEC, _ANNOTATIONS, _SETTINGS)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_pod_is_patched_to_a_valid_one_and_only_once(
    profile: str, metadata: Object, spec: Object, annotations: dict[str, str], tree: Any
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    namespace = Namespace("shop", {**annotations, "linkerd.io/inject": "enabled"})
    values = decode_values({"linkerdVersion": "v1", **tree})
    before = msgspec.json.encode(values)
    review = decode(_review(pod))

    def mutated(obj: Object) -> Object:
        return mutate(obj, namespace, owner(pod), values, get_profile(profile), WEBHOOK).patched

    after = mutated(review.object)
    answer = json.loads(encode(review, Answer(patch=diff(review.object, after))))["response"]
    patch = json.loads(base64.b64decode(answer.get("patch") or b"W10="))
    patched = jsonpatch.apply_patch(copy.deepcopy(pod), patch)
    assert json.dumps(patched, sort_keys=True) == json.dumps(after, sort_keys=True)
    kubernetes_validate.validate(
        copy.deepcopy(patched), kubernetes_validate.latest_version(), strict=False
    )
    for items in ("initContainers", "containers", "volumes"):
        names = [one["name"] for one in patched["spec"].get(items) or ()]
        assert len(set(names)) == len(names)
        own = {one["name"]: one["image"] for one in spec.get(items) or () if "image" in one}
        kept = {one["name"]: one.get("image") for one in patched["spec"].get(items) or ()}
        assert own.items() <= kept.items(), "the pod's own containers stay"
    needs_volume = profile == "linkerd" and spec.get("volumes")
    meshed = "linkerd.io/created-by" in (patched["metadata"].get("annotations") or {})
    assert meshed == (not needs_volume)
    assert diff(patched, mutated(patched)) == []
    assert msgspec.json.encode(values) == before, "settings are shared by all pods"
