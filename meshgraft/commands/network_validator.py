"""``meshgraft network-validator``: Linkerd's validator, by its own flags."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from cni_plugin.network_validator import (
    EXIT_CODE,
    NotValidatedError,
    parse_address,
    parse_timeout,
    validate,
)
from meshgraft._errors import CommandError

_ENV = "LINKERD_NETWORK_VALIDATOR_"


class ValidatorError(CommandError):
    """The pod must not start: its traffic would go past the proxy."""

    exit_code = EXIT_CODE


def network_validator(
    *,
    listen_addr: str = "0.0.0.0:4140",
    connect_addr: str = "192.0.2.2:1404",
    timeout: str = "10s",
    log_level: Annotated[str, Parameter(env_var=_ENV + "LOG_LEVEL")] = "info",  # noqa: ARG001
    log_format: Annotated[str, Parameter(env_var=_ENV + "LOG_FORMAT")] = "plain",  # noqa: ARG001
) -> None:
    """Check that this pod's outbound traffic is redirected to the proxy's port; exit 95 if not.

    Parameters
    ----------
    listen_addr
        Where to listen in the proxy's place, IP:PORT.
    connect_addr
        An address that is not the pod's; a connection to it must come out at --listen-addr.
    timeout
        How long to keep trying: a whole number with a unit of ms, s, m, h or d.
    log_level
        Accepted for Linkerd's sake: there is one line to print.
    log_format
        Accepted for Linkerd's sake.
    """
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        validate(parse_address(listen_addr), parse_address(connect_addr), parse_timeout(timeout))
    except (NotValidatedError, ValueError) as error:
        raise ValidatorError(str(error)) from error
    print("Validated")


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise ValidatorError(
        f"stopped by {signal.Signals(number).name} before traffic was seen to be redirected"
    )
