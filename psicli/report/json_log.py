"""The log as JSON, for programs that collect logs: with PSICLI_LOG=json, each line is one object.

The text of a line is the same as without. ASCII alone, so that no encoding of a collector can spoil a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from psicli.core.errors import VariableError, shown

VARIABLE = "PSICLI_LOG"
_JSON = "json"


def check_log_format() -> None:
    """Raise VariableError if the environment asks for a log of an unknown form."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "text", _JSON):
        raise VariableError(
            variable=VARIABLE, fault=f"is {shown(value)}", advice=f"Set it to json or text, or unset {VARIABLE}."
        )


def logs_json() -> bool:
    """Return whether the log is JSON."""
    return os.environ.get(VARIABLE) == _JSON


def json_line(created: float, level: str, names: Mapping[str, str], message: str, **facts: Any) -> str:
    """Return one line of the log. created: its moment [s, Unix time]; names: of the job and so on."""
    moment = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": moment, "level": level, **names, "message": message, **facts})
