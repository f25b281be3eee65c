"""The report's words are Linkerd's."""

from __future__ import annotations

import pytest

from injector.manifests.objects import Report
from injector.manifests.report import inject_report, uninject_report


def _web(**rest: object) -> Report:
    return Report(kind="deployment", name="web", supported=True, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reports", "text"),
    [
        ([_web(status="injected")], '\ndeployment "web" injected\n\n'),
        ([], "\n‼ no supported objects found\n\n\n"),
        (
            [Report(kind="", name="")],
            '\n‼ no supported objects found\n\ndocument missing "kind" field, skipped\n\n',
        ),
        (
            [_web(status="injected", udp=True)],
            '\n‼ deployment/web uses "protocol: UDP"\n\ndeployment "web" injected\n\n',
        ),
        (
            [_web(status="injected", udp=True), Report(kind="pod", name="p", udp=True)],
            '\n‼ deployment/web, pod/p use "protocol: UDP"\n\n'
            'deployment "web" injected\npod "p" skipped\n\n',
        ),
        (
            [_web(disabled=True, host_network=True, sidecar=True)],
            '\n‼ "hostNetwork: true" detected in deployment/web\n'
            "‼ known 3rd party sidecar detected in deployment/web\n"
            '‼ "linkerd.io/inject: disabled" annotation set on deployment/web\n\n'
            'deployment "web" skipped\n\n',
        ),
        (
            [_web(status="injected", warnings=("a is bad",))],
            '\n‼ deployment/web: a is bad\n\ndeployment "web" injected\n\n',
        ),
    ],
)
def test_warnings_then_a_line_per_object(reports: list[Report], text: str) -> None:
    assert inject_report(reports) == text


def test_notes_about_flags_stand_with_the_warnings() -> None:
    text = inject_report([_web(status="injected")], notes=["--x has no effect"])
    assert text == '\n‼ --x has no effect\n\ndeployment "web" injected\n\n'


def test_verbose_tells_of_the_good_too() -> None:
    assert inject_report([_web(status="injected")], verbose=True).splitlines() == [
        "",
        "√ pods do not use host networking",
        "√ pods do not have a 3rd party proxy or initContainer already injected",
        "√ pods are not annotated to disable injection",
        "√ at least one resource can be injected or annotated",
        "√ pod specs do not include UDP ports",
        '√ pods do not have automountServiceAccountToken set to "false" or service account token'
        " projection is enabled",
        "",
        'deployment "web" injected',
        "",
    ]


def test_uninject_has_no_warnings() -> None:
    reports = [_web(status="uninjected"), Report(kind="", name="")]
    text = '\ndeployment "web" uninjected\ndocument missing "kind" field, skipped\n\n'
    assert uninject_report(reports) == text
