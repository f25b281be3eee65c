"""The report of inject and uninject, in Linkerd's words: warnings, then a line per object."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from injector.manifests.objects import Report
from vocabulary.annotations import INJECT

_WARN = "‼"
_OK = "√"
_NOTHING = "no supported objects found"


def inject_report(
    reports: Sequence[Report], verbose: bool = False, notes: Sequence[str] = ()
) -> str:
    """What was found and what was done; ``notes`` are warnings about the flags.

    It starts and ends with a blank line, to stand apart from the YAML before it on a terminal
    and from kubectl's words after it.
    """
    warnings = [*inject_warnings(reports, verbose), *(f"{_WARN} {note}" for note in notes)]
    summary = [_summary(report) for report in reports]
    return "\n".join(["", *warnings, *([""] if warnings else []), *summary, "", ""])


def uninject_report(reports: Sequence[Report]) -> str:
    """What was done, with a blank line before and after."""
    return "\n".join(["", *[_summary(report) for report in reports], "", ""])


def _summary(report: Report) -> str:
    if not report.kind:
        return 'document missing "kind" field, skipped'
    return f'{report.kind} "{report.name}" {report.status}'


def failed_report(reports: Sequence[Report]) -> list[str]:
    """What was found, to stand before the errors; that nothing was found is not worth a line."""
    return [line for line in inject_warnings(reports) if not line.endswith(_NOTHING)]


def inject_warnings(reports: Sequence[Report], verbose: bool = False) -> list[str]:
    """Linkerd's findings, each with the objects concerned; ``verbose`` tells of the good too."""

    def those(concerned: Callable[[Report], bool]) -> list[str]:
        return [report.resource for report in reports if concerned(report)]

    udp = those(lambda report: report.udp)
    verb = "uses" if len(udp) == 1 else "use"
    findings = [
        _finding(
            those(lambda report: report.host_network),
            '"hostNetwork: true" detected in {}',
            "pods do not use host networking",
        ),
        _finding(
            those(lambda report: report.sidecar),
            "known 3rd party sidecar detected in {}",
            "pods do not have a 3rd party proxy or initContainer already injected",
        ),
        _finding(
            those(lambda report: report.disabled),
            f'"{INJECT}: disabled" annotation set on {{}}',
            "pods are not annotated to disable injection",
        ),
        _finding(
            [] if any(report.supported for report in reports) else ["none"],
            _NOTHING,
            "at least one resource can be injected or annotated",
        ),
        _finding(udp, f'{{}} {verb} "protocol: UDP"', "pod specs do not include UDP ports"),
        _finding(
            those(lambda report: report.no_token),
            "no service account token can be used by {}",
            'pods do not have automountServiceAccountToken set to "false" or service account'
            " token projection is enabled",
        ),
    ]
    lines = [line for line in findings if verbose or line.startswith(_WARN)]
    return lines + [
        f"{_WARN} {report.resource}: {warning}" for report in reports for warning in report.warnings
    ]


def _finding(concerned: list[str], bad: str, good: str) -> str:
    return f"{_WARN} {bad.format(', '.join(concerned))}" if concerned else f"{_OK} {good}"
