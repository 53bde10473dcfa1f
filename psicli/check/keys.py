"""Shows what the first values of the key columns become: for the eyes of the party that owns them.

This is the only module whose output holds keys, on purpose. It connects to nobody, takes no lock and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from typing import Any

import pyarrow as pa

from psicli import tables
from psicli.config import Job, Task
from psicli.core.errors import PsicliError, TaskFilesError, printable, shown
from psicli.core.records import dataclass
from psicli.items import kinds
from psicli.items.forms.columns import KeyColumns
from psicli.items.forms.convert import Converter
from psicli.items.forms.names import Form
from psicli.items.forms.rules.codes import HASH_OF_NOTHING
from psicli.items.text import canonical_text
from psicli.job.groups.expand import expand_files
from psicli.job.inputs import find_source

# The most that the text shows of one value [characters], and of its bytes [bytes].
_TEXT_SHOWN, _BYTES_SHOWN = 200, 32


@dataclass(frozen=True)
class Value:
    """One value of a key column. number: its line or row in the file; text: as in the file; None is null.

    steps: what it becomes: its canonical text, and what its form makes of it before and after hashing. null: why the
    row has no key because of this value; empty if it has one.
    """

    number: int
    text: str | None
    steps: list[tuple[str, str]]
    null: str


@dataclass
class KeyColumn:
    """A key column with its first values. kind: the type in the file; empty if the file could not be read."""

    name: str
    form: Form
    kind: str = ""
    values: list[Value] = field(default_factory=list)


@dataclass
class TaskKeys:
    """The key columns of one task. unit: what numbers count, `line` or `row`. error: why reading ended early."""

    name: str
    input: str
    columns: list[KeyColumn]
    unit: str = "row"
    error: PsicliError | None = None


def first_keys(job: Job, count: int) -> Iterator[TaskKeys]:
    """Read the first `count` rows of the input of each task; raises TaskFilesError."""
    job, faults = expand_files(job)
    for task in job.tasks:
        if task.input.is_stdin:
            raise TaskFilesError(
                task=task.name,
                fault="the keys of standard input cannot be shown",
                advice="Name a file as its input, or look only at the other tasks (--only).",
            )
    for task in job.tasks:
        fault = faults.get(task.name)
        yield _keys_of(task, count) if fault is None else TaskKeys(task.name, str(task.input), [], error=fault)


def _keys_of(task: Task, count: int) -> TaskKeys:
    pairs = zip(task.keys, task.forms, strict=True)
    found = TaskKeys(task.name, str(task.input), [KeyColumn(name, form) for name, form in pairs])
    try:
        with ExitStack() as stack, tables.open_source(find_source(task.input, stack, rows=count), task.keys) as source:
            found.unit = source.unit
            source.columns = first = _FirstRows(task.keys, task.forms, count, found.columns)
            for _ in source.key_batches():
                if first.wanted <= 0:
                    break
    except PsicliError as exc:
        found.error = exc
    return found


class _FirstRows(KeyColumns):
    """The key columns of an input that keep the first rows, also those with a value that a run refuses."""

    def __init__(self, names: Sequence[str], forms: Sequence[Form], wanted: int, columns: Sequence[KeyColumn]) -> None:
        super().__init__(names, forms)
        self.wanted = wanted
        self._columns = columns
        self._unhashed = Converter([replace(form, sha256=False, hashed=False) for form in self.forms])

    def texts(
        self, rows: Any, place: Callable[[int], str], numbers: Callable[[Sequence[int]], list[int]]
    ) -> tuple[Any, ...]:
        rows = rows.slice(0, self.wanted)
        self.wanted -= rows.num_rows
        # Some inputs find the last row by its number.
        lines = numbers(list(range(rows.num_rows))) if rows.num_rows else []
        for index, column in enumerate(self._columns):
            column.kind = str(rows.column(column.name).type)
            column.values += self._values(index, rows.column(column.name), lines)
        return super().texts(rows, place, numbers)

    def _values(self, index: int, column: Any, lines: Sequence[int]) -> Iterator[Value]:
        form, canonical = self.forms[index], canonical_text(column)
        made = {"text": canonical}
        if not form.is_text and not form.hashed:
            made[str(replace(form, sha256=False))] = self._unhashed.convert(index, canonical)
        made[str(form)] = self._converted(index, canonical)
        rows = zip(lines, _as_in_file(column, canonical), *(texts.to_pylist() for texts in made.values()), strict=True)
        for number, text, *steps in rows:
            yield Value(number, text, [*_changes(made, steps)], _why_null(text, steps[-1], form))


def _as_in_file(column: Any, canonical: Any) -> Any:
    """Return values as their library writes them, where that is another text than psicli's."""
    if not kinds.is_text(kinds.plain(column.type)):
        try:
            return column.cast(pa.string()).to_pylist()
        except (pa.ArrowException, UnicodeDecodeError):
            pass
    return canonical.to_pylist()


def _changes(labels: Iterable[str], texts: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    """Yield the first text, and each one that differs from the one before, until there is none."""
    before = None
    for label, text in zip(labels, texts, strict=True):
        if not text:
            return
        if text != before:
            yield label, text
        before = text


def _why_null(text: str | None, compared: str | None, form: Form) -> str:
    if compared:
        return ""
    if not text:
        return "it is null" if text is None else "it is empty"
    if form.hashed and text.strip().lower() == HASH_OF_NOTHING:
        return "it is the hash of an empty text"
    return f"it is no value of the form {form}" if compared is None else f"nothing of it is left in the form {form}"


# As text and as JSON ---------------------------------------------------------------------------------------------


def caution(job: Job) -> str:
    """Return the sentence that comes before any key."""
    return f"This output shows keys of {job.party}. It is for your own eyes: do not send it to {job.peer} or others."


def to_text(found: TaskKeys) -> str:
    """Return what the values of one task become, as lines of text."""
    lines = [f"{found.name}: {printable(found.input)}"]
    for column in found.columns:
        about = ", ".join(filter(None, [column.kind, "" if column.form.is_text else f"form {column.form}"]))
        lines += ["", f"key column {shown(column.name)}{f' ({about})' if about else ''}"]
        for value in column.values:
            text = "null" if value.text is None else shown(value.text, _TEXT_SHOWN)
            lines.append(f"  {found.unit} {value.number}: {text}")
            for label, step in value.steps:
                # The first step is nearly always the text of the file.
                lines += [f"    {label}: {shown(step, _TEXT_SHOWN)}"] if step != value.text else []
                lines.append(f"    {_hexadecimal(step.encode())}")
            lines += [f"    null key: {value.null}"] if value.null else []
        lines += [] if column.values else ["  no values"]
    return "\n".join(lines)


def _hexadecimal(octets: bytes) -> str:
    more = f" … ({len(octets):,} bytes)" if len(octets) > _BYTES_SHOWN else ""
    return octets[:_BYTES_SHOWN].hex(" ") + more


def to_facts(found: TaskKeys) -> dict[str, Any]:
    """Return the same for JSON, with all bytes."""
    error = found.error and {"code": found.error.code, "message": found.error.message, "hint": found.error.advice}
    columns = [
        {
            "column": column.name,
            "type": column.kind,
            "form": str(column.form),
            "values": [
                {
                    found.unit: value.number,
                    "value": value.text,
                    "becomes": [
                        {"form": label, "text": text, "bytes": text.encode().hex()} for label, text in value.steps
                    ],
                    "null_key": value.null or None,
                }
                for value in column.values
            ],
        }
        for column in found.columns
    ]
    return {"task": found.name, "input": found.input, "columns": columns, "error": error}
