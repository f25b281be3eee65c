"""Structured logs after Kubernetes' conventions: constant message, lowerCamelCase keys.

One line an event on stderr, as JSON or as text. What libraries log through `logging` goes the
same way. Source: kubernetes/community, migration to structured logging.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog
from structlog.processors import (
    EventRenamer,
    JSONRenderer,
    TimeStamper,
    add_log_level,
    format_exc_info,
)
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, Processor

from process.lossy_stream import LossyStream

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CHATTY = ("httpx2", "httpcore2", "watchfiles")


_INDISCREET = ("hpack", "grpclib")
"""They log the headers of each call at level debug, bearer tokens among them."""


def configure(
    log_format: LogFormat = "json", level: LogLevel = "info", stream: TextIO | None = None
) -> None:
    """Set up logging for the whole process; ``stream`` is stderr unless given.

    Nobody waits for stderr, unless it is a terminal (see `LossyStream`).
    """
    out = stream or _stderr()
    shared: list[Processor] = [add_log_level, TimeStamper(fmt="iso", utc=True, key="ts")]
    renderers = _renderers(log_format, out)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[add_logger_name, *shared],
            processors=[ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=_LEVELS[level], force=True)
    for name in _INDISCREET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _CHATTY:
        # One line for each request is what they call information.
        logging.getLogger(name).setLevel(logging.WARNING if level != "debug" else logging.DEBUG)


def _stderr() -> TextIO:
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # replaced by something that is no file
        return sys.stderr
    return sys.stderr if sys.stderr.isatty() else cast(TextIO, LossyStream(descriptor))


def _renderers(log_format: LogFormat, out: TextIO) -> list[Processor]:
    if log_format == "text":
        colors = out.isatty() and not os.environ.get("NO_COLOR")
        return [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                timestamp_key="ts",
                # Its own choice shows the values of variables, keys and pods among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    return [format_exc_info, EventRenamer("msg"), JSONRenderer(serializer=_to_json)]


def _escape(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A name that somebody made up must neither begin a line nor move a terminal's cursor."""
    return {
        key: value.encode("unicode_escape").decode()
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in event.items()
    }


def _to_json(event: Any, **_: Any) -> str:
    # What JSON has no form for is logged as its text, rather than lost.
    return msgspec.json.encode(event, enc_hook=str).decode()
