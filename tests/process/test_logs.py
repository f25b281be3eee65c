"""Logs: JSON lines with Kubernetes' keys, text for people, and libraries in the same stream."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from process import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is process-wide: put back what was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_json_line_has_message_level_time_and_keys() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    structlog.get_logger().info("review answered", pod="shop/web-", injected=True)
    [line] = _lines(out)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "msg": "review answered",
        "level": "info",
        "pod": "shop/web-",
        "injected": True,
    }


def test_what_libraries_log_takes_the_same_form() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    logging.getLogger("uvicorn.error").warning("took %s", "long")
    [line] = _lines(out)
    assert (line["msg"], line["level"]) == ("took long", "warning")
    assert line["logger"] == "uvicorn.error"


def test_a_traceback_stays_on_the_line() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    structlog.get_logger().error("failed", exc_info=ValueError("why"))
    assert "ValueError: why" in _lines(out)[0]["exception"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_variables_because_keys_are_among_them(
    log_format: logs.LogFormat,
) -> None:
    out = io.StringIO()
    logs.configure(log_format, "info", out)
    key = "".join(("of a ", "private key"))
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("uvicorn.error").exception("failed too")
    assert out.getvalue().count("ValueError: why") == 2
    assert key not in out.getvalue()


def test_what_json_has_no_form_for_is_logged_as_text() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    structlog.get_logger().info("odd", value={1, 2}, problem=KeyError("x"))
    assert _lines(out)[0]["problem"] == "'x'"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_value_begins_a_line_or_moves_a_terminals_cursor(log_format: logs.LogFormat) -> None:
    out = io.StringIO()
    logs.configure(log_format, "info", out)
    structlog.get_logger().info("review answered", pod="a/\x1b[2Jb", warnings=["\x1b[2J\nx"])
    structlog.get_logger().info("review answered", pod="a/b\nserving")
    logging.getLogger("uvicorn.error").warning("odd\x1b[2J\nserving")
    lines = out.getvalue().split("\n")
    assert len(lines) == 4
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("error", 1)])
def test_the_level_holds_back_what_is_below(level: logs.LogLevel, count: int) -> None:
    out = io.StringIO()
    logs.configure("json", level, out)
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.error("c")
    assert len(_lines(out)) == count


def test_text_is_plain_where_it_is_no_terminal() -> None:
    out = io.StringIO()
    logs.configure("text", "info", out)
    structlog.get_logger().info("serving", address="127.0.0.1:1")
    assert "serving" in out.getvalue()
    assert "address=127.0.0.1:1" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 1)])
def test_a_line_for_each_request_is_kept_for_debugging(level: logs.LogLevel, count: int) -> None:
    out = io.StringIO()
    logs.configure("json", level, out)
    logging.getLogger("httpx2").info("HTTP Request: GET /")
    logging.getLogger("httpx2").warning("something is wrong")
    assert len(_lines(out)) == count
