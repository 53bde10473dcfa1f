"""The key columns of an input: their texts in the forms of the task, and the values that a form cannot take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from psicli.core.errors import counted, shown
from psicli.items.forms.convert import Converter
from psicli.items.forms.names import Form
from psicli.items.forms.rules.text import TRIMMED
from psicli.items.spelling.findings import Finding
from psicli.items.text import check_characters, check_lengths, first_control_row, key_text

# How many places of unfit values a warning names.
_PLACES_SHOWN = 5
# What the values are that a form takes, and what to do about others.
_TAKEN = {
    "digits": ("text with digits", ""),
    "integer": ("a whole number", ""),
    "email": ("an e-mail address", ""),
    "email/plain": ("an e-mail address", ""),
    "phone": ("an international phone number", "give the country of national numbers, such as normalize: phone/DE"),
    "phone/": ("a possible phone number", ""),
    "date": ("a date", "give the order of day and month with normalize: date/DMY or date/MDY"),
    "date/": ("a date", ""),
    "timestamp": ("a time", ""),
    "uuid": ("a UUID", ""),
    "hashed": ("a SHA-256 in hexadecimal digits", ""),
}


@dataclass
class Unfit:
    """The values of a key column that its form cannot take. numbers: the lines or rows of the first ones."""

    count: int = 0
    numbers: list[int] = field(default_factory=list)


class KeyColumns:
    """The key columns of an input by name, each with its form; by default all forms are `text`.

    threads: how many cores a slow form may use. unfit: for each column, the values that its form cannot take.
    """

    def __init__(self, names: Sequence[str], forms: Sequence[Form] = (), threads: int = 1) -> None:
        self.names = tuple(names)
        self.forms = tuple(forms) or (Form(),) * len(self.names)
        self.unfit = [Unfit() for _ in self.names]
        self._converter = Converter(self.forms, threads)

    def texts(
        self, rows: Any, place: Callable[[int], str], numbers: Callable[[Sequence[int]], list[int]]
    ) -> tuple[Any, ...]:
        """Return the texts of the key columns of rows, a pa.RecordBatch or pa.Table, as pa.LargeStringArrays.

        place: returns the place of a row in the file for an error message. numbers: returns the numbers in the file of
        some rows, which are in order. Raises ColumnError.
        """
        return tuple(self._text(index, rows.column(name), place, numbers) for index, name in enumerate(self.names))

    def _text(
        self, index: int, column: Any, place: Callable[[int], str], numbers: Callable[[Sequence[int]], list[int]]
    ) -> Any:
        name, form, unfit = self.names[index], self.forms[index], self.unfit[index]
        text = key_text(column, name, place)
        if form.base == "text" and not form.hashed:
            check_characters(text, name, place)
            check_lengths(text, name, place)
        else:
            check_lengths(text, name, place)
            if first_control_row(text) is not None:
                text = pc.utf8_trim(text, characters=TRIMMED)
                check_characters(text, name, place)
        if form.is_text:
            return text
        converted = self._converter.convert(index, text)
        lost = converted.null_count - text.null_count
        if lost and len(unfit.numbers) < _PLACES_SHOWN:
            mask = pc.and_(converted.is_null(), text.is_valid()).to_numpy(zero_copy_only=False)
            unfit.numbers += numbers(np.flatnonzero(mask)[: _PLACES_SHOWN - len(unfit.numbers)].tolist())
        unfit.count += lost
        return converted

    def join(self, later: Sequence[Unfit], shift: int) -> None:
        """Add the unfit values of later rows, whose numbers count from `shift`."""
        for own, other in zip(self.unfit, later, strict=True):
            own.count += other.count
            own.numbers = [*own.numbers, *(shift + number for number in other.numbers)][:_PLACES_SHOWN]

    def described(self, columns: Sequence[str]) -> list[str]:
        """Add its form to the description of each column, such as `'mail' (string, e-mail addresses)`."""
        return [
            text if form.is_text else f"{text.removesuffix(')')}, as {form.agreed})"
            for text, form in zip(columns, self.forms, strict=True)
        ]

    def findings(self, rows: int, unit: str, *, whole: bool = True) -> Iterator[Finding]:
        """Yield a warning for each column with unfit values.

        rows: how many were read; whole: whether these are all rows. unit: what the numbers count, `line` or `row`.
        """
        for name, form, unfit in zip(self.names, self.forms, self.unfit, strict=True):
            if unfit.count:
                kind, advice = _TAKEN[str(form) if form.hashed else form.base + "/" * bool(form.option)]
                have = f"{unfit.count:,} of {'' if whole else 'the first '}{counted(rows, 'row')}"
                have += f" {'has' if unfit.count == 1 else 'have'} a value that is not {kind} (form {form})"
                first = "first in" if unfit.count > len(unfit.numbers) else "in"
                units = f"{unit}{'s' if len(unfit.numbers) > 1 else ''} {', '.join(map(str, unfit.numbers))}"
                fault = f"{shown(name)}: {have}, {first} {units}; such a row matches nothing"
                yield Finding(fault, f"Correct the values{', or ' + advice if advice else ''}.")

    def close(self) -> None:
        """End the processes that convert values; does nothing if there are none."""
        self._converter.close()
