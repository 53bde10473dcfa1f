"""The record of a batch in the state folder: how to start it again, and how far each of its jobs got.

Each batch has two copies. One is in `batches`, named after the files of the batch; it is durable, and stays for
`psicli retry`. It belongs to the run of the batch that started last. The other is in the run folder of the batch, which
is locked as long as the batch runs; `psicli status` reads it. Both are complete at any moment: whoever kills a batch
leaves a record of what it had done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from psicli.batch.plan import Plan, Planned
from psicli.config.fields import NAME
from psicli.core import signals
from psicli.core.errors import BatchRunningError, PsicliError, creating, reason
from psicli.core.records import dataclass
from psicli.report.batch import JobState, State
from psicli.report.batch.summary import first_cause
from psicli.report.layout import in_words
from psicli.storage.files import replace_file, swap_file
from psicli.storage.state import held, is_locked, run_folder, running, state_folder

logger = logging.getLogger(__name__)

# The folder of the records that stay, and the name of the record in a run folder.
_FOLDER, _LIVE = "batches", "batch.json"
# Records are removed when they are older [s], or when there are more.
MAX_AGE = 30 * 86400.0
MAX_RECORDS = 100
# How often the copy for `psicli status` shows the progress, and a run looks whether another one has ended [s].
_INTERVAL = 1.0
# What a record keeps of the state of a job; the report of a job stays with whoever asked for it.
_KEPT = (
    "name", "peer", "config", "tasks", "state", "why", "percent", "task", "starts", "failures", "pid", "first_started",
    "ended", "seconds", "exit_code",
)  # fmt: skip
# The options of a start that name a file or a folder, and the types of all.
_PATHS = ("report_dir", "metrics", "page")
_OPTIONS = {
    **dict.fromkeys(("jobs", "memory", "retries"), int),
    **dict.fromkeys(("deadline", "retry_wait", "rendezvous", "lock_timeout"), float),
    **dict.fromkeys(("settings", "only"), tuple[str, ...]),
    **dict.fromkeys(("party", *_PATHS), str),
    "keep_going": bool,
}


@dataclass(frozen=True)
class Start:
    """How a batch was started. options: the parameters of `psicli batch` that somebody has set, by name."""

    # The working folder.
    folder: str
    # The batch file or the job files, as absolute paths.
    files: tuple[str, ...]
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """What two runs of the same batch have in common."""
        return _key(self.files)


@dataclass(frozen=True)
class Past:
    """What the record of a batch says. id: of this run of the batch; exit_code: None until the batch has ended.

    good: the last time that a run of the batch ended with all jobs done, in UTC as ISO 8601; None if none did.
    """

    id: str
    pid: int
    name: str
    started: str
    start: Start
    jobs: tuple[JobState, ...]
    exit_code: int | None = None
    good: str | None = None

    @property
    def unfinished(self) -> list[str]:
        """The names of the jobs that failed or did not run."""
        return [job.name for job in self.jobs if job.state is not State.DONE]

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is kept, and as `psicli status --json` shows it."""
        return {**asdict(replace(self, jobs=())), "jobs": [*map(_to_json, self.jobs)]}

    def octets(self) -> bytes:
        return json.dumps(self.to_json(), indent=1).encode()


def _to_json(job: JobState) -> dict[str, Any]:
    facts = {name: getattr(job, name) for name in _KEPT}
    return {**facts, "config": os.path.abspath(job.config), "why": first_cause(job) or job.why}


class Record(AbstractContextManager["Record"]):
    """A Watcher that keeps the record of a batch while it runs.

    before: the jobs of the record that this run continues; those that it does not run again stay as they are. wait: how
    long to wait until no other run of this batch is in progress [s]; None if several may be. Raises BatchRunningError
    and CannotCreateError when it begins; a record that cannot be written later is a warning.
    """

    def __init__(self, plan: Plan, start: Start, before: Iterable[JobState] = (), wait: float | None = None) -> None:
        state = state_folder()
        jobs = [*map(queued, plan.jobs)]
        # A batch that was killed has left jobs in the middle.
        killed: dict[str, Any] = {"state": State.NOT_RUN, "why": "the batch was stopped before", "pid": None}
        self._before = {job.name: job if job.is_over else replace(job, **killed) for job in before}
        self._states: dict[str, State] = {}
        self._shown_at = 0.0
        self._has_warned = False
        with ExitStack() as undo:
            self._live = undo.enter_context(run_folder(state)) / _LIVE
            self._path = state / _FOLDER / f"{start.key}.json"
            self._past = Past(self._live.parent.name, os.getpid(), plan.batch.name, _now(), start, ())
            deadline, waits = time.monotonic() + (wait or 0.0), False
            while (other := self._begin(jobs, alone=wait is not None)) is not None:
                busy = BatchRunningError(batch=other.name, pid=other.pid, since=in_words(other.started))
                if time.monotonic() >= deadline:
                    raise busy
                if not waits:
                    logger.info("waiting: %s", busy.message)
                waits = True
                signals.pause(_INTERVAL)
            self._undo = undo.pop_all()

    def _begin(self, jobs: Sequence[JobState], *, alone: bool) -> Past | None:
        """Write the first record; if another run must end before, return its record instead."""
        state = self._path.parent.parent
        with creating(self._path), held(state):
            earlier = _read(self._path)
            if alone and earlier is not None and is_locked(state / earlier.id):
                return earlier
            self._past = replace(self._past, good=None if earlier is None else earlier.good)
            self._path.parent.mkdir(0o700, exist_ok=True)
            _remove_old(self._path.parent)
            self._write(jobs, is_first=True)
        return None

    @property
    def past(self) -> Past:
        """What the record says now."""
        return self._past

    def changed(self, job: JobState, jobs: Sequence[JobState]) -> None:
        if self._states.get(job.name) is job.state:
            return
        self._states[job.name] = job.state
        # A retry needs to know only what is over.
        if job.is_over:
            self._keep(jobs)

    def progressed(self, jobs: Sequence[JobState]) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _INTERVAL:
            self._shown_at = now
            self._past = self._with(self._past, jobs)
            with suppress(OSError):
                swap_file(self._live, self._past.octets())

    def said(self, job: JobState, level: int, line: str) -> None:
        """Keep nothing: the log is elsewhere."""

    def finish(self, jobs: Sequence[JobState], exit_code: int) -> None:
        """Record how the batch ended."""
        past = self._with(self._past, jobs)
        is_good = exit_code == 0 and not past.unfinished and not past.start.options.get("only")
        self._past = replace(past, exit_code=exit_code, good=_now() if is_good else past.good)
        self._keep(jobs)

    def _keep(self, jobs: Sequence[JobState]) -> None:
        try:
            with held(self._path.parent.parent):
                self._write(jobs)
        except (OSError, PsicliError) as exc:
            why = exc.message if isinstance(exc, PsicliError) else reason(exc)
            if not self._has_warned:
                text = "the record of this batch cannot be written (%s); if that lasts, `psicli retry` will repeat jobs"
                logger.warning(text, why)
            # The next change tries again.
            self._has_warned = True

    def _write(self, jobs: Sequence[JobState], *, is_first: bool = False) -> None:
        """Write both copies, holding the state folder; raises OSError."""
        self._past = self._with(self._past, jobs)
        swap_file(self._live, self._past.octets())
        owner = None if is_first else _read(self._path)
        # A later run of this batch has taken it over.
        if owner is None or owner.id == self._past.id:
            replace_file(self._path, self._past.octets())

    def _with(self, past: Past, jobs: Sequence[JobState]) -> Past:
        return replace(past, jobs=(*{**self._before, **{job.name: job for job in jobs}}.values(),))

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def queued(planned: Planned) -> JobState:
    """Return the state of a job that has not started."""
    return JobState(planned.name, planned.job.peer, str(planned.entry.config), len(planned.job.tasks))


def last_batch(files: Sequence[str] = ()) -> Past | None:
    """Return the record of the batch of these files, or of the batch that started last; None if there is none."""
    folder = state_folder() / _FOLDER
    if files:
        return _read(folder / f"{_key(files)}.json")
    found = filter(None, map(_read, folder.glob("*.json")))
    return max(found, key=lambda past: past.started, default=None)


def running_batches() -> list[Past]:
    """Return the records of the batches of this user that run now, oldest first; raises CannotCreateError."""
    found = filter(None, (_read(folder / _LIVE) for folder in running(state_folder())))
    return sorted(found, key=lambda past: past.started)


def is_running(past: Past) -> bool:
    """Return whether the batch that wrote a record still runs; raises CannotCreateError."""
    return any(folder.name == past.id for folder in running(state_folder()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _key(files: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(map(os.path.abspath, files)).encode(errors="surrogateescape")).hexdigest()[:16]


def _read(path: Path) -> Past | None:
    """Return a record; None if there is none, or none that this version can read, also if somebody has edited it."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        past: Past = _checked(json.loads(path.read_bytes()), Past)
        if _is_sound(past):
            return past
    return None


@cache
def _types(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields. This is slow, and a batch reads its record at the end of every job."""
    return get_type_hints(kind)


def _checked(value: Any, kind: Any) -> Any:
    """Return a value of JSON as one of a type; raises TypeError, ValueError and KeyError if it is none."""
    inner, origin = get_args(kind), get_origin(kind) or kind
    if is_dataclass(kind):
        types = _types(cast(type, kind))
        return cast(type, kind)(**{name: _checked(each, types[name]) for name, each in _checked(value, dict).items()})
    if origin is tuple:
        return tuple(_checked(each, inner[0]) for each in _checked(value, list))
    if origin is UnionType:
        # X | None.
        return None if value is None else _checked(value, inner[0])
    if origin is State:
        return State(value)
    # A bool is no number, and a whole number may be written without its point.
    if type(value) is not origin and (type(value), origin) != (int, float):
        raise TypeError
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _is_sound(past: Past) -> bool:
    """Return whether others can use what a record says; raises TypeError, and ValueError for no moment or no path."""
    start = past.start
    for name, value in start.options.items():
        if name in _OPTIONS:
            _checked(value, _OPTIONS[name])
    paths = [start.folder, *start.files, *(start.options[name] for name in _PATHS if name in start.options)]
    names = [past.id, past.name, *(name for job in past.jobs for name in (job.name, job.peer, job.task or job.name))]
    moments = [past.started] if past.good is None else [past.started, past.good]
    return (
        bool(start.files)
        and all(os.path.isabs(path) and b"\0" not in os.fsencode(path) for path in paths)
        and all(re.fullmatch(NAME, name) for name in names)
        and all(datetime.fromisoformat(moment).tzinfo for moment in moments)
        and all(0 <= job.percent <= 100 for job in past.jobs)
        and start.options.get("jobs", 1) > 0
    )


def _remove_old(folder: Path) -> None:
    """Remove records that nobody will retry; raises OSError."""
    ages = sorted((time.time() - path.stat().st_mtime, path) for path in folder.iterdir())
    # Room for the new one.
    for number, (age, path) in enumerate(ages, 1):
        if age > MAX_AGE or number >= MAX_RECORDS:
            path.unlink()
