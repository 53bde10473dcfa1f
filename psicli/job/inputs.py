"""Checks of a job's files that need no complete reading of an input."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from psicli import outputs, tables
from psicli.config import InputFiles, Job, PipelineSettings, Task
from psicli.core import signals
from psicli.core.errors import (
    BadInputError,
    CannotCreateError,
    InputMissingError,
    PsicliError,
    StorageError,
    printable,
    reason,
)
from psicli.core.formats import FileFormat, Format, file_format
from psicli.core.places import Place, Url, is_on_web
from psicli.core.records import dataclass
from psicli.storage.files import check_writable, identity, make_folder, private
from psicli.storage.state import run_folder, state_folder
from psicli.tables import Selection, Source

STDIO = "-"
# DuckDB gets this part of the memory, while psicli itself reads nothing, and at least this much [bytes].
DATABASE_SHARE = 4
LEAST_DATABASE_MEMORY = 128_000_000


@dataclass(frozen=True)
class Inputs:
    """What the checks of a job's files found, by the names of tasks.

    sources: what each task reads; a task with a fault may have none. faults: why this party leaves a task out; empty
    without keep_going.
    """

    sources: Mapping[str, Source]
    faults: Mapping[str, PsicliError]


def check_files(
    job: Job, known: Mapping[str, PsicliError], stack: ExitStack, check: Callable[[], None] = signals.check
) -> Inputs:
    """Check the inputs and outputs of a job.

    Makes the folders of outputs. known: faults of tasks that were found before. stack: removes temporary copies, and
    folders that stayed empty, at the end of the run. check: called often while inputs are copied, to raise what ends
    that. Raises StorageError, TaskFilesError and, without keep_going, InputMissingError, BadInputError,
    CannotCreateError.
    """
    sources: dict[str, Source] = {}
    faults: dict[str, PsicliError] = {}
    for task in job.tasks:
        try:
            if task.name in known:
                raise known[task.name]
            sources[task.name] = source = find_source(task.input, stack, pipeline=job.pipeline, check=check)
            _check_task(task, source, stack)
        except (InputMissingError, BadInputError, CannotCreateError) as exc:
            if not job.keep_going:
                raise
            faults[task.name] = exc
    return Inputs(sources, faults)


def _check_task(task: Task, source: Source, stack: ExitStack) -> None:
    with signals.allowed():
        sample = tables.check_source(source, task.keys, output=task.output_format, selection=selection(task))
        if sample is not None and task.output_format is not None:
            outputs.check_output(sample, task.output_format, task.output)
    if isinstance(task.output_path, Url):
        # Imported late, because a run on local files does not need these libraries.
        from psicli.storage.places.writing import check_storable

        check_storable(task.output_path)
    elif isinstance(task.output_path, Path):
        if (made := make_folder(task.output_path)) is not None:
            stack.callback(_remove_if_empty, made)
        check_writable(task.output_path)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder that this run made for an output that it did not write."""
    with suppress(OSError):
        folder.rmdir()


def check_trace_file(path: Path, job: Job) -> None:
    """Check that a trace can be written to this path; raises CannotCreateError."""
    used = [job.path, *(each for task in job.tasks for each in (*task.input.paths, task.output_path))]
    used += [file for _, file in job.tls or ()]
    if identity(path) in (identity(each) for each in used if isinstance(each, Path)):
        raise CannotCreateError(path=path, reason="the job itself uses this file")
    check_writable(path)


def find_source(
    files: InputFiles,
    stack: ExitStack,
    *,
    pipeline: PipelineSettings | None = None,
    rows: int | None = None,
    check: Callable[[], None] = signals.check,
) -> Source:
    """Find the files that make up an input; raises InputMissingError, BadInputError, StorageError.

    Standard input, files of web servers and the rows of queries are copied to this machine. stack: removes the copies.
    pipeline: what a query may use. rows: how many rows of a query are enough. check: called often during a
    download or a query, to raise what ends it.
    """
    if files.query is not None:
        return _queried(files, stack, pipeline or PipelineSettings(), rows, check)
    if files.is_stdin:
        return _copied(files, stack)
    places = [each for each in files.paths if not isinstance(each, str)]
    with signals.allowed():
        copies = {each: _downloaded(each, stack, check) for each in places if is_on_web(each)}
        return tables.find_source(places, files.dialect, str(files), copies)


def _queried(
    files: InputFiles, stack: ExitStack, pipeline: PipelineSettings, rows: int | None, check: Callable[[], None]
) -> Source:
    """Run the query of an input, and return the file with its rows."""
    # Imported late, because few inputs are queries.
    from psicli.tables.databases import Query, copy_rows

    database = next((path.absolute() for path in files.paths if isinstance(path, Path)), None)
    memory = max(pipeline.memory // DATABASE_SHARE, LEAST_DATABASE_MEMORY)
    threads = pipeline.threads or len(os.sched_getaffinity(0))
    assert files.query is not None
    query = Query(database, files.query, printable(files), files.where, files.is_filled, memory, threads)
    folder = stack.enter_context(run_folder(state_folder()))
    return Source.of_file(copy_rows(query, folder, rows, check), FileFormat(Format.ARROW), printable(files))


def _downloaded(place: Place, stack: ExitStack, check: Callable[[], None]) -> Path:
    # Imported late, because a run on local files does not need these libraries.
    from psicli.storage.places.web import download

    assert isinstance(place, Url)
    return download(place, stack, check)


def _copied(files: InputFiles, stack: ExitStack) -> Source:
    """Copy standard input to a file of this run, because an input is read twice; raises StorageError."""
    try:
        path = stack.enter_context(run_folder(state_folder())) / "stdin.csv"
        with open(path, "xb", opener=private) as copy, signals.allowed():
            shutil.copyfileobj(sys.stdin.buffer, copy)
    except OSError as exc:
        raise StorageError(path="standard input", reason=f"copying it to a file failed: {reason(exc)}") from exc
    return Source.of_file(path, file_format(path, files.dialect), str(files))


def selection(task: Task) -> Selection:
    """Return the columns that this party's output needs; without an output, its settings have no effect."""
    return Selection() if task.output_format is None else outputs.selection(task.output)
