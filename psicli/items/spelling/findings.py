"""Says in sentences what is unusual about the keys of an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import counted, shown
from psicli.items import kinds
from psicli.items.forms.names import Form
from psicli.items.spelling.causes import cause_of
from psicli.items.spelling.column import Column
from psicli.items.spelling.patterns import PLACEHOLDERS

# Keys that are looked at together: few enough for the caches of a core.
_SLICE_ROWS = 65_536

# More rows than this share without a key are a warning.
_MANY_MATCHLESS = 0.1
# So few distinct keys are a warning: at most this share of the rows that have a key, and at most this number. Tables of
# events have many rows of each customer, and yet many customers.
_FEW_KEYS, _FEW_KEYS_NUMBER = 0.01, 1000
# The first rows of a file that is sorted have the fewest distinct keys, so there the limit is lower by this factor.
_FEWER_IN_FIRST_ROWS = 0.1
_LEAST_ROWS = 1000

# What a number of rows "have", and what to do, in the order of the warnings.
KINDS = {
    "blank": (
        "a key of nothing but spaces",
        "Agree with the other party on key_form: [trim], or leave such keys empty: an empty key matches nothing.",
    ),
    "spaces": (
        "spaces around the key, which count when keys are compared",
        "Agree with the other party on key_form: [trim], or trim the keys in the export.",
    ),
    "invisible": (
        "an invisible character in the key",
        "Remove byte order marks (U+FEFF), zero-width spaces (U+200B) and no-break spaces (U+00A0) in the export. "
        "key_form: [trim] removes them only around the key.",
    ),
    "accents": (
        "accents as separate characters",
        "Agree with the other party on key_form: [nfc], or bring the keys to the Unicode form NFC in the export.",
    ),
    "quotes": (
        "quotation marks as part of the key",
        'Remove them in the export, also an apostrophe and ="…", which spreadsheets need.',
    ),
    "header": ("the name of the column as the key", "Remove header lines below the first; were several files joined?"),
    "placeholder": (
        "a placeholder as the key ({words}), which matches the same text of the other party",
        "If it means that there is no value, list it under csv.null_values, or export real nulls.",
    ),
    "hashed placeholder": (
        "the hash of an empty value or a placeholder, which matches the same hash of the other party",
        "Hash only rows that have a value, or list this hash under csv.null_values.",
    ),
    "point zero": (
        "a whole number with .0 at the end, which does not match one without",
        "Agree with the other party on key_form: [integer], or make the column an integer before the export (in "
        "pandas: Int64).",
    ),
    "padded": (
        "a number with leading zeros, and there are shorter numbers without",
        "007 does not match 7. Agree with the other party on key_form: [integer], or write all numbers with the same "
        "number of digits.",
    ),
    "exponent": ("a number in scientific form, such as 1.2E+11", "Export all digits; the file may have lost some."),
    "separators": (
        "a number with separators, such as 1,234 or 517,5",
        "Write digits, and a point for fractions.",
    ),
    "phone": (
        "a phone number that is not in the form E.164, such as +491711234567",
        "Agree with the other party on key_form: [phone], with your own region in normalize, such as phone/DE.",
    ),
    "time": (
        "a time that is not in the form which psicli gives to timestamps",
        "Agree with the other party on key_form: [timestamp], or write 2024-03-01T06:00:00, or 2024-03-01T06:00:00Z in "
        "UTC if the timestamps have a time zone.",
    ),
    "date": (
        "a date that is not in the form which psicli gives to dates",
        "Agree with the other party on key_form: [date], with normalize: date/DMY or date/MDY if the year comes last, "
        "or write 2024-03-01.",
    ),
    "midnight": (
        "a time at midnight, which does not match a date",
        "If the column holds dates, agree with the other party on key_form: [date], or write 2024-03-01.",
    ),
    "wrapped e-mail": (
        "an e-mail address inside other text, such as mailto: or a name",
        "Agree with the other party on key_form: [email], or export the address alone.",
    ),
    "e-mail": (
        "an e-mail address with capital letters",
        "Agree with the other party on key_form: [email], or write lower case in the export.",
    ),
    "e-mail variant": (
        "an e-mail address with dots or a +tag that its provider ignores",
        "If both parties want to match all spellings of such an address, agree on key_form: [email/plain].",
    ),
    "hexadecimal": (
        "capital letters in a UUID or a hash, and other rows have small letters",
        "Agree with the other party on key_form: [lower], or [uuid] for UUIDs.",
    ),
    "uuid": (
        "a UUID in braces, as a URN or without hyphens, and other rows have plain ones",
        "Agree with the other party on key_form: [uuid].",
    ),
}
# What is ordinary, but worth knowing when keys are agreed on; the other kinds are warnings.
_NOTES = {"e-mail variant"}

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
    """What is unusual about a key column, and what to do. is_note: whether it is worth knowing, but no warning."""

    fault: str
    advice: str
    is_note: bool = False

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

    def findings(self, matchless: int, distinct: int | None = None, *, whole: bool = True) -> Iterator[Finding]:
        """Yield what is unusual: first about the whole keys, then column by column.

        matchless: how many rows have no key. distinct: how many distinct keys the others have; None if that is not
        known. whole: whether the rows are all rows of the input.
        """
        rows = self._columns[0][1].rows
        if not rows:
            yield Finding("the input has no rows, so nothing can match", "Look whether the export is complete.")
        elif matchless == rows and whole:
            fault = f"{_of_rows(rows, rows, whole)} no key, so nothing can match"
            yield Finding(fault, "A null or empty key matches nothing. Check keys in the job file, and the export.")
        elif matchless > _MANY_MATCHLESS * rows:
            advice = "A null or empty key matches nothing. Are these the right columns?"
            yield Finding(f"{_of_rows(matchless, rows, whole)} no key", advice)
        keyed = rows - matchless
        share, number = (each * (1 if whole else _FEWER_IN_FIRST_ROWS) for each in (_FEW_KEYS, _FEW_KEYS_NUMBER))
        if distinct is not None and keyed >= _LEAST_ROWS and distinct <= min(share * keyed, number):
            names = ", ".join(shown(name) for name, _ in self._columns)
            are = f"Is {names} the right key column?" if len(self._columns) == 1 else f"Are {names} the right columns?"
            fault = f"only {counted(distinct, 'distinct key')} in {'' if whole else 'the first '}{counted(rows, 'row')}"
            yield Finding(fault, are)
        for name, column in self._columns:
            yield from _of_column(name, column, rows, whole)

    def columns(self, schema: Any) -> list[str]:
        """Return each key column with its type and what it holds, such as `'id' (string, whole numbers)`."""
        return [
            f"{shown(name)} ({', '.join(_traits(column, schema.field(name).type))})" for name, column in self._columns
        ]

    def causes(self, schema: Any, forms: Sequence[Form]) -> list[str]:
        """Return why keys of this input may not match those that look the same to people, most likely first.

        forms: the form of each key column.
        """
        columns = zip(self._columns, forms, strict=True)
        found = [cause_of(name, column, schema.field(name).type, form) for (name, column), form in columns]
        return [cause for _, cause in sorted(filter(None, found))]


def _of_column(name: str, column: Column, rows: int, whole: bool) -> Iterator[Finding]:
    for kind, (fault, advice) in KINDS.items():
        if count := column.unusual(kind):
            words = ", ".join(word for word in PLACEHOLDERS if word in column.words)
            have = _of_rows(count, rows, whole)
            yield Finding(f"{shown(name)}: {have} {fault.format(words=words)}", advice, kind in _NOTES)
    if alike := column.sample.alike():
        fault = f"{shown(name)}: {alike} distinct keys differ from another one only in case"
        yield Finding(fault, "psicli does not ignore case. Agree with the other party on key_form: [lower].")


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
