"""What the demo tells: steps as they happen, proofs that hold or fail, and the table at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was to be shown: what was seen, and whether it was as it should be."""

    claim: str
    seen: str
    holds: bool


@dataclass
class Report:
    """Collects the proofs and times of one run, and prints as it goes.

    On a terminal in colour; in a log the same words, plain.
    """

    console: Console = field(default_factory=lambda: Console(highlight=False))
    proofs: list[Proof] = field(default_factory=list)
    times: list[tuple[str, str]] = field(default_factory=list)

    def step(self, text: str) -> None:
        """A new part begins."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def say(self, text: str) -> None:
        """One line of what happens."""
        self.console.print(f"  {escape(text)}", soft_wrap=True)

    def prove(self, claim: str, holds: bool, seen: str) -> None:
        """Note a proof, and show it at once."""
        self.proofs.append(Proof(claim, seen, holds))
        mark = "[green]ok[/green]  " if holds else "[bold red]FAIL[/bold red]"
        self.console.print(f"  {mark} {escape(claim)}: {escape(seen)}", soft_wrap=True)

    def time(self, what: str, seconds: float, how: str = "") -> None:
        """Note how long something took, in seconds."""
        self.times.append((what, f"{seconds * 1000:.1f} ms{f' ({how})' if how else ''}"))

    def finish(self) -> int:
        """The table, and the exit code: 1 where a proof failed, which it names."""
        table = Table(title="What was shown", title_justify="left", show_header=False)
        for proof in self.proofs:
            mark = "[green]ok[/green]" if proof.holds else "[bold red]FAIL[/bold red]"
            table.add_row(mark, escape(proof.claim))
        table.add_section()
        for what, took in self.times:
            table.add_row("time", escape(f"{what}: {took}"))
        self.console.print()
        self.console.print(table)
        failed = [proof.claim for proof in self.proofs if not proof.holds]
        for claim in failed:
            self.console.print(f"[bold red]not shown:[/bold red] {escape(claim)}", soft_wrap=True)
        return 1 if failed else 0
