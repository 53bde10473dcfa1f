"""What a program gives to a run in place of files: the content of a job file, and other paths for inputs and outputs.

The Python API writes both to a file of its own, and the process of the run reads them there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import field
from numbers import Real
from pathlib import Path
from typing import Any

from psicli.config.document import MAX_DEPTH, Document, Loc
from psicli.core.errors import shown
from psicli.core.records import dataclass
from psicli.storage.files import private

# The line of a place, which a message about a file names.
_LINES = re.compile(r" \((?:first in )?lines? [0-9, ]+(?: and [0-9]+ more)?\)")
_KINDS = ("input_path", "output_path")


@dataclass(frozen=True)
class Given:
    """What a program gives to a run.

    job: the content of the job file, or None to read the file. files: the input_path and the output_path of tasks, by
    their names, in place of those in the job file. lenient: whether tasks may lack such a file, to check the others.
    """

    job: Mapping[str, Any] | None = None
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    lenient: bool = False

    @classmethod
    def load(cls, path: Path) -> Given:
        """Read what `save` has written; raises OSError and ValueError."""
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write a new file; raises OSError."""
        with open(path, "x", opener=private) as file:
            json.dump({"job": self.job, "files": self.files}, file)

    def document(self, path: Path) -> Document:
        """Return the job file, or the content that is given in its place. Raises what Document raises."""
        return Document(path) if self.job is None else GivenDocument(path, self.job)

    def replace_files(self, document: Document, party: str) -> None:
        """Put the paths of one party into a job file."""
        for task in document.entries("tasks"):
            name = document.text(*task, "name")
            for kind in _KINDS:
                self._replace(document.table(*task), kind, party, name)
            lacks = _lacks(document, task, party) if self.lenient else set()
            if self.lenient:
                document.table(*task).setdefault("input_path", {})
            for kind in lacks:
                paths = document.table(*task).setdefault(kind, {})
                # Anything else is a mistake, which the check of the file finds.
                if isinstance(paths, dict):
                    # Nothing opens it.
                    paths[party] = f"/psicli/{kind}/{task[-1]}.arrow"
            if "input_path" in self.files.get(name or "", {}):
                # The rows are no longer those of a database.
                document.table(*task, "query").pop(party, None)

    def _replace(self, task: dict[str, Any], kind: str, party: str, name: str | None) -> None:
        paths = task.get(kind, {})
        if not isinstance(paths, dict):
            return
        own = paths.get(party)
        if (path := self.files.get(name or "", {}).get(kind)) is not None:
            task[kind] = {**paths, party: _literal(path)}
        elif isinstance(own, list):
            named = [self.files.get(f"{name}-{number}", {}).get(kind) for number in range(1, len(own) + 1)]
            replaced = [old if new is None else _literal(new) for old, new in zip(own, named, strict=True)]
            task[kind] = {**paths, party: replaced}


def _literal(path: str) -> str:
    """Return a path as a job file writes it, where a $ begins a variable."""
    return path.replace("$", "$$")


def lacking(document: Document, party: str) -> dict[str, set[str]]:
    """Return which files of a party each task lacks or leaves to standard input and output, by the tasks' names."""
    names = {task: document.text(*task, "name") for task in document.entries("tasks")}
    return {name: _lacks(document, task, party) for task, name in names.items() if name is not None}


def _lacks(document: Document, task: Loc, party: str) -> set[str]:
    parties = [document.text(*node, "party") for node in document.entries("cluster", "nodes")]
    # The files of a task with per_file are its tasks.
    if party not in parties or (document.text(*task, "per_file") or "").lower() == "true":
        return set()
    kinds = {kind for kind in _KINDS if document.get(*task, kind, party) in (None, "-")}
    if (document.text(*task, "result") or document.text("psi", "result")) == "count":
        # A count has no rows.
        kinds.discard("output_path")
    # A place that is no mapping is a mistake, which the checks explain.
    return {kind for kind in kinds if isinstance(document.get(*task, kind) or {}, dict)}


class GivenDocument(Document):
    """The content of a job file as Python values. Its errors name fields and no lines."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        """path: where the file would be; relative paths start at its folder. Raises JobFileError."""
        self._content = content
        super().__init__(path)

    def note(self, loc: Loc, what: str, right: str, line: int | None = None) -> None:
        super().note(loc, without_lines(what), without_lines(right), line)

    def _located(self, line: int, text: str) -> str:
        return text

    def _load(self) -> Any:
        self._lines[()] = 0
        return self._taken(self._content, ())

    def _taken(self, value: Any, loc: Loc) -> Any:
        """Return a value as the text of a file would be read; None is a field that is left out."""
        # Errors are sorted by line: here, in the order of the values.
        self._lines.setdefault(loc, len(self._lines))
        if len(loc) > MAX_DEPTH:
            self._fail(self._name(loc[:1]), "is nested too deeply", f"use at most {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            fields = {str(name): child for name, child in value.items() if child is not None}
            return {name: self._taken(child, (*loc, name)) for name, child in fields.items()}
        if isinstance(value, list | tuple):
            return [self._taken(child, (*loc, index)) for index, child in enumerate(value)]
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | Real):
            return self._safe_text(loc, str(value))
        if isinstance(value, os.PathLike):
            return self._safe_text(loc, str(os.fspath(value)))
        self.blame(loc, f"is of the type {shown(type(value).__name__)}", "give a text, a number, a list or a dict")
        return ""


def without_lines(text: str) -> str:
    """Return a message without the lines of a file that it names."""
    return _LINES.sub("", text)
