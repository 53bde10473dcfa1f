"""Turn batch.yaml, or the names of job files, into a Batch, a frozen value; or report every error with its line.

Every job file of the batch is loaded too, so one message holds the mistakes of all files. A job file that cannot be
used is blamed at its place in the batch file.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from psicli.config import load_job
from psicli.config.batch.models import Batch, BatchFile, Entry, HooksEntry, JobEntry
from psicli.config.built import Job
from psicli.config.document import Document, Loc
from psicli.config.fields import MAX_NAME
from psicli.config.shape import Shape, is_batch
from psicli.config.variables import fill
from psicli.core.errors import (
    ArgumentError,
    BatchFileError,
    InputMissingError,
    JobFileError,
    PsicliError,
    printable,
    shown,
)
from psicli.core.records import dataclass

__all__ = ["Batch", "BatchFile", "Entry", "HooksEntry", "is_batch_file", "load_batch", "right_name"]

# The name of a batch of job files that the command line names.
UNNAMED = "batch"
# How many jobs the message about an unknown one names.
MAX_JOBS_SHOWN = 20

SHAPE = Shape(BatchFile, "jobs: [jobs/bob.yaml, jobs/carol.yaml]", {"job": "batch", "path": "config", "file": "config"})


class BatchDocument(Document):
    """A batch file as a plain tree, with the errors of the batch."""

    noun = "batch file"
    schema = "psicli config schema --batch"
    error = BatchFileError

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batch = self.shown_path


def load_batch(
    files: Sequence[Path], *, party: str | None = None, settings: Mapping[str, str], environment: Mapping[str, str]
) -> Batch:
    """Load a batch file, or make a batch of several job files; one file is a batch file unless it holds a job.

    party and settings are those of the command line, which override the files; the files override the environment.
    Raises InputMissingError if there is no such batch file, JobFileError or BatchFileError with all errors.
    """
    document = BatchDocument(files[0]) if len(files) == 1 and not _is_job_file(files[0]) else None
    reader = _Reader(document, party, settings, environment)
    return reader.read(files)


def is_batch_file(path: Path) -> bool:
    """Return whether a file is a batch file; a file that cannot be read is none."""
    with suppress(PsicliError):
        return is_batch(Document(path))
    return False


def _is_job_file(path: Path) -> bool:
    with suppress(PsicliError):
        document = BatchDocument(path)
        return not is_batch(document) and bool({"job", "cluster", "tasks"} & set(document.table()))
    return path.is_dir()


def right_name(given: str, jobs: Mapping[str, Path]) -> str:
    """Return what to write for a name that no job has. jobs: the file of each job."""
    same = [name for name, path in jobs.items() if Path(given).name in (path.name, path.stem)]
    if same:
        return f"give the name of the job: {same[0]}"
    close = difflib.get_close_matches(given[:MAX_NAME], jobs, n=1)
    listed = ", ".join([*jobs][:MAX_JOBS_SHOWN]) + (", …" if len(jobs) > MAX_JOBS_SHOWN else "")
    return f"did you mean {close[0]}?" if close else f"the jobs are {listed}"


@dataclass
class _Slot:
    """One entry of `jobs`. name, job: None as long as they are unknown."""

    entry: JobEntry
    path: Path
    # Its place in the batch file, and for messages.
    loc: Loc
    where: str
    settings: dict[str, str]
    name: str | None = None
    job: Job | None = None


class _Reader:
    """Reads a batch once. document: None if the command line names the job files."""

    def __init__(
        self,
        document: BatchDocument | None,
        party: str | None,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> None:
        self._document = document
        self._party = party
        self._settings = settings
        self._environment = environment
        self._party_of_file: str | None = None
        # The mistakes of job files and of the command line.
        self._lines: list[str] = []
        # The batch files among the files of the command line.
        self._batches: list[str] = []

    def read(self, files: Sequence[Path]) -> Batch:
        document = self._document
        slots = [self._slot(JobEntry(config=path), path) for path in files] if document is None else self._slots()
        for slot in slots:
            self._load(slot)
        _name(slots)
        self._check_names(slots)
        if self._batches:
            names = " and ".join(self._batches)
            self._lines.append(f"{names}: a batch file runs alone; give one batch file, or only job files")
        if document is None and self._lines:
            raise JobFileError(mistakes="\n".join(self._lines))
        if document is not None:
            document.raise_errors(self._lines)
        file = BatchFile(jobs=tuple(files)) if document is None else BatchFile.model_validate(document.root)
        return Batch(
            name=file.batch or (UNNAMED if document is None else _name_of_file(document.path)),
            path=None if document is None else document.path,
            jobs=tuple(map(self._entry, slots)),
            **{name: getattr(file, name) for name in Batch.model_fields if name not in ("name", "path", "jobs")},
        )

    # The batch file

    def _slots(self) -> list[_Slot]:
        """Check the shape of the batch file, and return its sound entries."""
        document = self._document
        assert document is not None
        for loc in document.entries("jobs"):
            place = loc if document.text(*loc) is not None else (*loc, "config")
            fill(document, [place], self._variables(_texts(self._shared(), document.table(*loc, "set"))))
        SHAPE.check(document)
        if document.get("jobs") == []:
            document.blame(("jobs",), "is empty", f"give at least one, for example `{SHAPE.example(('jobs',))}`")
        if not document.is_sound(("party",)):
            return []
        # A job that lacks this party blames the field, and later jobs still need its text.
        self._party_of_file = document.text("party")
        found = []
        for loc in filter(document.is_sound, document.entries("jobs")):
            value = document.get(*loc)
            entry = JobEntry.model_validate({"config": value} if isinstance(value, str) else value)
            found.append(self._slot(entry, document.path.parent / entry.config, loc))
        return found

    def _slot(self, entry: JobEntry, path: Path, loc: Loc = ()) -> _Slot:
        document = self._document
        where = printable(path) if document is None else f"{document.shown_path}:{document.line(loc)}"
        return _Slot(entry, path, loc, where, {**_texts(self._shared(), entry.set), **self._settings})

    def _shared(self) -> dict[str, Any]:
        """Return `set` of the whole batch, even if it has errors: the variables in it must not seem to be undefined."""
        found = None if self._document is None or not isinstance(self._document.root, dict) else self._document.root
        table = (found or {}).get("set")
        return table if isinstance(table, dict) else {}

    def _variables(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {**self._environment, **settings, **self._settings}

    # The job files

    def _party_of(self, entry: JobEntry) -> str | None:
        return self._party or entry.party or self._party_of_file

    def _load(self, slot: _Slot) -> None:
        """Load a job file, and note its errors."""
        entry = slot.entry
        try:
            slot.job = load_job(
                slot.path,
                party=self._party_of(entry),
                port_offset=entry.port_offset,
                variables=self._variables(slot.settings),
                only=entry.only,
                batch=None if self._document is None else self._document.shown_path,
            )
            slot.name = slot.job.name
        except JobFileError as exc:
            if not is_batch_file(slot.path):
                self._add(str(exc.facts["mistakes"]).splitlines())
            elif self._document is None:
                self._batches.append(printable(entry.config))
            else:
                self._blame(slot, "config", f"{shown(str(entry.config))} is a batch file", "name its job files instead")
            with suppress(PsicliError):
                slot.name = Document(slot.path).text("job")
        except InputMissingError as exc:
            self._blame(slot, "config", *self._fault_of_file(slot, str(exc.facts["fault"])))
        except ArgumentError as exc:
            option, fault, advice = (str(exc.facts[name]) for name in ("option", "fault", "advice"))
            # The line that it names is one of the job file.
            what = re.sub(r"\(line (\d+)\)$", lambda found: f"({printable(slot.path)}:{found[1]})", fault)
            right = advice[:1].lower() + advice[1:].removesuffix(".")
            if self._document is None or (option == "--party" and self._party):
                self._add([f"{option}: {what}; {right}"])
            else:
                self._blame(slot, option.removeprefix("--").replace("-", "_"), what, right)

    def _add(self, lines: Iterable[str]) -> None:
        """Note mistakes that are not in the batch file, each once."""
        self._lines += [line for line in lines if line not in self._lines]

    def _fault_of_file(self, slot: _Slot, fault: str) -> tuple[str, str]:
        """Return what is wrong with a job file that cannot be read, and what would be right."""
        named = shown(str(slot.entry.config))
        if os.path.isdir(slot.path):
            return f"{named} is a folder", "name the job files in it"
        if self._document is not None and re.search(r"[*?]", named):
            return f"{named} is a pattern, and a batch file takes none", "name each job file"
        start = "current" if self._document is None else "batch file's"
        return f"{named}: {fault}", f"check the path; a relative one starts at the {start} folder"

    def _blame(self, slot: _Slot, name: str, what: str, right: str) -> None:
        """Blame a field of an entry; if the entry lacks it, blame that of the whole batch, or the entry itself."""
        document = self._document
        if document is None:
            self._lines.append(f"{what}; {right}")
            return
        places = [(*slot.loc, name), (name,)]
        found = next((place for place in places if document.get(*place) is not None), slot.loc)
        document.blame(found, what, right)

    # Names

    def _check_names(self, slots: Sequence[_Slot]) -> None:
        """Check that names differ, and that `after` names other jobs of the batch, without a cycle."""
        document = self._document
        if document is None:
            return
        first: dict[str, Loc] = {}
        for loc in document.entries("jobs"):
            name = document.text(*loc, "name")
            if name is not None and first.setdefault(name, loc) != loc:
                what = f"{name} is the name of another job (line {document.line(first[name])})"
                document.blame((*loc, "name"), what, "give every job its own name")
        # A job whose name is unknown may be the one that is meant.
        if len(slots) == len(document.entries("jobs")) and all(slot.name for slot in slots):
            self._check_after(document, {str(slot.name): slot for slot in slots})

    def _check_after(self, document: BatchDocument, slots: Mapping[str, _Slot]) -> None:
        edges = {}
        for name, slot in slots.items():
            for at, other in enumerate(slot.entry.after):
                if other in slots:
                    edges[name, other] = (*slot.loc, "after", at)
                    continue
                right = right_name(other, {each: slot.path for each, slot in slots.items()})
                document.blame((*slot.loc, "after", at), f"{shown(other)} is not a job of this batch", right)
        while (cycle := _cycle(edges)) is not None:
            what = f"waits for itself: {' after '.join(cycle)}"
            document.blame(edges.pop((cycle[0], cycle[1])), what, "remove one of these")

    def _entry(self, slot: _Slot) -> Entry:
        assert slot.job is not None
        assert slot.name is not None
        return Entry(
            name=slot.name,
            config=slot.path,
            where=slot.where,
            set=slot.settings,
            only=slot.entry.only,
            party=self._party_of(slot.entry),
            port_offset=slot.entry.port_offset,
            after=tuple(dict.fromkeys(slot.entry.after)),
            job=slot.job,
        )


def _texts(*tables: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of tables, later ones over earlier ones; for what is no text, and so an error, its name."""
    return {name: str(value) if isinstance(value, str) else name for table in tables for name, value in table.items()}


def _name(slots: Sequence[_Slot]) -> None:
    """Name every job: as its entry says, or like the job itself, with a number if that name is taken."""
    taken = {slot.entry.name for slot in slots if slot.entry.name is not None}
    for slot in slots:
        if slot.entry.name is not None:
            slot.name = slot.entry.name
        elif slot.name is not None:
            endings = ("", *(f"-{number}" for number in range(2, len(slots) + 2)))
            names = (f"{slot.name[: MAX_NAME - len(ending)]}{ending}" for ending in endings)
            slot.name = next(name for name in names if name not in taken)
            taken.add(slot.name)


def _name_of_file(path: Path) -> str:
    return re.sub("[^a-z0-9-]+", "-", path.stem.lower()).strip("-")[:MAX_NAME] or UNNAMED


def _cycle(edges: Iterable[tuple[str, str]]) -> list[str] | None:
    """Return a job, the job it waits for, and so on to the first job again; None if no job waits for itself."""
    graph: dict[str, list[str]] = {}
    for name, other in edges:
        graph.setdefault(name, []).append(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        # Its order is from the job that comes first to those that wait for it.
        return list(reversed(exc.args[1]))
    return None
