"""The label as the wish for a proxy, where the settings say so."""

from __future__ import annotations

import pytest

from injector.core.diff import diff
from injector.core.model import Namespace, Object
from tests.injector.support import env, inject, pod, settings
from vocabulary.annotations import INJECT

BY_LABEL = settings(meshgraft={"optIn": "label"})


def labelled(text: str | None, annotation: str | None = None) -> Object:
    made = pod({INJECT: annotation} if annotation is not None else None)
    if text is not None:
        made["metadata"]["labels"] = {INJECT: text}
    return made


def where(text: str | None, annotation: str | None = None) -> Namespace:
    labels = {} if text is None else {INJECT: text}
    return Namespace("shop", {} if annotation is None else {INJECT: annotation}, labels)


@pytest.mark.parametrize(
    ("at_namespace", "at_pod", "injected"),
    [
        (where("enabled"), labelled(None), True),
        (where("enabled"), labelled("enabled"), True),
        (where("enabled"), labelled("disabled"), False),
        (where("enabled"), labelled(None, "disabled"), False),
        (where("enabled"), labelled("enabled", "disabled"), False),
        (where("disabled"), labelled("enabled"), True),
        (where("disabled"), labelled(None), False),
        (where(None), labelled("enabled"), True),
        (where(None), labelled("yes"), False),
        (where(None), labelled(None), False),
        (where("enabled", "disabled"), labelled(None), False),
    ],
)
def test_the_label_counts_where_there_is_no_annotation(
    at_namespace: Namespace, at_pod: Object, injected: bool
) -> None:
    outcome = inject(at_pod, at_namespace, BY_LABEL)
    assert outcome.injected is injected
    if not injected:
        assert outcome.patched == at_pod


def test_by_default_a_label_means_nothing() -> None:
    assert not inject(labelled("enabled"), where("enabled")).injected


@pytest.mark.parametrize(
    ("at_namespace", "at_pod"),
    [(where("ingress"), labelled(None)), (where(None), labelled("ingress"))],
)
def test_ingress_mode_can_be_asked_for_by_label(at_namespace: Namespace, at_pod: Object) -> None:
    patched = inject(at_pod, at_namespace, BY_LABEL).patched
    assert env(patched)["LINKERD2_PROXY_INGRESS_MODE"] == "true"


def test_a_second_pass_changes_nothing() -> None:
    once = inject(labelled("enabled"), where(None), BY_LABEL).patched
    assert diff(once, inject(once, where(None), BY_LABEL).patched) == []
