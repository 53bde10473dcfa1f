"""Converts the values of key columns to canonical text, by rules that are the same for both parties and every format.

No code after canonical_text knows whether a key came from CSV or from Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psicli.core.errors import ColumnError, shown
from psicli.items.encoding import packed

# No real key is nearly this long, but the value after an unclosed quote soon is.
MAX_KEY_BYTES = 65536

_TEXT = pa.large_string()
# Matches dates with a four-digit year. Arrow writes other years in its own form.
_FOUR_DIGIT_YEAR = "^[0-9]{4}-"
_LOOK_ABOVE = "Look for an unclosed quote just above"


def _plain(array: Any) -> Any:
    return array.cast(_TEXT)


def _date_text(array: Any) -> Any:
    # safe=False truncates a date64 that is not a whole day to its day.
    return array.cast(pa.date32(), safe=False).cast(_TEXT)


def _timestamp_text(array: Any) -> Any:
    """Return timestamps as ISO 8601 in UTC, without trailing zeros in the fraction."""
    unit, zone = array.type.unit, array.type.tz
    # Arrow stores zoned values in UTC but prints them in local time. Without the zone it prints the stored value.
    text = array.cast(pa.int64()).cast(pa.timestamp(unit)).cast(_TEXT)
    text = pc.replace_substring(text, pattern=" ", replacement="T")
    if unit != "s":
        text = pc.ascii_rtrim(pc.ascii_rtrim(text, characters="0"), characters=".")
    return joined(text, "Z") if zone else text


def _decimal_text(array: Any) -> Any:
    """Return decimals as plain digits: no exponent, no trailing zeros in the fraction, no -0."""
    scale = array.type.scale
    if array.type.bit_width < 128:
        array = array.cast(pa.decimal128(array.type.precision, scale))
    wide = pa.decimal128(38, 0) if array.type.bit_width == 128 else pa.decimal256(76, 0)
    # Convert the coefficient alone: Arrow writes it as plain digits, but a small decimal as 1E-10.
    digits = array.view(wide).cast(_TEXT)
    if scale < 0:
        return pc.if_else(pc.equal(digits, "0"), digits, joined(digits, "0" * -scale))
    if scale == 0:
        return digits
    sign = pc.if_else(pc.starts_with(digits, "-"), _text("-"), _text(""))
    digits = pc.ascii_lpad(pc.ascii_ltrim(digits, characters="-"), width=scale + 1, padding="0")
    whole = pc.utf8_slice_codeunits(digits, start=0, stop=-scale)
    fraction = pc.ascii_rtrim(pc.utf8_slice_codeunits(digits, start=-scale), characters="0")
    point = pc.if_else(pc.equal(fraction, ""), _text(""), _text("."))
    return joined(sign, whole, point, fraction)


_CONVERTERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_string, _plain),
    (pa.types.is_large_string, _plain),
    (pa.types.is_string_view, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_null, _plain),
    (pa.types.is_date, _date_text),
    (pa.types.is_timestamp, _timestamp_text),
    (pa.types.is_decimal, _decimal_text),
)


def joined(*pieces: Any) -> Any:
    """Join pieces row by row: text columns, and strings that are the same in every row."""
    texts = [_text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return pc.binary_join_element_wise(*texts, _text(""))


def has_text(kind: Any) -> bool:
    """Return whether values of this Arrow type have a canonical text."""
    return any(test(_value_type(kind)) for test, _ in _CONVERTERS)


def text_of(array: Any) -> Any:
    """Return the canonical texts of a pa.Array as a pa.LargeStringArray; nulls stay null.

    has_text must be true for the type of the array.
    """
    if pa.types.is_dictionary(array.type):
        return text_of(array.dictionary).take(array.indices)
    convert = next(convert for test, convert in _CONVERTERS if test(array.type))
    return convert(array)


def canonical_text(column: Any) -> Any:
    """Return the canonical texts of a column (pa.Array or pa.ChunkedArray) as one pa.LargeStringArray."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.concat_arrays([pa.array([], _TEXT), *(text_of(chunk) for chunk in chunks)])


def key_texts(rows: Any, keys: Sequence[str], place: Callable[[int], str]) -> tuple[Any, ...]:
    """Return the canonical texts of the key columns of rows, a pa.RecordBatch or pa.Table, as pa.LargeStringArrays.

    `place` returns the place of a row in the file for an error message. Raises ColumnError.
    """
    texts = tuple(canonical_text(rows.column(key)) for key in keys)
    for key, text in zip(keys, texts, strict=True):
        kind = _value_type(rows.column(key).type)
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            row = pc.index(pc.match_substring_regex(text, pattern=_FOUR_DIGIT_YEAR), False).as_py()
            if row >= 0:
                raise ColumnError(
                    place=place(row),
                    fault=f"the key column {shown(key)} contains a date outside the years 0000 to 9999",
                    advice="Correct or remove the row. If the date is a placeholder, use null instead.",
                )
    _check_keys(texts, keys, place)
    return texts


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
        if pa.types.is_timestamp(_value_type(kind)):
            zones[_value_type(kind).tz is not None].append(shown(name))
    if zones[True] and zones[False]:
        zoned, zoneless = (", ".join(zones[has_zone]) for has_zone in (True, False))
        raise ColumnError(
            place=path,
            fault=f"the key columns {zoned} have a time zone and {zoneless} have none",
            advice="Give all timestamp keys of a task a time zone, or give none of them one.",
        )


def _check_keys(columns: Sequence[Any], names: Sequence[str], place: Callable[[int], str]) -> None:
    """Check that no key contains a control character or is too long; raises ColumnError."""
    for column, name in zip(columns, names, strict=True):
        row = _first_control_row(column)
        if row is not None:
            raise ColumnError(
                place=place(row),
                fault=f"the key column {shown(name)} contains a control character (such as a line break or a tab)",
                advice=f"{_LOOK_ABOVE}; keys must not contain U+0000 to U+001F or U+007F.",
            )
        row = pc.index(pc.greater(pc.binary_length(column), MAX_KEY_BYTES), True).as_py()
        if row >= 0:
            raise ColumnError(
                place=place(row),
                fault=f"the key column {shown(name)} contains a value longer than {MAX_KEY_BYTES:,} bytes",
                advice=f"{_LOOK_ABOVE}, or use a shorter key.",
            )


def _first_control_row(column: Any) -> int | None:
    # Searching the packed bytes is ten times as fast as searching every value. All bytes of a UTF-8 sequence that is
    # longer than one byte are 0x80 or above, so they cannot be mistaken for control characters.
    offsets, data = packed(column)
    positions = np.flatnonzero((data < 0x20) | (data == 0x7F))
    if not len(positions):
        return None
    rows = np.searchsorted(offsets, positions, side="right") - 1
    # The buffer may hold bytes for a null; they belong to no value.
    valid = column.is_valid().to_numpy(zero_copy_only=False)[rows]
    return int(rows[valid][0]) if valid.any() else None


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text(value: str) -> Any:
    return pa.scalar(value, _TEXT)
