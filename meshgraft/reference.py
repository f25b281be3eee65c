"""The reference pages that are made from the code, as text: ``python -m meshgraft.reference``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from injector.profiles import PROFILES
from injector.profiles.envoy import OF_THE_MESH
from meshgraft.checks.catalog import CATEGORIES
from meshgraft.checks.model import DOCS, Category, Check
from meshgraft.cli import app
from vocabulary.annotations import ANNOTATIONS, Annotation

ANNOTATIONS_PAGE = Path("docs/reference/annotations.md")
CHECKS_PAGE = Path(DOCS)
COMMANDS_PAGE = Path("docs/reference/commands.md")

_ANNOTATIONS_HEAD = """\
# Annotations

Made from `vocabulary/annotations/table.py` by `python -m meshgraft.reference`; do not edit.

On a pod (for a Deployment: on its pod template) or on its namespace; the pod's wins. Where both
lack a key, the setting from the values file holds. Booleans, durations and quantities are
written as Go and Kubernetes write them: `true`, `6s5ms`, `100m`. A bad value is a warning, and the
next good one below it holds; so is a key that means nothing to the profile. Profile `node` takes
`linkerd.io/inject` and `opaque-ports` only.

| annotation | type | default | effect |
|---|---|---|---|
"""

_CHECKS_HEAD = """\
# Checks

Made from `meshgraft/checks/` by `python -m meshgraft.reference`; do not edit.

`meshgraft check` asks the cluster these questions, in this order. Each has an id, which stays the
same and is Linkerd's where the question is; the hint of a failed check leads to its heading here.

```console
$ meshgraft check                               # what is installed
$ meshgraft check --pre                         # whether it can be installed
$ meshgraft check --pre --linkerd-cni-enabled   # the same, once the CNI plugin is there
$ meshgraft check --proxy -n shop               # and the meshed pods of a namespace
$ meshgraft check -o json --wait 0s             # for scripts, in Linkerd's shape, without waiting
```

`√` is well, `‼` a warning, `×` a failure. The exit code is 1 where something failed, and 0 with
warnings only. What may become well by itself is looked at again for `--wait` (5 minutes). What you
are not allowed to look at is a failure that names the right that is missing, and never called
absent. What does not apply, or is reported by another check already, is left out.

Each object is read once, all at the same time, and of a Secret only `meshgraft-injector-tls`.
One pod is created as a dry run, in the namespace of `-n` or in `default`: nothing comes into being,
and all of admission is asked.

"""

_COMMANDS_HEAD = """\
# Commands

Made from the command line's own code by `python -m meshgraft.reference`; do not edit. The same is
in `meshgraft COMMAND --help`.

Exit codes: 0 for success, 1 for an error, which is a sentence on stderr, 2 for a command line that
is not understood. `network-validator` ends with 95 where traffic is not redirected, as Linkerd's
does.

"""


def annotations_page() -> str:
    """The page of all annotations, as Markdown."""
    return _ANNOTATIONS_HEAD + "".join(map(_row, ANNOTATIONS))


def _row(annotation: Annotation) -> str:
    kind = annotation.type + (f" ({annotation.bounds})" if annotation.bounds else "")
    default = f"`{annotation.default}`" if annotation.default else ""
    effect = annotation.effect
    if annotation.sets:
        effect += f" Sets `{annotation.sets}`."
    if annotation.key in PROFILES["envoy"].ignores:
        effect += " Without a meaning for profile `envoy`."
    if annotation.key in OF_THE_MESH:
        effect += " With profile `envoy`: in the mesh alone."
    cells = (f"`{annotation.key}`", kind, default, effect)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def commands_page() -> str:
    """The page of all commands and their flags, as Markdown, in the order of their names."""
    names = sorted(name for name in app if not name.startswith("-"))
    return _COMMANDS_HEAD + "\n".join(map(_command, names))


def _command(name: str) -> str:
    text = app[name].generate_docs(usage_name=f"meshgraft {name}", heading_level=2)
    # A docstring's line breaks mean nothing, and those of a list would break it.
    return re.sub(r"\n +(?=\S)", " ", text).rstrip() + "\n"


def checks_page() -> str:
    """The page of all checks, as Markdown, with a heading for each that hints lead to."""
    return _CHECKS_HEAD + "\n".join(map(_category, CATEGORIES))


def _category(category: Category) -> str:
    return f"## {category.name}\n\n" + "\n".join(map(_check, category.checks))


def _check(check: Check) -> str:
    kinds = {"warning": check.warning, "ends the check": check.fatal, "waited for": check.retriable}
    marks = ", ".join(kind for kind, holds in kinds.items() if holds)
    lines = [
        f"### {check.id}",
        "",
        f"*{check.text}*{f' ({marks})' if marks else ''}",
        "",
        f"If not: {check.why}",
        "",
        f"What to do: {check.fix}",
        "",
    ]
    return "\n".join(lines)


PAGES: dict[Path, Callable[[], str]] = {
    ANNOTATIONS_PAGE: annotations_page,
    CHECKS_PAGE: checks_page,
    COMMANDS_PAGE: commands_page,
}
"""Every page that is made from the code, and what makes it."""


def main() -> None:
    """Write the pages, from the root of a clone."""
    for path, make in PAGES.items():
        path.write_text(make())


if __name__ == "__main__":
    main()
