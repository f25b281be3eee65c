"""``meshgraft`` as nobody and without a capability, also from a checkout that nobody may read."""

from __future__ import annotations

import sys

# What it needs is imported before it becomes nobody: a clone below /root is closed to others, and
# so is one made with umask 077. A change of user empties all capability sets but the bounding one.
_CODE = """
import os, sys
import meshgraft.commands.network_validator
from meshgraft.cli import main
os.setgroups([])
os.setresuid(65534, 65534, 65534)
main()
"""


def validator_as_nobody(*argv: str) -> list[str]:
    """``network-validator``; as nothing is executed any more, no capability can come back."""
    program = [sys.executable, "-c", _CODE, "network-validator", *argv]
    return ["setpriv", "--no-new-privs", "--", *program]
