"""What a job file says about a task with per_file, each file of which is a task when the job runs.

Nothing here looks at the files: which there are is known only when a run starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from psicli.config.built import Task
from psicli.config.checks import Slot, is_group
from psicli.config.document import Document, Loc
from psicli.config.queries import database
from psicli.core.errors import UnknownFormatError, printable, shown
from psicli.core.formats import SUFFIXES, file_format
from psicli.core.places import is_url, place

# The last part of an output_path that takes outputs with the names of their inputs.
OWN_NAME = "*"
_EXAMPLE = "give a pattern such as out/*.csv, where * is the name of each file, or a folder such as out/"


def check_group(document: Document, task: Loc) -> None:
    """Check the inputs and outputs of a task whose files are tasks, of both parties."""
    if not is_group(document, task):
        return
    if document.get(*task, "query") is not None:
        document.blame((*task, "query"), "has no effect on files", "remove it, or per_file")
    for party in document.table(*task, "input_path"):
        loc = (*task, "input_path", party)
        for each in document.entries(*loc) or [loc]:
            text = document.text(*each) or ""
            if text == "-" or database(text) is not None:
                what = "standard input, which has no file name" if text == "-" else "a database, which has no files"
                document.blame(each, f"is {what}", "name files, a pattern or a folder, or remove per_file")
    for party in document.table(*task, "output_path"):
        loc = (*task, "output_path", party)
        value = document.get(*loc)
        if isinstance(value, list):
            document.blame(loc, "is a list, and each file needs an output", _EXAMPLE)
        elif isinstance(value, str) and (fault := _fault_of_output(document, value)):
            document.blame(loc, *fault)


def _fault_of_output(document: Document, text: str) -> tuple[str, str] | None:
    pattern = output_pattern(document, text)
    folder, _, name = pattern.rpartition("/")
    if text == "-":
        return "is standard output, and each file needs an output", _EXAMPLE
    if "*" in folder or "?" in pattern or name.count("*") > 1 or re.search(r"\[[^]]*\]", name):
        return f"{shown(text)} is no pattern for outputs", "use one *, after the last /"
    if "*" not in name:
        return f"{shown(text)} is one file, and each file needs an output", _EXAMPLE
    if name == OWN_NAME:
        return None
    try:
        file_format(name)
    except UnknownFormatError:
        return f"{shown(text)} has no known suffix", f"use one of {SUFFIXES}, or a folder such as {printable(folder)}/"
    return None


def output_pattern(document: Document, text: str) -> str:
    """Return the pattern that the outputs of a group follow; in a folder they have the names of their inputs."""
    is_folder = text.endswith("/") or (not is_url(text) and os.path.isdir(document.path.parent / text))
    return f"{text.rstrip('/')}/{OWN_NAME}" if text and is_folder else text


def as_group(document: Document, task: Task, slot: Slot, party: str, files: Sequence[str]) -> Task:
    """Return a task whose files are tasks, given a file without errors. files: those of --only; empty for all."""
    loc = slot.task
    given = (*loc, "input_path", party)
    texts = [document.text(*each) or "" for each in document.entries(*given) or [given]]
    paths = tuple(place(text, document.path.parent) for text in texts)
    changes: dict[str, object] = {
        "group": task.name,
        "files": tuple(files),
        "input": task.input.model_copy(update={"paths": paths}),
    }
    if task.output_path is not None:
        pattern = output_pattern(document, document.text(*loc, "output_path", party) or "")
        changes["output_path"] = place(pattern, document.path.parent)
    return task.model_copy(update=changes)


def files_of(document: Document, group: str, slots: Sequence[Slot], only: Sequence[str]) -> list[str]:
    """Return those names of --only that are files of a group."""
    names = {slot.name for slot in slots}
    groups = [slot.name for slot in slots if is_group(document, slot.task)]

    def owner(name: str) -> str:
        return max((each for each in groups if name not in names and name.startswith(f"{each}-")), key=len, default="")

    return [name for name in dict.fromkeys(only) if owner(name) == group]
