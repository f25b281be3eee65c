"""The findings as a table for people, or as JSON or YAML for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from meshgraft.audit.model import Finding

Output = Literal["table", "json", "yaml"]
_COLUMNS = ("NAMESPACE", "POD", "OWNER", "FINDING", "REASON")


def render(findings: Sequence[Finding], audited: int, output: Output) -> str:
    """All findings; ``audited`` is how many pods were looked at."""
    if output == "table":
        return _table(findings, audited)
    tree = {"audited": audited, "findings": [_tree(finding) for finding in findings]}
    if output == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _tree(finding: Finding) -> dict[str, Any]:
    return {
        "namespace": finding.namespace,
        "pod": finding.name,
        "owner": {"kind": finding.owner.kind, "name": finding.owner.name},
        "finding": finding.kind.value,
        "restartHelps": finding.restart_helps,
        "reasons": [
            {"code": reason.code, "text": reason.text, "fix": reason.fix}
            for reason in finding.reasons
        ],
    }


def _table(findings: Sequence[Finding], audited: int) -> str:
    rows = [_COLUMNS, *map(_row, findings)]
    # The last column is free text of any length; the others are aligned.
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
    lines = []
    for row in rows if findings else ():
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("   ".join((*cells, row[-1])))
    lines += [""] if lines else []
    return "\n".join([*lines, _summary(findings, audited), *_advice(findings)]) + "\n"


def _row(finding: Finding) -> tuple[str, ...]:
    owner = f"{finding.owner.kind}/{finding.owner.name}"
    reasons = "; ".join(reason.text for reason in finding.reasons)
    return (finding.namespace, finding.name or "-", owner, finding.kind.value, reasons)


def _summary(findings: Sequence[Finding], audited: int) -> str:
    pods = f"{audited} {'pod' if audited == 1 else 'pods'} looked at"
    if not findings:
        return f"{pods}: each is as it should be"
    count = len(findings)
    return f"{pods}, {count} {'finding' if count == 1 else 'findings'}"


def _advice(findings: Sequence[Finding]) -> list[str]:
    """What to do, each advice once, with how many it is for."""
    counts: dict[str, int] = {}
    for finding in findings:
        for fix in dict.fromkeys(reason.fix for reason in finding.reasons):
            counts[fix] = counts.get(fix, 0) + 1
    return [f"  for {count}: {fix}" for fix, count in counts.items()]
