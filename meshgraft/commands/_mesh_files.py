"""Where the mesh's processes find what the charts mount."""

from __future__ import annotations

from pathlib import Path

ROOTS = Path("/var/run/meshgraft/roots/ca-bundle.crt")
TOKEN = Path("/var/run/meshgraft/token/token")
