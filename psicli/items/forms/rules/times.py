"""The forms of dates and times."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from psicli.items.forms.rules.text import trim

_YEAR, _MONTH, _DAY = "(?P<year>[0-9]{4})", "(?P<month>[0-9]{1,2})", "(?P<day>[0-9]{1,2})"
_ORDERS = {"": (_YEAR, _MONTH, _DAY), "DMY": (_DAY, _MONTH, _YEAR), "MDY": (_MONTH, _DAY, _YEAR)}
_COMPACT_DATE = "(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
_FRACTION = "(?:[.,](?P<fraction>[0-9]{1,9}))?"
_CLOCK = f"(?P<hour>[0-9]{{1,2}}):(?P<minute>[0-9]{{2}})(?::(?P<second>[0-9]{{2}}){_FRACTION})?"
_COMPACT_CLOCK = f"(?P<hour>[0-9]{{2}})(?P<minute>[0-9]{{2}})(?:(?P<second>[0-9]{{2}}){_FRACTION})?"
_ZONE = "(?: *(?P<zone>[zZ]|UTC|GMT|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?))?"


def _time(day: str, clock: str) -> re.Pattern[str]:
    return re.compile(f"{day}(?:(?:[tT]| +){clock}{_ZONE})?")


_PARTED = {
    order: _time(f"{first}(?P<by>[-/.]){second}(?P=by){third}", _CLOCK)
    for order, (first, second, third) in _ORDERS.items()
}
_COMPACT = (_time(_COMPACT_DATE, _COMPACT_CLOCK), _time(_COMPACT_DATE, _CLOCK))
# A year of four digits in front is not ambiguous, so it is understood with every order.
_PATTERNS = {order: tuple(dict.fromkeys((_PARTED[""], pattern, *_COMPACT))) for order, pattern in _PARTED.items()}


def date(order: str, text: str) -> str | None:
    """Return the date of a date or a timestamp; with a time zone, it is the date in UTC.

    order: DMY or MDY for values that have the year last; empty if all have it first.
    """
    text = trim(text)
    found = _moment(text, order) if text else None
    return found[0].date().isoformat() if found else text and None


def timestamp(text: str) -> str | None:
    """Return a timestamp in UTC; without a time zone it is in UTC already, and a date is its midnight."""
    text = trim(text)
    found = _moment(text, "") if text else None
    if found is None:
        return text and None
    moment, fraction = found
    return f"{moment.isoformat()}{fraction}Z"


def _moment(text: str, order: str) -> tuple[datetime, str] | None:
    """Return a time to the second in UTC, and its fraction with a point; None if there is no such time."""
    found = next(filter(None, (pattern.fullmatch(text) for pattern in _PATTERNS[order])), None)
    if found is None:
        return None
    numbers = [int(found[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")]
    hours, minutes = int(found["hours"] or 0), int(found["minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        moment = datetime(*numbers)  # type: ignore[arg-type]
        moment = moment + offset if found["sign"] == "-" else moment - offset
    except (ValueError, OverflowError):
        return None
    fraction = (found["fraction"] or "").rstrip("0")
    return moment, f".{fraction}" if fraction else ""
