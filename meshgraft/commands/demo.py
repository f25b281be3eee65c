"""``meshgraft demo``."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from meshgraft._errors import CommandError


def demo(
    *,
    iptables_mode: Annotated[
        Literal["auto", "nft", "legacy"], Parameter(help="The backend that sets the rules.")
    ] = "auto",
) -> int:
    """Show both halves at work on this machine's own kernel, without a cluster.

    Needs root for the part with network namespaces, all of which it takes away again. Exits
    with 1 if anything that it set out to show could not be seen.
    """
    try:
        import httpx

        from meshgraft.demo.admission import running_webhook, show_admission
        from meshgraft.demo.report import Report
    except ImportError as error:
        raise CommandError(f"{error}; install meshgraft with the extra 'demo'") from error
    from meshgraft.lab import LabError
    from meshgraft.lab.lab import missing_requirements

    _stop_on_signals()
    report = Report()
    try:
        with tempfile.TemporaryDirectory(prefix="meshgraft-demo-") as folder:
            with running_webhook(Path(folder)) as webhook:
                patched = show_admission(report, webhook)
            missing = missing_requirements()
            if missing:
                report.step("2. The CNI plugin: left out, because this machine lacks")
                for reason in missing:
                    report.say(f"- {reason}")
            else:
                from meshgraft.demo.dataplane import show_dataplane
                from meshgraft.demo.mesh import show_mesh

                show_dataplane(report, patched, iptables_mode)
                show_mesh(report, iptables_mode)
    except (LabError, httpx.HTTPError) as error:
        raise CommandError(f"the demo could not go on: {error}") from error
    except KeyboardInterrupt:
        report.say("interrupted; everything that was made has been taken away")
        return 130
    return report.finish()


def _stop_on_signals() -> None:
    """A run that is told to stop cleans up as one that was interrupted at the terminal does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup wants it to go on
        signal.signal(signal.SIGHUP, signal.default_int_handler)
