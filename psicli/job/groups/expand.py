"""Make a task of each file of a task with per_file."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from psicli.config import MAX_NAME, OWN_NAME, Job, Task
from psicli.core import signals
from psicli.core.errors import (
    InputMissingError,
    InterruptedBySignal,
    PsicliError,
    TaskFilesError,
    UnknownFormatError,
    counted,
    printable,
)
from psicli.core.formats import file_format, without_suffix
from psicli.core.places import Place, Url
from psicli.job.meeting import terms
from psicli.protocol.streams import FRAME_ITEMS
from psicli.protocol.wire import MAX_HELLO_BYTES, MAX_TASKS
from psicli.storage.files import identity
from psicli.storage.places.listing import Found, covers, find_files

logger = logging.getLogger(__name__)


class Expanded(NamedTuple):
    """A job whose tasks have one input each. faults: why tasks cannot run, by their names."""

    job: Job
    faults: Mapping[str, PsicliError]


def expand_files(job: Job) -> Expanded:
    """Return the job with a task for each file of its tasks with per_file, in the order of the tasks' names.

    A task that has no files, or too many, stays as it is, and has a fault.
    """
    if not any(task.group for task in job.tasks):
        return Expanded(job, {})
    tasks: list[Task] = []
    faults: dict[str, PsicliError] = {}
    for task in job.tasks:
        try:
            tasks += _files_of(task) if task.group else [task]
        except InterruptedBySignal:
            raise
        except PsicliError as exc:
            tasks.append(task)
            faults[task.name] = exc
    expanded = job.model_copy(update={"tasks": tuple(tasks)})
    given = [place for task in job.tasks for place in task.input.paths if place != "-"]
    return Expanded(expanded, {**_clashes(expanded, given), **faults, **_excess(expanded)})


def _files_of(task: Task) -> list[Task]:
    """Return a task for each file; raises InputMissingError, StorageError, TaskFilesError."""
    found: dict[str, Found] = {}
    for place in task.input.paths:
        assert place != "-"
        with signals.allowed():
            files = find_files(place)
        if not files:
            logger.warning("%s: no such file", printable(place), extra={"task": task.name})
        for file in files:
            name = _task_name(task, file)
            if found.setdefault(name, file).place != file.place:
                raise TaskFilesError(
                    task=task.name,
                    fault=f"{printable(found[name].place)} and {printable(file.place)} would both be the task {name}",
                    advice="Rename one of them, or name fewer files under input_path.",
                )
    if missing := [name for name in task.files or [""] if name not in found and (name or not found)]:
        what = f"has no file for {', '.join(missing)}" if task.files else "names no file"
        advice = "Check input_path, and whether the export is complete."
        raise InputMissingError(place=f"task {task.name}", fault=f"{task.input} {what}", advice=advice)
    return [_of_file(task, name, found[name]) for name in sorted(found) if name in (task.files or found)]


def _task_name(task: Task, file: Found) -> str:
    """Return the name of the task that a file is: both parties must make the same of names that people take for equal.

    Raises TaskFilesError.
    """
    name = PurePosixPath(file.name).name
    try:
        stem = without_suffix(name)
    except UnknownFormatError:
        fault, advice = "has no known suffix", "Name only files to compare under input_path, such as in/*.csv."
        raise TaskFilesError(task=task.name, fault=f"{printable(file.place)} {fault}", advice=advice) from None
    # Some systems store ä as one character, and others as two.
    letters = "".join(each for each in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(each))
    folded = re.sub("[^a-z0-9]+", "-", letters.lower()).strip("-")
    found = f"{task.group}-{folded}"
    fault = ""
    if not folded:
        fault = "has no letter of a-z and no digit in its name"
    elif len(found) > MAX_NAME:
        fault = f"would be the task {found}, and a name has at most {MAX_NAME} characters"
    if fault:
        advice = "Both parties must give this file another name, without suffix the same."
        raise TaskFilesError(task=task.name, fault=f"{printable(file.place)} {fault}", advice=advice)
    return found


def _of_file(task: Task, name: str, file: Found) -> Task:
    """Return the task of one file."""
    changes: dict[str, object] = {"name": name, "input": task.input.model_copy(update={"paths": (file.place,)})}
    if task.output_path is not None and task.output_path != "-":
        output = _output(task.output_path, PurePosixPath(file.name).name)
        changes |= {"output_path": output, "output_format": file_format(str(output), task.input.dialect)}
    return task.model_copy(update=changes)


def _output(pattern: Place, own: str) -> Path | Url:
    """Return the output of a file called `own`: * alone stands for its name, and * before a suffix for its stem."""

    def named(name: str) -> str:
        return own if name == OWN_NAME else name.replace("*", without_suffix(own))

    if isinstance(pattern, Path):
        return pattern.with_name(named(pattern.name))
    folder, slash, name = pattern.text.rpartition("/")
    return Url(folder + slash + named(name))


def _clashes(job: Job, given: Sequence[Place]) -> dict[str, PsicliError]:
    """Return a fault for each task that has the name of another one, or an output that nobody may replace or read.

    given: the places that input_path names.
    """
    faults: dict[str, PsicliError] = {}
    names: set[str] = set()
    used = {identity(path): "a file of the job" for path in _kept(job)}
    for task in job.tasks:
        fault = f"is the name of another task, and of a file of {task.group or task.name}" if task.name in names else ""
        names.add(task.name)
        output = task.output_path
        if isinstance(output, Path | Url) and task.group not in ("", task.name):
            file = identity(output)
            reader = next((place for place in given if covers(place, output)), None)
            if fault == "" and file in used:
                fault = f"{printable(output)} is {used[file]}"
            elif fault == "" and reader is not None:
                fault = f"the next run would read {printable(output)}, because input_path has {printable(reader)}"
            used[file] = f"the output of {task.name}"
        if fault:
            advice = "Give every task its own name, and its own output, which is no input of the job."
            faults[task.name] = TaskFilesError(task=task.name, fault=fault, advice=advice)
    return faults


def _kept(job: Job) -> Iterator[Place]:
    """Yield the files that no output may replace."""
    yield job.path
    for _, path in job.tls or ():
        yield path
    for task in job.tasks:
        own = () if task.group else (task.output_path,)
        yield from (place for place in (*task.input.paths, *own) if isinstance(place, Path | Url))


def _excess(job: Job) -> dict[str, PsicliError]:
    """Return a fault if the job has more tasks than its first message can name."""
    number = len(job.tasks)
    octets = 0 if number > MAX_TASKS else len(terms(job).hello(FRAME_ITEMS, 1))
    if number <= MAX_TASKS and octets <= MAX_HELLO_BYTES:
        return {}
    task = next(task for task in job.tasks if task.group)
    room = f"at most {MAX_TASKS:,}" if number > MAX_TASKS else f"room for about {number * MAX_HELLO_BYTES // octets:,}"
    fault = f"with its files, the job has {counted(number, 'task')}, and a session has {room}"
    advice = "Name fewer files under input_path, for example those of one year, or use several jobs."
    return {task.name: TaskFilesError(task=task.group, fault=fault, advice=advice)}
