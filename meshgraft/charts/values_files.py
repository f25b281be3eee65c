"""Values files: read, and where one is Linkerd's own, brought down to what the injector uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from injector.core.values import BadValues, decode_values
from meshgraft._errors import CommandError
from meshgraft.charts.helm import Tree

_ONLY_LINKERDS = frozenset(
    ("cliVersion", "controllerImage", "policyController", "heartbeatSchedule")
)
"""Keys that Linkerd's control plane always has, and our charts have not."""


def read_values(path: Path) -> Tree:
    """The values of a file. Of Linkerd's own (its chart's, or its ConfigMap ``linkerd-config``),
    what is about meshed pods; the rest is about its control plane.

    Raises:
        CommandError: not readable, not YAML, not a mapping, or (Linkerd's) a key of a wrong type.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict) and tree.get("kind") == "ConfigMap":
            tree = yaml.safe_load((tree.get("data") or {}).get("values") or "")
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise CommandError(f"{path}: values must be a mapping, not {type(tree).__name__}")
    try:
        return about_pods(tree) if _ONLY_LINKERDS & tree.keys() else tree
    except BadValues as error:
        raise CommandError(f"{path}: {error}") from error


def about_pods(tree: Tree) -> Tree:
    """What the injector knows of Linkerd's values, each with the type that it has for it.

    Raises:
        BadValues: a key of the wrong type.
    """
    known: Tree = msgspec.to_builtins(decode_values(tree))
    return _both(tree, known)


def _both(given: Tree, known: Tree) -> Tree:
    """The keys that are in both, as in ``known``."""
    kept: dict[str, Any] = {}
    for key, value in known.items():
        other = given.get(key)
        if other is not None:
            nested = isinstance(value, dict) and isinstance(other, dict)
            kept[key] = _both(other, value) if nested else value
    return kept
