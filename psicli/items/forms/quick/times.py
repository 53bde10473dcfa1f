"""The quick way for dates and timestamps that have the year first, all their digits and no time zone but UTC."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from psicli.items import compute as pc
from psicli.items.encoding import packed
from psicli.items.forms.quick.values import changed, matching, only, without
from psicli.items.text import joined

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_UTC = r"(?: ?(?:Z|UTC|GMT|[+-]00(?::?00)?))"
_TIME = rf"^{_DAY}[T ]{_CLOCK}(?:\.[0-9]{{1,9}})?{_UTC}?$"
_WRITTEN = rf"^{_DAY}T{_CLOCK}(?:\.[0-9]{{0,8}}[1-9])?Z$"
_DAYS_OF_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int32)
# How many characters a day has, and a time to the second.
_DAY_LENGTH, _TIME_LENGTH = 10, 19


def timestamp(texts: Any) -> Any:
    times = only(texts, matching(texts, _TIME))
    times = only(times, _exist(times, _TIME_LENGTH))
    return changed(times, pc.invert(matching(times, _WRITTEN)), _written)


def date(texts: Any) -> Any:
    """Return dates; of timestamps, too, which are no others without a time zone than in UTC."""
    days = only(texts, matching(texts, f"^{_DAY}$"))
    days = only(days, _exist(days, _DAY_LENGTH))
    times = only(texts, matching(texts, _TIME))
    times = pc.utf8_slice_codeunits(only(times, _exist(times, _TIME_LENGTH)), start=0, stop=_DAY_LENGTH)
    return pc.fill_null(days, times)


def _written(times: Any) -> Any:
    """Return times with their T and Z, and without zeros at the end of the fraction."""
    rest = without(f"{_UTC}$")(pc.utf8_slice_codeunits(times, start=_TIME_LENGTH))
    fraction = pc.ascii_rtrim(pc.ascii_rtrim(rest, characters="0"), characters=".")
    day = pc.utf8_slice_codeunits(times, start=0, stop=_DAY_LENGTH)
    clock = pc.utf8_slice_codeunits(times, start=_DAY_LENGTH + 1, stop=_TIME_LENGTH)
    return joined(day, "T", clock, fraction, "Z")


def _exist(texts: Any, length: int) -> Any:
    """Return which dates, or times to the second, there are in the calendar; null where there is no text."""
    there = pc.drop_null(texts)
    _, data = packed(pc.utf8_slice_codeunits(there, start=0, stop=length))
    digits = data.reshape(-1, length).astype(np.int32) - ord("0")
    year = _number(digits, 0) * 100 + _number(digits, 2)
    month, day = _number(digits, 5), _number(digits, 8)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last = _DAYS_OF_MONTH[np.clip(month, 0, 12)] + (leap & (month == 2))
    exist = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= last)
    if length == _TIME_LENGTH:
        exist &= (_number(digits, 11) < 24) & (_number(digits, 14) < 60) & (_number(digits, 17) < 60)
    if not texts.null_count:
        return pc.from_numpy(exist)
    found = np.zeros(len(texts), np.bool_)
    found[pc.is_valid(texts).to_numpy(zero_copy_only=False)] = exist
    return pc.from_numpy(found)


def _number(digits: npt.NDArray[np.int32], place: int) -> npt.NDArray[np.int32]:
    return digits[:, place] * 10 + digits[:, place + 1]
