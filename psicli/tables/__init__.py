"""Reads input files: first the key texts of all rows, then the rows that matched.

Each of the two takes one pass over the input. No file is ever in memory as a whole: the memory limit is a block of the
input, or a batch of its rows.

    source                opens an input file and detects changes to it
    delimited, jsonl      read a file of text: first the keys of all rows, then the matched rows
    parquet, arrow        read a file of typed columns in the same way
    sniff                 recognises files that are not what their names say
    values                checks what a library has read
    many                  finds the files of an input, and reads them as one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from psicli.core.formats import FileFormat
from psicli.core.places import Place
from psicli.items.forms.columns import KeyColumns
from psicli.items.forms.names import Form
from psicli.tables.many.parts import fingerprint, open_file
from psicli.tables.many.sources import Part, Source, find_source
from psicli.tables.source import Fingerprint, Share
from psicli.tables.values import ALL, Sample, Selection

if TYPE_CHECKING:
    # Imported late, because a run reads files of one format, or few.
    from psicli.tables.arrow import ArrowInput
    from psicli.tables.delimited import DelimitedInput
    from psicli.tables.jsonl import JsonlInput
    from psicli.tables.many.input import ManyInput
    from psicli.tables.parquet import ParquetInput

__all__ = ["Divisible", "Fingerprint", "Input", "Part", "Sample", "Selection", "Share", "Source"]
__all__ += ["check_input", "check_source", "find_source", "fingerprint", "open_input", "open_source"]

# An open input. psicli reads it once for its keys and again for the rows that matched. Every method raises
# InputChangedError if the file has changed since it was opened.
Input: TypeAlias = "DelimitedInput | JsonlInput | ParquetInput | ArrowInput | ManyInput"
# An open input file whose rows several processes can read, each a share. One that has no shares is read as a whole.
Divisible: TypeAlias = "DelimitedInput | JsonlInput | ParquetInput"


def check_input(
    path: Place,
    fmt: FileFormat,
    keys: Sequence[str],
    *,
    output: FileFormat | None = None,
    name: str | None = None,
    selection: Selection = ALL,
) -> Sample | None:
    """Check that an input exists and has the key columns; reads only the header or the metadata.

    output: the format of this party's output, if it writes one; then the first row is returned, to try to write it.
    selection: the columns that the output needs.
    Messages show `name` instead of the path. Raises InputMissingError, BadInputError, StorageError.
    """
    return check_source(Source.of_file(path, fmt, name), keys, output=output, selection=selection)


def check_source(
    source: Source, keys: Sequence[str], *, output: FileFormat | None = None, selection: Selection = ALL
) -> Sample | None:
    """Check an input as check_input does a file; raises InputMissingError, BadInputError, StorageError."""
    with open_source(source, keys, output=output, selection=selection) as found:
        if output is not None:
            return found.sample()
        found.header()
        return None


def open_input(
    path: Place,
    fmt: FileFormat,
    keys: Sequence[str],
    *,
    forms: Sequence[Form] = (),
    threads: int = 1,
    output: FileFormat | None = None,
    name: str | None = None,
    selection: Selection = ALL,
) -> Input:
    """Open one file as an input, as open_source does; messages show `name` instead of the path."""
    source = Source.of_file(path, fmt, name)
    return open_source(source, keys, forms=forms, threads=threads, output=output, selection=selection)


def open_source(
    source: Source,
    keys: Sequence[str],
    *,
    forms: Sequence[Form] = (),
    threads: int = 1,
    output: FileFormat | None = None,
    selection: Selection = ALL,
) -> Input:
    """Open an input to read it; raises InputMissingError, MalformedInputError.

    forms: the form of each key column, by default `text`. threads: how many cores a slow form may use. output: the
    format of this party's output, if it writes one. selection: the columns that the output needs.
    """
    columns = KeyColumns(keys, forms, threads)
    if source.is_one_file:
        return open_file(source.parts[0], columns, output, selection)
    from psicli.tables.many.input import ManyInput

    return ManyInput(source, columns, output, selection)
