"""Where the program starts: ``proxy-init`` at once, every other command by the command line.

``proxy-init`` runs in every pod of a cluster without the plugin, and to load what reads a command
line takes longer than all that it does. What it is called with by an injector is plain enough to
be read here; anything else, and anything that is wrong, is left to the command line, which says so.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from os import getpid
from typing import Any


def _list(text: str) -> tuple[str, ...]:
    return tuple(item for item in text.split(",") if item.strip())


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


_READ: dict[str, Callable[[str], Any]] = {
    "--redirect": str,
    "--iptables-mode": str,
    "--timeout-close-wait-secs": _number,
    "--incoming-proxy-port": _number,
    "--outgoing-proxy-port": _number,
    "--proxy-uid": _number,
    "--proxy-gid": _number,
    "--ports-to-redirect": _list,
    "--inbound-ports-to-ignore": _list,
    "--outbound-ports-to-ignore": _list,
    "--subnets-to-ignore": _list,
    "--firewall-bin-path": str,
    "--firewall-save-bin-path": str,
    "--log-format": str,
    "--log-level": str,
}


def main() -> None:
    """Run what the process was called for."""
    if getpid() == 1:
        # The first process of a container has no default action for a signal: until a command
        # has its own handler, a pod that is deleted would wait out its grace period.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = sys.argv[1:]
    if arguments[:1] == ["proxy-init"]:
        flags = plain_flags(arguments[1:])
        if flags is not None:
            with contextlib.suppress(ImportError):  # the command line says what is not installed
                sys.exit(_proxy_init(flags))
    from meshgraft.cli import main as command_line

    command_line()


def plain_flags(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The flags of ``proxy-init``, by the names of `cni_plugin.init.proxy_init.Flags`; None where
    they are not plain: each once, known, and with a value of its own."""
    found: dict[str, Any] = {}
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--ipv6" and value in ("true", "false"):
            read: Callable[[str], Any] = _is_true
        elif name in _READ:
            read = _READ[name]
        else:
            return None
        text = value if equals else next(rest, "-")
        key = name[2:].replace("-", "_")
        if key in found or text.startswith("-"):
            return None
        try:
            found[key] = read(text)
        except ValueError:
            return None
    found.pop("firewall_save_bin_path", None)
    return found


def _is_true(text: str) -> bool:
    return text == "true"


def _proxy_init(flags: dict[str, Any]) -> int:
    from cni_plugin.init.proxy_init import Flags, run
    from vocabulary.errors import MeshgraftError

    try:
        run(Flags(**flags))
    except MeshgraftError as error:
        from meshgraft._terminal import shown

        print(f"Error: {shown(str(error))}", file=sys.stderr)
        return 1
    return 0
