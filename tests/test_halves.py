"""What the injector writes is what the CNI plugin reads: both halves, over every recorded pod."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugin.agent.decide import PassThrough, Reason, Redirected, decide
from cni_plugin.agent.netconf import PodArgs, decode_netconf
from injector.core.model import Namespace, Object, Origin, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import PROFILES
from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY
from vocabulary.annotations.redirect import WEBHOOK

DATA = Path(__file__).parent / "data"
REVIEWS = sorted((DATA / "admission-reviews").glob("pod-*.json"))
NAMESPACES = {
    item["metadata"]["name"]: Namespace(
        item["metadata"]["name"], item["metadata"].get("annotations") or {}
    )
    for item in json.loads((DATA / "namespaces.json").read_text())["items"]
}


def decided(pod: Object) -> object:
    """What the plugin makes of a pod whose annotations the runtime hands over."""
    annotations = pod["metadata"].get("annotations") or {}
    entry = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "linkerd-cni",
        "prevResult": {"cniVersion": "1.0.0"},
        "runtimeConfig": {ANNOTATIONS_CAPABILITY: annotations},
    }
    return decide(decode_netconf(json.dumps(entry).encode()), PodArgs("shop", "pod"))


@pytest.mark.parametrize("path", REVIEWS, ids=lambda path: path.stem)
@pytest.mark.parametrize("cni", [True, False], ids=["cni", "init"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_meshed_pod_is_redirected_exactly_where_the_plugin_is_to_do_it(
    profile: str, cni: bool, path: Path
) -> None:
    request = json.loads(path.read_text())["request"]
    outcome = mutate(
        request["object"],
        NAMESPACES[request["namespace"]],
        Owner("pod", "web"),
        decode_values({"cniEnabled": cni}),
        PROFILES[profile],
        Origin(f"{WEBHOOK} 0.1.0", additions=True),
    )
    decision = decided(outcome.patched)
    if not outcome.injected:
        assert decision == PassThrough(Reason.NO_MARK)
    elif cni and profile != "node":
        assert isinstance(decision, Redirected)
        assert decision.redirect.inbound_port == 4143
    else:
        assert decision == PassThrough(Reason.NOT_BY_CNI)
