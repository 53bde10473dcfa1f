"""The key columns of an input: their texts in the forms of the task, and the values that a form cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from psicli.core.records import dataclass
from psicli.items import compute as pc
from psicli.items.forms.names import Form
from psicli.items.text import check_characters, check_lengths, first_control_row, key_text

if TYPE_CHECKING:
    from psicli.items.forms.convert import Converter

# How many places of unfit values are kept for a warning.
_PLACES_KEPT = 5


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
        self._threads = threads
        self._converter: Converter | None = None

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
            text = _without_controls(text)
            check_characters(text, name, place)
        if form.is_text:
            return text
        converted = self._converted(index, text)
        lost = converted.null_count - text.null_count
        if lost and len(unfit.numbers) < _PLACES_KEPT:
            mask = pc.and_(pc.is_null(converted), pc.is_valid(text)).to_numpy(zero_copy_only=False)
            unfit.numbers += numbers(np.flatnonzero(mask)[: _PLACES_KEPT - len(unfit.numbers)].tolist())
        unfit.count += lost
        return converted

    def compared(self, index: int, text: Any) -> Any:
        """Return what is compared of the canonical texts of a key column that `texts` has accepted before."""
        form = self.forms[index]
        if form.is_text:
            return text
        if form.base != "text" or form.hashed:
            text = _without_controls(text)
        return self._converted(index, text)

    def _converted(self, index: int, text: Any) -> Any:
        if self._converter is None:
            # Imported late, because most keys are compared as text.
            from psicli.items.forms.convert import Converter

            self._converter = Converter(self.forms, self._threads)
        return self._converter.convert(index, text)

    def join(self, later: Sequence[Unfit], shift: int) -> None:
        """Add the unfit values of later rows, whose numbers count from `shift`."""
        for own, other in zip(self.unfit, later, strict=True):
            own.count += other.count
            own.numbers = [*own.numbers, *(shift + number for number in other.numbers)][:_PLACES_KEPT]

    def close(self) -> None:
        """End the processes that convert values; does nothing if there are none."""
        if self._converter is not None:
            self._converter.close()


def _without_controls(text: Any) -> Any:
    """Return texts without what forms trim, if any of them has a control character."""
    if first_control_row(text) is None:
        return text
    from psicli.items.forms.rules.text import TRIMMED

    return pc.utf8_trim(text, characters=TRIMMED)
