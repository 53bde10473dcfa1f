"""Says in sentences what is unusual about the keys of an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import counted, shown
from psicli.items import kinds
from psicli.items.spelling.column import Column
from psicli.items.spelling.patterns import PLACEHOLDERS

# Keys that are looked at together: few enough for the caches of a core.
_SLICE_ROWS = 65_536

# What a number of rows "have", and what to do, in the order of the warnings.
KINDS = {
    "blank": ("a key of nothing but spaces", "Leave such keys empty: an empty key matches nothing."),
    "spaces": ("spaces around the key, which count when keys are compared", "Trim the keys in the export."),
    "invisible": (
        "an invisible character in the key",
        "Remove byte order marks (U+FEFF), zero-width spaces (U+200B) and no-break spaces (U+00A0) in the export.",
    ),
    "accents": ("accents as separate characters", "Bring the keys to the Unicode form NFC in the export."),
    "quotes": ("quotation marks as part of the key", "Remove them in the export."),
    "header": ("the name of the column as the key", "Remove header lines below the first; were several files joined?"),
    "placeholder": (
        "a placeholder as the key ({words}), which matches the same text of the other party",
        "If it means that there is no value, list it under csv.null_values, or export real nulls.",
    ),
    "point zero": (
        "a whole number with .0 at the end, which does not match one without",
        "Make the column an integer before the export (in pandas: Int64).",
    ),
    "padded": (
        "a number with leading zeros, and there are shorter numbers without",
        "007 does not match 7. Write all numbers with the same number of digits, or none with leading zeros.",
    ),
    "exponent": ("a number in scientific form, such as 1.2E+11", "Export all digits; the file may have lost some."),
    "separators": (
        "a number with separators, such as 1,234 or 517,5",
        "Write digits, and a point for fractions.",
    ),
    "time": (
        "a time that is not in the form which psicli gives to timestamps",
        "Write 2024-03-01T06:00:00, or 2024-03-01T06:00:00Z in UTC if the timestamps have a time zone.",
    ),
    "date": ("a date that is not in the form which psicli gives to dates", "Write 2024-03-01."),
    "midnight": (
        "a time at midnight, which does not match a date",
        "If the column holds dates, give it the type date, or write 2024-03-01.",
    ),
    "e-mail": ("an e-mail address with capital letters", "Agree with the other party on lower case."),
    "hexadecimal": (
        "capital letters in a UUID or a hash, and other rows have small letters",
        "Agree with the other party on lower case.",
    ),
}

# How psicli spells the values of columns that are not text.
_EXAMPLES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (kinds.is_uuid, "123e4567-e89b-12d3-a456-426614174000"),
    (pa.types.is_integer, "517"),
    (pa.types.is_boolean, "true"),
    (pa.types.is_decimal, "517 or 7.5"),
    (pa.types.is_time, "06:00:00"),
    (pa.types.is_date, "2024-03-01"),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, "2024-03-01T06:00:00Z"),
    (pa.types.is_timestamp, "2024-03-01T06:00:00"),
)


class Finding(NamedTuple):
    """What is unusual about a key column, and what to do."""

    fault: str
    advice: str

    def __str__(self) -> str:
        return f"{self.fault}. {self.advice}"


class Spellings:
    """What is unusual about the keys of one input. keys: the names of its key columns."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._columns = [(key, Column(key)) for key in keys]

    def add(self, texts: Sequence[Any], schema: Any) -> None:
        """Look at the keys of some rows: a pa.LargeStringArray for each key column; schema: of the input."""
        for (name, column), keys in zip(self._columns, texts, strict=True):
            kind = schema.field(name).type
            for start in range(0, len(keys) or 1, _SLICE_ROWS):
                column.add(keys[start : start + _SLICE_ROWS], kind)

    def merge(self, later: Spellings) -> None:
        """Add what is unusual about later rows, as if they had been added here."""
        for (_, column), (_, other) in zip(self._columns, later._columns, strict=True):
            column.merge(other)

    def findings(self, matchless: int, *, whole: bool = True) -> Iterator[Finding]:
        """Yield what is unusual, column by column.

        matchless: how many rows have no key. whole: whether the rows are all rows of the input.
        """
        rows = self._columns[0][1].rows
        if not rows:
            yield Finding("the input has no rows, so nothing can match", "Look whether the export is complete.")
        elif matchless == rows and whole:
            fault = f"{_of_rows(rows, rows, whole)} no key, so nothing can match"
            yield Finding(fault, "A null or empty key matches nothing. Check keys in the job file, and the export.")
        for name, column in self._columns:
            for kind, (fault, advice) in KINDS.items():
                if column.is_worth_a_word(kind):
                    words = ", ".join(word for word in PLACEHOLDERS if word in column.words)
                    have = _of_rows(column.counts[kind], rows, whole)
                    yield Finding(f"{shown(name)}: {have} {fault.format(words=words)}", advice)
            if alike := column.sample.alike():
                fault = f"{shown(name)}: {alike} distinct keys differ from another one only in case"
                yield Finding(fault, "psicli does not ignore case. Agree with the other party on one form.")

    def columns(self, schema: Any) -> list[str]:
        """Return each key column with its type and what it holds, such as `'id' (string, whole numbers)`."""
        return [
            f"{shown(name)} ({', '.join(_traits(column, schema.field(name).type))})" for name, column in self._columns
        ]


def _of_rows(count: int, rows: int, whole: bool) -> str:
    """Return the subject and the verb of a sentence about some of the rows."""
    all_rows = counted(rows, "row") if whole else f"the first {counted(rows, 'row')}"
    if count == rows:
        return "the only row has" if rows == 1 else f"all {'' if whole else 'of '}{all_rows} have"
    return f"{count:,} of {all_rows} {'has' if count == 1 else 'have'}"


def _traits(column: Column, kind: Any) -> Iterator[str]:
    yield str(kind)
    if look := column.look():
        yield look
    elif example := next((text for test, text in _EXAMPLES if test(kinds.value_type(kind))), ""):
        yield f"compared as {example}"
