"""Opt-in by label: where the settings say so, the label ``linkerd.io/inject`` stands in for the
annotation of that name, on a namespace and on a pod that does not have the annotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from injector.core.model import Namespace, Object
from injector.core.pods import annotations_of
from injector.core.splice import annotate
from injector.core.values import Values
from vocabulary.annotations import INJECT


def namespace_as_asked(namespace: Namespace, values: Values) -> Namespace:
    """The namespace, with its label as the annotation."""
    found = _stand_in(namespace.annotations, namespace.labels, values)
    if not found:
        return namespace
    return replace(namespace, annotations={**namespace.annotations, **found})


def pod_as_asked(obj: Object, values: Values) -> Object:
    """The pod, with its label as the annotation; ``obj`` is not changed."""
    labels = (obj.get("metadata") or {}).get("labels") or {}
    found = _stand_in(annotations_of(obj), labels, values)
    return annotate(obj, found) if found else obj


def _stand_in(
    annotations: Mapping[str, str], labels: Mapping[str, str], values: Values
) -> dict[str, str]:
    wanted = values.meshgraft.opt_in == "label" and INJECT in labels and INJECT not in annotations
    return {INJECT: labels[INJECT]} if wanted else {}
