"""Profile ``node``: variables that lead to the node's proxy, and nothing else."""

from __future__ import annotations

from injector.core.model import Namespace, Object, Origin, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import get_profile

NAMESPACE = Namespace("shop", {"linkerd.io/inject": "enabled"})


def inject(pod: Object) -> Object:
    outcome = mutate(
        pod,
        NAMESPACE,
        Owner("pod", "web"),
        decode_values({}),
        get_profile("node"),
        Origin("meshgraft/injector test", additions=True),
    )
    assert outcome.injected
    return outcome.patched


def pod(*containers: Object, init: Object | None = None) -> Object:
    spec: Object = {"containers": list(containers)}
    if init:
        spec["initContainers"] = [init]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}


def variables(container: Object) -> dict[str, object]:
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


def test_each_container_learns_of_its_nodes_proxy() -> None:
    patched = inject(
        pod({"name": "a", "image": "a"}, {"name": "b", "image": "b"}, init={"name": "i"})
    )
    spec = patched["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        assert variables(container) == {
            "NODE_NAME": {"fieldRef": {"fieldPath": "spec.nodeName"}},
            "http_proxy": "$(NODE_NAME):4140",
            "MESHGRAFT_HTTP2_PROXY": "$(NODE_NAME):4240",
            "MESHGRAFT_GRPC_PROXY": "$(NODE_NAME):4340",
            "no_proxy": "localhost,127.0.0.1,::1,$(KUBERNETES_SERVICE_HOST),kubernetes.default.svc",
        }


def test_the_nodes_name_is_defined_before_it_is_used() -> None:
    (container,) = inject(pod({"name": "a", "image": "a"}))["spec"]["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert names.index("NODE_NAME") < names.index("http_proxy")


def test_what_a_container_sets_itself_stays() -> None:
    own = [{"name": "http_proxy", "value": "http://proxy:3128"}, {"name": "X", "value": "y"}]
    (container,) = inject(pod({"name": "a", "image": "a", "env": own}))["spec"]["containers"]
    assert container["env"][:2] == own
    assert variables(container)["http_proxy"] == "http://proxy:3128"


def test_no_container_and_no_volume_is_added() -> None:
    spec = inject(pod({"name": "a", "image": "a"}))["spec"]
    assert [container["name"] for container in spec["containers"]] == ["a"]
    assert set(spec) == {"containers"}


def test_a_second_pass_changes_nothing() -> None:
    first = inject(pod({"name": "a", "image": "a"}))
    assert inject(first) == first
