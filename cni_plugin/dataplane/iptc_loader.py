"""Loads python-iptables in a tenth of the time: an init container waits for it.

On import it asks setuptools for a folder, and ldconfig, gcc and objdump where libraries are, a
process for each guess. The dynamic linker knows at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Iterator

_SONAMES = {
    "c": ("libc.so.6",),
    "ip4tc": ("libip4tc.so.2", "libip4tc.so.0"),
    "ip6tc": ("libip6tc.so.2", "libip6tc.so.0"),
    "xtables": ("libxtables.so.12", "libxtables.so.11"),
}
_OWN = "xtwrapper"
"""Its own library, beside its modules: no linker finds that."""


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """While python-iptables is imported; afterwards all is as before."""
    ask, distutils = ctypes.util.find_library, sys.modules.get("distutils")

    def find_library(name: str) -> str | None:
        for soname in _SONAMES.get(name, ()):
            with contextlib.suppress(OSError):
                ctypes.CDLL(soname)
                return soname
        # Nobody knows a library by a file's name, or by "lib" before its own.
        guess = name == _OWN or name.startswith("lib") or name.endswith(".so")
        return None if guess else ask(name)

    ctypes.util.find_library = find_library
    sys.modules["distutils"] = None  # type: ignore[assignment]  # it takes sysconfig instead
    try:
        yield
    finally:
        ctypes.util.find_library = ask
        if distutils is None:
            del sys.modules["distutils"]
        else:
            sys.modules["distutils"] = distutils
