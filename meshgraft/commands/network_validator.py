"""``meshgraft network-validator``: Linkerd's validator, by its own flags."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from cni_plugin.init.network_validator import (
    EXIT_CODE,
    Inbound,
    NotValidatedError,
    Wanted,
    parse_address,
    parse_timeout,
    validate,
)
from meshgraft._errors import CommandError
from vocabulary.annotations.redirect import parse_redirect

_ENV = "LINKERD_NETWORK_VALIDATOR_"
_QUIET = ("off", "error", "warn")


class ValidatorError(CommandError):
    """The pod must not start: its traffic would go past the proxy."""

    exit_code = EXIT_CODE


def network_validator(
    *,
    listen_addr: str | None = None,
    connect_addr: str | None = None,
    timeout: str = "10s",
    redirect: str | None = None,
    inbound_wait: str = "0",
    require_inbound: bool = False,
    log_level: Annotated[str, Parameter(env_var=_ENV + "LOG_LEVEL")] = "info",
    log_format: Annotated[str, Parameter(env_var=_ENV + "LOG_FORMAT")] = "plain",  # noqa: ARG001
) -> None:
    """Check that this pod's traffic is redirected to the proxy; exit 95 if not.

    Parameters
    ----------
    listen_addr
        Where to listen in the proxy's place, IP:PORT. 0.0.0.0 checks IPv4 alone, [::] each family
        in which the pod has an address. Default: port 4140, each family.
    connect_addr
        An address that is not the pod's; a connection to it must come out at --listen-addr.
        Default, and for the other family: addresses for documentation, or else neighbours.
    timeout
        How long to keep trying: a whole number with a unit of ms, s, m, h or d.
    redirect
        The pod's rules as they should be, as in the annotation meshgraft.io/redirect: the port,
        the families, and what not to try because it goes past the proxy on purpose.
    inbound_wait
        How long to wait for the node's agent to say that inbound rules are right, once outbound
        traffic was seen to be redirected. Whatever it says counts; its silence does not.
    require_inbound
        Wait for the agent's word until --timeout, and fail without it.
    log_level
        off, error and warn keep notes about what was not tried to itself.
    log_format
        Accepted for Linkerd's sake.
    """
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        wanted = Wanted(
            listen=parse_address(listen_addr) if listen_addr else None,
            connect=parse_address(connect_addr) if connect_addr else None,
            redirect=parse_redirect(redirect) if redirect else None,
        )
        inbound = Inbound(parse_timeout(inbound_wait), require_inbound)
        notes = validate(wanted, parse_timeout(timeout), inbound)
    except (NotValidatedError, ValueError) as error:
        raise ValidatorError(str(error)) from error
    if log_level.lower() not in _QUIET:
        for note in notes:
            print(f"Note: {note}", file=sys.stderr)
    print("Validated")


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise ValidatorError(
        f"stopped by {signal.Signals(number).name} before traffic was seen to be redirected"
    )
