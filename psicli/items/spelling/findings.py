"""Says in sentences what is unusual about the keys of an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import counted, shown
from psicli.items import kinds
from psicli.items.forms.names import Form
from psicli.items.spelling.column import Column
from psicli.items.spelling.patterns import PLACEHOLDERS
from psicli.items.spelling.remedies import CASE, KINDS, NOTES, cause_of

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
    """What is unusual about the keys of one input, once they are in their forms.

    keys: the names of its key columns. forms: the form of each; by default all are `text`.
    """

    def __init__(self, keys: Sequence[str], forms: Sequence[Form] = ()) -> None:
        self._columns = [(key, Column(key)) for key in keys]
        self._forms = tuple(forms) or (Form(),) * len(self._columns)

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
        """Return each key column with its type, what it holds and its form.

        An example is `'mail' (string, e-mail addresses, as email)`.
        """
        columns = zip(self._columns, self._forms, strict=True)
        return [
            f"{shown(name)} ({', '.join(_traits(column, schema.field(name).type, form))})"
            for (name, column), form in columns
        ]

    def causes(self, schema: Any) -> list[str]:
        """Return why keys of this input may not match those that look the same to people, most likely first."""
        columns = zip(self._columns, self._forms, strict=True)
        found = [cause_of(name, column, schema.field(name).type, form) for (name, column), form in columns]
        return [cause for _, cause in sorted(filter(None, found))]


def _of_column(name: str, column: Column, rows: int, whole: bool) -> Iterator[Finding]:
    needed = column.needed_form()
    for kind, about in KINDS.items():
        if count := column.unusual(kind):
            words = ", ".join(word for word in PLACEHOLDERS if word in column.words)
            have = _of_rows(count, rows, whole)
            fault = f"{shown(name)}: {have} {about.fault.format(words=words)}"
            yield Finding(fault, about.advice(needed), kind in NOTES)
    if alike := column.sample.alike():
        yield Finding(f"{shown(name)}: {alike} distinct keys {CASE.fault}", CASE.advice(needed))


def _of_rows(count: int, rows: int, whole: bool) -> str:
    """Return the subject and the verb of a sentence about some of the rows."""
    all_rows = counted(rows, "row") if whole else f"the first {counted(rows, 'row')}"
    if count == rows:
        return "the only row has" if rows == 1 else f"all {'' if whole else 'of '}{all_rows} have"
    return f"{count:,} of {all_rows} {'has' if count == 1 else 'have'}"


def _traits(column: Column, kind: Any, form: Form) -> Iterator[str]:
    yield str(kind)
    if form.sha256:
        # The keys are hashes by now, whatever the column holds.
        yield f"as {form.agreed}"
        return
    if look := column.look():
        yield look
    elif example := next((text for test, text in _EXAMPLES if test(kinds.value_type(kind))), ""):
        yield f"compared as text like {example}"
    if not form.is_text:
        yield f"as {form.agreed}"
