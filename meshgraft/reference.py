"""The reference pages that are made from the code, as text: ``python -m meshgraft.reference``."""

from __future__ import annotations

from pathlib import Path

from injector.annotations import ANNOTATIONS, Annotation
from injector.profiles import PROFILES

ANNOTATIONS_PAGE = Path("docs/reference/annotations.md")

_HEAD = """\
# Annotations

Made from `injector/annotations/table.py` by `python -m meshgraft.reference`; do not edit.

On a pod (for a Deployment: on its pod template) or on its namespace; the pod's wins. Where both
lack a key, the setting from the values file holds. Booleans, durations and quantities are
written as Go and Kubernetes write them: `true`, `6s5ms`, `100m`. A bad value is a warning, and the
next good one below it holds; so is a key that means nothing to the profile. Profile `node` takes
`linkerd.io/inject` and `opaque-ports` only.

| annotation | type | default | effect |
|---|---|---|---|
"""


def annotations_page() -> str:
    """The page of all annotations, as Markdown."""
    return _HEAD + "".join(map(_row, ANNOTATIONS))


def _row(annotation: Annotation) -> str:
    kind = annotation.type + (f" ({annotation.bounds})" if annotation.bounds else "")
    default = f"`{annotation.default}`" if annotation.default else ""
    effect = annotation.effect
    if annotation.sets:
        effect += f" Sets `{annotation.sets}`."
    if annotation.key in PROFILES["envoy"].ignores:
        effect += " Without a meaning for profile `envoy`."
    cells = (f"`{annotation.key}`", kind, default, effect)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    """Write the pages, from the root of a clone."""
    ANNOTATIONS_PAGE.write_text(annotations_page())


if __name__ == "__main__":
    main()
