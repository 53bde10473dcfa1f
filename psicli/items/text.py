"""Converts the values of key columns to canonical text, by rules that are the same for both parties and every format.

No code after canonical_text knows whether a key came from CSV or from Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from psicli.core.errors import ColumnError, shown
from psicli.items import compute as pc
from psicli.items import kinds
from psicli.items.encoding import packed

# No real key is nearly this long, but the value after an unclosed quote soon is.
MAX_KEY_BYTES = 65536

_TEXT = pa.large_string()
# The two hexadecimal digits of every byte, and the places of a UUID's digits in its text.
_HEX_DIGITS = np.array([list(f"{byte:02x}".encode()) for byte in range(256)], np.uint8)
_UUID_DIGITS = [place for place in range(36) if place not in (8, 13, 18, 23)]
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAYS_TO_2000, _DAYS_OF_400_YEARS = 10_957, 146_097
# Matches dates with a four-digit year. Arrow writes other years in its own form.
_FOUR_DIGIT_YEAR = "^[0-9]{4}-"
_UNCLOSED = "in a CSV file, look for an unclosed quote just above."


def _plain(array: Any) -> Any:
    return pc.cast(array, _TEXT)


def _bytes_text(array: Any) -> Any:
    """Return bytes as the text that they are in UTF-8; the reader has checked that they are."""
    return pc.cast(pc.cast(array, pa.large_binary()), _TEXT, safe=False)


def _uuid_text(array: Any) -> Any:
    """Return UUIDs in lower case with hyphens (RFC 9562, section 4)."""
    array = pc.fill_null(array, bytes(16))
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8).reshape(-1, 16)[array.offset : array.offset + len(array)]
    digits = _HEX_DIGITS[raw].reshape(-1, 32)
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS] = digits
    offsets = np.arange(len(raw) + 1, dtype=np.int64) * 36
    return pa.Array.from_buffers(_TEXT, len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _date_text(array: Any) -> Any:
    # safe=False truncates a date64 that is not a whole day to its day.
    days = pc.cast(array, pa.date32(), safe=False)
    return _with_far_values(pc.cast(days, _TEXT), pc.cast(days, pa.int32()), _far_date)


def _timestamp_text(array: Any) -> Any:
    """Return timestamps as ISO 8601 in UTC, without trailing zeros in the fraction."""
    unit, zone = array.type.unit, array.type.tz
    # Arrow stores zoned values in UTC but prints them in local time. Without the zone it prints the stored value.
    stored = pc.cast(array, pa.int64())
    text = pc.cast(pc.cast(stored, pa.timestamp(unit)), _TEXT)
    text = _with_far_values(text, stored, partial(_far_timestamp, unit))
    text = _without_zeros(pc.replace_substring(text, pattern=" ", replacement="T"), unit)
    return joined(text, "Z") if zone else text


def _time_text(array: Any) -> Any:
    """Return times of day as ISO 8601, without trailing zeros in the fraction; 24:00:00 and later times are kept."""
    unit, stored = array.type.unit, pc.cast(array, pa.int32() if array.type.bit_width == 32 else pa.int64())
    return _without_zeros(_with_far_values(pc.cast(array, _TEXT), stored, partial(_far_time, unit)), unit)


def _without_zeros(text: Any, unit: str) -> Any:
    return text if unit == "s" else pc.ascii_rtrim(pc.ascii_rtrim(text, characters="0"), characters=".")


# Values that Arrow does not write out ----------------------------------------------------------------------------


def _with_far_values(text: Any, stored: Any, written: Callable[[int], str]) -> Any:
    """Replace the placeholders that Arrow writes for values out of its range with the texts of the stored numbers."""
    far = pc.starts_with(text, pattern="<")
    if not far.true_count:
        return text
    numbers = pc.dictionary_encode(pc.filter_(stored, far))
    texts = pa.array([written(number) for number in numbers.dictionary.to_pylist()], _TEXT)
    return pc.replace_with_mask(text, pc.fill_null(far, False), pc.take(texts, numbers.indices))


def _far_date(days: int) -> str:
    """Return a day since 1970 as year, month and day of the Gregorian calendar, also beyond Python's years."""
    cycles, rest = divmod(days - _DAYS_TO_2000, _DAYS_OF_400_YEARS)
    day = date(2000, 1, 1) + timedelta(rest)
    year = day.year + 400 * cycles
    return f"{'-' if year < 0 else ''}{abs(year):04d}-{day.month:02d}-{day.day:02d}"


def _far_timestamp(unit: str, value: int) -> str:
    days, rest = divmod(value, 86_400 * _PER_SECOND[unit])
    return f"{_far_date(days)} {_far_time(unit, rest)}"


def _far_time(unit: str, value: int) -> str:
    seconds, fraction = divmod(abs(value), _PER_SECOND[unit])
    digits = f".{fraction:0{len(str(_PER_SECOND[unit])) - 1}d}" if unit != "s" else ""
    sign = "-" if value < 0 else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{digits}"


# Numbers ---------------------------------------------------------------------------------------------------------


def _decimal_text(array: Any) -> Any:
    """Return decimals as plain digits: no exponent, no trailing zeros in the fraction, no -0."""
    scale = array.type.scale
    if array.type.bit_width < 128:
        array = pc.cast(array, pa.decimal128(array.type.precision, scale))
    wide = pa.decimal128(38, 0) if array.type.bit_width == 128 else pa.decimal256(76, 0)
    # Convert the coefficient alone: Arrow writes it as plain digits, but a small decimal as 1E-10.
    digits = pc.cast(array.view(wide), _TEXT)
    if scale < 0:
        return pc.if_else(pc.equal(digits, "0"), digits, joined(digits, "0" * -scale))
    if scale == 0:
        return digits
    sign = pc.if_else(pc.starts_with(digits, pattern="-"), _text("-"), _text(""))
    digits = pc.ascii_lpad(pc.ascii_ltrim(digits, characters="-"), width=scale + 1, padding="0")
    whole = pc.utf8_slice_codeunits(digits, start=0, stop=-scale)
    fraction = pc.ascii_rtrim(pc.utf8_slice_codeunits(digits, start=-scale), characters="0")
    point = pc.if_else(pc.equal(fraction, ""), _text(""), _text("."))
    return joined(sign, whole, point, fraction)


_CONVERTERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (kinds.is_text, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_null, _plain),
    (pa.types.is_date, _date_text),
    (pa.types.is_time, _time_text),
    (pa.types.is_timestamp, _timestamp_text),
    (pa.types.is_decimal, _decimal_text),
    (kinds.is_uuid, _uuid_text),
    (kinds.is_json, _plain),
    (kinds.is_bool8, lambda array: pc.cast(pc.not_equal(array, 0), _TEXT)),
    (kinds.is_bytes, _bytes_text),
)


def joined(*pieces: Any) -> Any:
    """Join pieces row by row: text columns, and strings that are the same in every row."""
    texts = [_text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return pc.binary_join_element_wise(*texts, _text(""))


def has_text(kind: Any) -> bool:
    """Return whether values of this Arrow type have a canonical text."""
    return any(test(kinds.value_type(kind)) for test, _ in _CONVERTERS)


def text_of(array: Any, kind: Any = None) -> Any:
    """Return the canonical texts of a pa.Array as a pa.LargeStringArray; nulls stay null.

    kind: the type of the column, if the array holds the values of an extension type as they are stored. has_text must
    be true for the type.
    """
    kind = array.type if kind is None else kind
    if pa.types.is_dictionary(array.type):
        return pc.take(text_of(array.dictionary, kind.value_type), array.indices)
    array = array.storage if kinds.is_extension(array.type) else array
    convert = next(convert for test, convert in _CONVERTERS if test(kinds.value_type(kind)))
    text = convert(array)
    return pc.if_else(pc.is_valid(array), text, None) if kinds.is_uuid(kind) else text


def canonical_text(column: Any, kind: Any = None) -> Any:
    """Return the canonical texts of a column (pa.Array or pa.ChunkedArray) as one pa.LargeStringArray.

    kind: as for text_of.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.concat_arrays([pa.array([], _TEXT), *(text_of(chunk, kind) for chunk in chunks)])


def key_text(column: Any, name: str, place: Callable[[int], str]) -> Any:
    """Return the canonical texts of a key column, a pa.Array or pa.ChunkedArray, as a pa.LargeStringArray.

    `place` returns the place of a row in the file for an error message. Raises ColumnError.
    """
    text, kind = canonical_text(column), kinds.value_type(column.type)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        row = pc.index(pc.match_substring_regex(text, pattern=_FOUR_DIGIT_YEAR), False).as_py()
        if row >= 0:
            raise ColumnError(
                place=place(row),
                fault=f"the key column {shown(name)} contains a date outside the years 0000 to 9999",
                advice="Correct or remove the row. If the date is a placeholder, use null instead.",
            )
    return text


def check_key_types(types: Sequence[tuple[str, Any]], *, path: str) -> None:
    """Check that both parties can compare key columns as text; `types`: (name, Arrow type). Raises ColumnError."""
    zones: dict[bool, list[str]] = {True: [], False: []}
    for name, kind in types:
        if not has_text(kind):
            raise ColumnError(
                place=path,
                fault=f"the key column {shown(name)} is of type {shown(str(kind))}, "
                "whose values have no unique text form",
                advice="Cast the column to text, integer, date, timestamp or decimal before the run.",
            )
        if pa.types.is_timestamp(kinds.value_type(kind)):
            zones[kinds.value_type(kind).tz is not None].append(shown(name))
    if zones[True] and zones[False]:
        zoned, zoneless = (", ".join(zones[has_zone]) for has_zone in (True, False))
        raise ColumnError(
            place=path,
            fault=f"the key columns {zoned} have a time zone and {zoneless} have none",
            advice="Give all timestamp keys of a task a time zone, or give none of them one.",
        )


def check_characters(text: Any, name: str, place: Callable[[int], str]) -> None:
    """Check that no key of a column contains a control character; raises ColumnError."""
    row = first_control_row(text)
    if row is not None:
        raise ColumnError(
            place=place(row),
            fault=f"the key column {shown(name)} contains a control character (such as a line break or a tab)",
            advice=f"Keys must not contain U+0000 to U+001F or U+007F; {_UNCLOSED}",
        )


def check_lengths(text: Any, name: str, place: Callable[[int], str]) -> None:
    """Check that no key of a column is too long; raises ColumnError."""
    row = pc.index(pc.greater(pc.binary_length(text), MAX_KEY_BYTES), True).as_py()
    if row >= 0:
        raise ColumnError(
            place=place(row),
            fault=f"the key column {shown(name)} contains a value longer than {MAX_KEY_BYTES:,} bytes",
            advice=f"Use a shorter key; {_UNCLOSED}",
        )


def first_control_row(column: Any) -> int | None:
    """Return the first row of a pa.LargeStringArray whose text contains a control character, or None."""
    # Searching the packed bytes is ten times as fast as searching every value. All bytes of a UTF-8 sequence that is
    # longer than one byte are 0x80 or above, so they cannot be mistaken for control characters.
    offsets, data = packed(column)
    positions = np.flatnonzero((data < 0x20) | (data == 0x7F))
    if not len(positions):
        return None
    rows = np.searchsorted(offsets, positions, side="right") - 1
    # The buffer may hold bytes for a null; they belong to no value.
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)[rows]
    return int(rows[valid][0]) if valid.any() else None


def _text(value: str) -> Any:
    return pa.scalar(value, _TEXT)
