"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def describe(*packages: str) -> str:
    """CPU, kernel, Python, and the versions of the packages that matter, in one line."""
    parts = [
        f"{os.cpu_count()} x {_cpu()}",
        f"kernel {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{package} {version(package)}" for package in packages),
        _iptables(),
    ]
    return ", ".join(filter(None, parts))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _iptables() -> str:
    try:
        done = subprocess.run(
            ["iptables", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def milliseconds(seconds: float) -> str:
    """A time for a table."""
    return f"{seconds * 1000:.2f}"
