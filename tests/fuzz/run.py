"""The fuzz target: ``python -m tests.fuzz.run [corpus] -max_total_time=600``.

Coverage-guided, with atheris (``pip install atheris``; Python 3.11 and 3.12 have wheels, and it
is not among the test extra's packages for that reason). A finding ends it with the input in a file
``crash-*``; give that file as the argument to run it again.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["injector"]):
    from tests.fuzz.webhook import body_from, check, profile_from


class _Data:
    """Choices from the fuzzer's bytes."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def integer(self, lower: int, upper: int) -> int:
        """A whole number, both ends included."""
        number: int = self._provider.ConsumeIntInRange(lower, upper)
        return number


def one(data: bytes) -> None:
    """One input of the fuzzer's."""
    source = _Data(data)
    check(body_from(source), profile_from(source), cni=bool(source.integer(0, 1)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
