"""Opens the files of an input, each with its own key columns and those that its path gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from psicli.core.errors import ColumnError, InputMissingError, shown
from psicli.core.formats import FileFormat, Format
from psicli.items import compute as pc
from psicli.items.forms.columns import KeyColumns, Unfit
from psicli.items.text import canonical_text
from psicli.tables.many.sources import Part, Source
from psicli.tables.source import Fingerprint, file_fingerprint
from psicli.tables.values import ALL, Selection

if TYPE_CHECKING:
    # Imported late, because a run reads files of one format, or few.
    from psicli.tables.arrow import ArrowInput
    from psicli.tables.delimited import DelimitedInput
    from psicli.tables.jsonl import JsonlInput
    from psicli.tables.parquet import ParquetInput

OneFile: TypeAlias = "DelimitedInput | JsonlInput | ParquetInput | ArrowInput"


def open_file(
    part: Part, columns: KeyColumns, output: FileFormat | None, selection: Selection = ALL, *, check: bool = True
) -> OneFile:
    """Open one file; raises InputMissingError, MalformedInputError.

    selection: the columns that the output needs. check: whether to check that its first bytes do not contradict its
    format.
    """
    with ExitStack() as stack:
        found = _opened(part, columns, output)
        stack.enter_context(found)
        found.selection = selection
        if check:
            found.check_content(part.format)
        stack.pop_all()
    return found


def _opened(part: Part, columns: KeyColumns, output: FileFormat | None) -> OneFile:
    """Open one file with the reader of its format."""
    match part.format.kind:
        case Format.PARQUET:
            from psicli.tables.parquet import ParquetInput

            return ParquetInput(part.place, part.name, columns, output)
        case Format.ARROW | Format.ARROW_STREAM:
            from psicli.tables.arrow import ArrowInput

            return ArrowInput(part.place, part.name, columns, output)
        case Format.JSONL:
            from psicli.tables.jsonl import JsonlInput

            return JsonlInput(part.place, part.name, columns, part.format, output)
        case _:
            from psicli.tables.delimited import DelimitedInput

            return DelimitedInput(part.place, part.name, columns, part.format)


class PartColumns(KeyColumns):
    """The key columns of one file of an input. Its path gives some of them, and numbers of rows get its name.

    whole: the key columns of the input, which converts all texts and collects what its forms cannot take.
    """

    def __init__(self, whole: KeyColumns, part: Part) -> None:
        self._whole = whole
        self._part = part
        self._given = dict(part.values)
        self.names = tuple(name for name in whole.names if name not in self._given)
        self.forms = whole.forms
        # What was found stays with the whole.
        self.unfit: list[Unfit] = []
        if not self.names and whole.names:
            raise InputMissingError(
                place=part.name,
                fault="the names of folders give all key columns, and the file none",
                advice="Add a column of the files to keys.",
            )

    def add_given(self, columns: Sequence[str]) -> None:
        """Compare the columns of the file that its path gives, too, with what the path gives."""
        self.names = (*self.names, *(name for name in columns if name in self._given))

    def texts(
        self, rows: Any, place: Callable[[int], str], numbers: Callable[[Sequence[int]], list[Any]]
    ) -> tuple[Any, ...]:
        for name in self.names:
            if name in self._given:
                self._check_given(name, rows.column(name), place)
        columns = {
            name: repeated(self._given[name], rows.num_rows) if name in self._given else rows.column(name)
            for name in self._whole.names
        }

        def named(some: Sequence[int]) -> list[Any]:
            return [f"{number} of {self._part.name}" for number in numbers(some)]

        return self._whole.texts(pa.table(columns), place, named)

    def _check_given(self, name: str, column: Any, place: Callable[[int], str]) -> None:
        value, texts = self._given[name], canonical_text(column)
        same = pc.is_null(texts) if value is None else pc.fill_null(pc.equal(texts, value), False)
        if same.false_count:
            raise ColumnError(
                place=place(pc.index(same, False).as_py()),
                fault=f"the column {shown(name)} is not what the file's folder says",
                advice="Correct the file or its folder, or leave the column out of the file.",
            )

    def join(self, later: Sequence[Unfit], shift: int) -> None:
        """Do nothing: what is unfit was noted when it was read."""

    def close(self) -> None:
        """Do nothing: the next file needs the processes, too."""


def repeated(value: str | None, count: int) -> Any:
    """Return a column of text that a path gives to each row of a file."""
    return pa.repeat(pa.scalar(value, pa.string()), count)


def fingerprint(source: Source) -> Fingerprint:
    """Return what tells an input from any other; raises InputMissingError, InputChangedError, StorageError."""
    found = [file_fingerprint(part.place, part.name) for part in source.parts]
    if source.is_one_file:
        return found[0]
    digest = hashlib.sha256(json.dumps([each[-1] for each in found]).encode()).hexdigest()
    return *joined_identity(source, [each[:-1] for each in found]), digest


def joined_identity(source: Source, identities: Iterable[tuple[int | str, ...]]) -> tuple[int | str, ...]:
    """Return the identity of all files together."""
    named = [[str(part.place), *each] for part, each in zip(source.parts, identities, strict=True)]
    return len(source.parts), hashlib.sha256(json.dumps(named).encode()).hexdigest()
