"""Run a job as a process of its own, with data frames in place of files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from psicli import config, tables
from psicli.api.errors import made, told
from psicli.api.frames import Types, write_rows
from psicli.api.jobs import Job, JobSource, load_job
from psicli.api.process import Cancel, Process, Progress
from psicli.api.report import Report, TaskResult
from psicli.config.given import Given
from psicli.core.errors import ArgumentError, TaskFilesError, storing
from psicli.core.places import Url
from psicli.storage.state import run_folder, state_folder

_NO_TYPES = Types("arrow", {})
# At most so much of an output is read at once [bytes].
_READ_BYTES = 64 << 20


def run(
    job: Job | JobSource,
    inputs: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: Cancel | None = None,
    timeout: float | None = None,
    keep_going: bool = False,
    memory: int | None = None,
) -> Report:
    """Run a job with the other party, and return its report with the rows of each task.

    job: what load_job returns or takes. inputs: the rows of tasks, by their names, in place of their `input_path`: a
    DataFrame of pandas or polars, a pyarrow.Table or RecordBatchReader, or any object with __arrow_c_stream__.

    progress: is called with each Progress, in this thread. cancel: an object such as a threading.Event, which ends the
    run once it is set. timeout: the longest wait for the other party, if shorter than the job's [s]. keep_going:
    whether to leave out a task whose input or output is bad. memory: overrides pipeline.memory [bytes].

    Raises RunError with the first cause if the run fails, with the report in its `report`; TypeError for an input
    without rows; and what `progress` or a reader raises, or KeyboardInterrupt, when the run has ended.
    """
    with ExitStack() as stack:
        stack.enter_context(told())
        if not isinstance(job, Job):
            job = load_job(job)
        inputs = dict(inputs or {})
        _check_inputs(job, inputs)
        folder = stack.enter_context(run_folder(state_folder()))
        given, types = _given(job, inputs, folder)
        arguments = _arguments(job, timeout, memory, keep_going=keep_going)
        if set(job.tasks) <= set(inputs):
            # The next run has other files, even of the same rows.
            arguments.append("--resume=never")
        with storing(folder, "writing"):
            given.save(folder / "given.json")
        with Process([*arguments, f"--given={folder / 'given.json'}"], folder, job.variables) as process:
            process.follow(progress, cancel)
            facts = process.report()
        named = {given.files[name]["input_path"]: f"inputs[{name!r}]" for name in inputs}
        report = _report(job, _renamed(facts, named), given, types)
    error = facts["error"] and _renamed(facts["error"], named)
    if error is not None:
        raise made(error["class"], error["code"], error["message"], error["hint"], report)
    return report


def _check_inputs(job: Job, inputs: Mapping[str, Any]) -> None:
    """Check that the inputs are those of tasks, and that every task has one."""
    for name in inputs:
        if name not in job.tasks:
            close = difflib.get_close_matches(str(name), job.tasks, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"The tasks are {', '.join(job.tasks[:20])}."
            raise ArgumentError(option="inputs", fault=f"{name!r} is not a task of this job", advice=advice)
    for name in job.tasks:
        if "input_path" in job.lacks.get(name, ()) and name not in inputs:
            fault = f"it has no input_path of {job.party} that is a file, and inputs has no rows for it"
            raise TaskFilesError(task=name, fault=fault, advice=f"Give its rows: inputs={{{name!r}: …}}.")


def _given(job: Job, inputs: Mapping[str, Any], folder: Path) -> tuple[Given, dict[str, Types]]:
    """Write the inputs to files in a folder; return what the process of the run gets, and the types of the inputs."""
    files: dict[str, dict[str, str]] = {name: {} for name in job.tasks}
    types: dict[str, Types] = {}
    # The same rows may serve several tasks, and a reader can be read only once.
    written: dict[int, str] = {}
    for number, (name, frame) in enumerate(inputs.items()):
        first = written.setdefault(id(frame), name)
        if first == name:
            path = folder / f"input-{number}.arrow"
            types[name] = write_rows(frame, path, f"inputs[{name!r}]")
            files[name]["input_path"] = str(path)
        else:
            types[name], files[name]["input_path"] = types[first], files[first]["input_path"]
    for number, task in enumerate(job.checked.tasks):
        if task.output_path is not None and "output_path" in job.lacks.get(task.name, ()):
            files[task.name]["output_path"] = str(folder / f"output-{number}.arrow")
    return Given(job.content, files), types


def _arguments(job: Job, timeout: float | None, memory: int | None, *, keep_going: bool) -> list[str]:
    arguments = [f"--config={job.path}", f"--party={job.party}", f"--port-offset={job.port_offset}"]
    arguments += [f"--only={task}" for task in job.only]
    if timeout is not None:
        if not timeout > 0:
            raise ArgumentError(option="timeout", fault=f"{timeout} is no time to wait", advice="Give seconds above 0.")
        arguments.append(f"--rendezvous={max(timeout, 0.001):.3f}")
    arguments += [] if memory is None else [f"--memory={memory}"]
    return arguments + ["--keep-going"] * keep_going


def _renamed(value: Any, named: Mapping[str, str]) -> Any:
    """Return facts in whose texts the inputs have the names by which the caller knows them."""
    if isinstance(value, dict):
        return {name: _renamed(part, named) for name, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, named) for part in value]
    if isinstance(value, str):
        for path, name in named.items():
            value = value.replace(path, name)
    return value


def _report(job: Job, facts: dict[str, Any], given: Given, types: Mapping[str, Types]) -> Report:
    """Return the report of a run; the rows that are in the run's folder stay readable when it is gone."""
    results = {}
    for entry in facts["tasks"]:
        name, read = entry["name"], None
        held = given.files.get(name, {}).get("output_path")
        if entry["status"] == "done" and entry["output_rows"] is not None:
            read = partial(_same, _mapped(held)) if held else partial(_read, _task(job, name), entry["output"])
        if held:
            entry["output"] = None
        results[name] = TaskResult(entry, types.get(name, _NO_TYPES), read)
    return Report(facts, results)


def _task(job: Job, name: str) -> config.Task:
    """Return a task of a report; a task with `per_file` is several there, whose names begin with its own."""
    tasks = sorted(job.checked.tasks, key=lambda task: len(task.name), reverse=True)
    return next(task for task in tasks if name == task.name or name.startswith(f"{task.name}-"))


def _mapped(path: str) -> Any:
    """Return the rows of an Arrow file as a pa.Table. They are in memory only as far as they are used."""
    with storing(path, "reading"), pa.memory_map(path) as file:
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()


def _same(table: Any) -> Any:
    return table


def _read(task: config.Task, output: str) -> Any:
    """Return the rows of a task's output, which its report names, as a pa.Table."""
    # The report does not have the whole URL of an output elsewhere.
    where = task.output_path if isinstance(task.output_path, Url) else Path(output)
    assert task.output_format is not None
    with tables.open_input(where, task.output_format, ()) as source:
        for _ in source.key_batches():
            pass
        found = list(source.matched(pa.repeat(True, source.rows), _READ_BYTES))
        return pa.concat_tables(found) if found else source.schema.empty_table()
