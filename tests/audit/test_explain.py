"""The explanation of one pod: each step, with the value and where it is from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from injector.core.model import Object
from meshgraft.audit.explain import explain
from meshgraft.audit.judge import judge
from meshgraft.audit.model import Mesh, Where
from tests.audit.support import ENABLED, WEBHOOK, injected, mesh, pod, subject, where
from vocabulary.annotations import INJECT


def explained(
    obj: Object, place: Where | None = None, settings: Mesh | None = None, **more: Any
) -> str:
    one = subject(obj, place, **more)
    settings = settings or mesh()
    return explain(one, settings, judge(one, settings))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(
            explained(pod()),
            [
                "pod shop/web-1-x of deployment/web: it has no proxy; it should have one",
                '√ linkerd.io/inject: the pod says nothing, namespace shop says "enabled": the'
                " namespace decides, a proxy is asked for",
                "√ hostNetwork: false (default)",
                "√ os.name: linux (default)",
                "√ other sidecars: none",
                "identity.serviceAccountTokenProjection: true (the test)",
                "√ meshgraft-injector-webhook-config: its selectors take the pod",
                "× created while the webhook was away",
                "Restart its owner",
            ],
            id="missed",
        ),
        pytest.param(
            explained(pod({INJECT: "disabled"})),
            ["it has no proxy, as it should be", '× linkerd.io/inject: the pod says "disabled"'],
            id="declined",
        ),
        pytest.param(
            explained(pod(), where({})),
            ["the pod says nothing, namespace shop says nothing: no proxy is asked for (default)"],
            id="nobody asked",
        ),
        pytest.param(
            explained(pod(ENABLED, spec={"hostNetwork": True}), where({})),
            ["the pod decides", "× hostNetwork: true (from the pod)"],
            id="hostNetwork",
        ),
        pytest.param(
            explained(pod(), settings=mesh(None)),
            ["× MutatingWebhookConfiguration meshgraft-injector-webhook-config: there is none"],
            id="no webhook",
        ),
        pytest.param(
            explained(pod(spec={"containers": [{"name": "istio-proxy", "image": "x"}]})),
            ["× other sidecars: istio-proxy (the pod's containers)"],
            id="another mesh's sidecar",
        ),
        pytest.param(
            explained(pod(), settings=mesh(replace(WEBHOOK, has_conditions=True))),
            ["or the webhook's matchConditions keep it away"],
            id="matchConditions",
        ),
        pytest.param(
            explained(pod({"kubernetes.io/config.mirror": "x"})),
            ["√ it is the mirror of a static pod"],
            id="mirror",
        ),
        pytest.param(
            explained(
                injected(pod(), where({**ENABLED, "config.linkerd.io/proxy-uid": "7"})),
                where({**ENABLED, "config.linkerd.io/proxy-uid": "7"}),
                template={},
                workload={"config.linkerd.io/proxy-gid": "8"},
            ),
            [
                "the webhook gave it a proxy",
                "config.linkerd.io/proxy-uid: '7' (from namespace shop)",
                "config.linkerd.io/proxy-gid: no effect, it is on the Deployment only",
                "profile envoy, and all others: from the test",
            ],
            id="settings",
        ),
        pytest.param(
            explained(injected(pod({"config.linkerd.io/proxy-uid": "7"})), template=None),
            ["as it should be", "config.linkerd.io/proxy-uid: '7' (from the pod)"],
            id="own settings",
        ),
    ],
)
def test_each_step_is_told_with_its_value_and_origin(text: str, lines: list[str]) -> None:
    for line in lines:
        assert line in text, text


def test_a_proxy_of_linkerds_own_injector_is_said_to_be_that() -> None:
    live = injected(pod(), meshgraft={"profile": "linkerd"})
    live["metadata"]["annotations"]["linkerd.io/created-by"] = "linkerd/proxy-injector x"
    assert "Linkerd's own injector gave it a proxy" in explained(live)
