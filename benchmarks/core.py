"""Where the time of one review goes, step by step: the pure core and its edges, no network."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from injector.core.diff import diff
from injector.core.model import Namespace, Origin, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import PROFILES
from injector.service.review import Answer, decode, encode
from vocabulary.annotations.redirect import WEBHOOK

DATA = Path(__file__).parents[1] / "tests" / "data"
PODS = {
    "typical": "pod-shop-web",
    "many annotations": "pod-shop-api",
    "skipped": "pod-shop-logs",
}


def main() -> None:
    """Run it and print the table; microseconds, the median of 300."""
    table = Table("profile", "pod", "decode", "mutate", "diff", "encode", "mutate + diff")
    namespaces = {
        item["metadata"]["name"]: Namespace(
            item["metadata"]["name"], item["metadata"].get("annotations") or {}
        )
        for item in json.loads((DATA / "namespaces.json").read_text())["items"]
    }
    for profile in PROFILES:
        for title, name in PODS.items():
            body = (DATA / "admission-reviews" / f"{name}.json").read_bytes()
            review = decode(body)
            given = (namespaces[review.namespace], Owner("deployment", "web"), decode_values({}))
            origin = Origin(f"{WEBHOOK} benchmark", additions=True)
            obj = review.object

            def core() -> object:
                return mutate(obj, *given, PROFILES[profile], origin).patched  # noqa: B023

            patched = mutate(obj, *given, PROFILES[profile], origin).patched
            patch = diff(obj, patched)
            steps: list[Callable[[], object]] = [
                lambda: decode(body),  # noqa: B023
                core,
                lambda: diff(obj, patched),  # noqa: B023
                lambda: encode(review, Answer(patch=patch)),  # noqa: B023
            ]
            times = [microseconds(step) for step in steps]
            shown = [f"{figure:.0f}" for figure in (*times, times[1] + times[2])]
            table.add_row(profile, title, *shown)
    console = Console(width=120)
    console.print(describe("meshgraft", "msgspec", "jsonpatch"))
    console.print("microseconds, median of 300")
    console.print(table)


def microseconds(step: Callable[[], object], times: int = 300) -> float:
    """The median time of a step, after a few unmeasured ones."""
    for _ in range(20):
        step()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


if __name__ == "__main__":
    main()
