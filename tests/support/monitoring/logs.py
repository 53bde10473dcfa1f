"""Logs of JSON as a program reads them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR"}
_FACTS = {"time", "level", "batch", "job", "party", "task", "message", "hint", "traceback", "report"}


def log_lines(stderr: str) -> list[dict[str, Any]]:
    """Return the lines of a log; each must be one object with a time in UTC, a level and a text of one line or more."""
    assert stderr.isascii()
    lines = [json.loads(line) for line in stderr.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line["level"] in _LEVELS, line
        assert line["message"], line
        assert line.keys() <= _FACTS, line
        assert line.get("hint", True) is True
    return lines


def told(lines: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """Return the one line with this text."""
    (line,) = (line for line in lines if text in line["message"])
    return line
