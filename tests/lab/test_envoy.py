"""How the lab reads a container as the kubelet would."""

from __future__ import annotations

import pytest

from meshgraft.lab.envoy import container_of, expand


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$(NAME)", "web"),
        ("$(NAME).$(NAME)", "web.web"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(NAME)", "$(NAME)"),
        ("100$", "100$"),
        ("$$", "$"),
    ],
)
def test_variables_expand_as_in_kubernetes(text: str, expanded: str) -> None:
    assert expand(text, {"NAME": "web"}) == expanded


def test_a_container_is_found_wherever_it_stands() -> None:
    pod = {"spec": {"initContainers": [{"name": "a"}], "containers": [{"name": "b"}]}}
    assert container_of(pod, "a") == {"name": "a"}
    assert container_of(pod, "b") == {"name": "b"}
    with pytest.raises(LookupError, match="no container c"):
        container_of(pod, "c")
