"""The ledger: a record of every task that this party opened with a peer, and of how it ended.

The ledger is a file of JSON lines in the state folder; psicli only appends to it. The `open` line of a task is on disk
before its first point is sent; if no `close` line follows, the run was killed. A task that can be resumed also has an
`answer` line for each bin, on disk before the first answer is sent. Readers ignore unknown fields. The ledger holds
names, paths, counts and ids: never an item, a point or a scalar.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, PsicliError, creating, storing
from psicli.storage.state import held, make_state_folder

LEDGER = "ledger.jsonl"
DAY = timedelta(days=1)
DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"

_NEWLINE = b"\n"
# The fields of a `close` line, apart from the time.
_CLOSING = ("outcome", "code", "error", "matched", "output_sha256")


@dataclass(frozen=True)
class Opening:
    """A task as both parties opened it. input: an absolute path, or - for standard input; counts [items].

    peer_questions: the peer's items including padding, the largest number that it can have asked about.
    """

    job: str
    task: str
    peer: str
    task_sid: str
    input: str
    keys: tuple[str, ...]
    distinct_items: int
    peer_items: int
    peer_questions: int

    @property
    def subject(self) -> tuple[object, ...]:
        """The facts that the runs counted by policy.max_runs_per_day share; the job and the task may differ."""
        return self.peer, self.input, self.keys


@dataclass(frozen=True)
class Entry:
    """The ledger's record of one task. Times are in UTC, as ISO 8601; unknown values are None."""

    time: str
    opening: Opening
    outcome: str = UNFINISHED
    closed: str | None = None
    code: int | None = None
    error: str | None = None
    matched: int | None = None
    output_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as one flat object."""
        facts = asdict(self)
        return {"time": facts.pop("time"), **facts.pop("opening"), **facts}


class Ledger:
    """The ledger in a state folder. Thread-safe; other processes may use the same file at the same time."""

    def __init__(self, state: Path) -> None:
        self.path = state / LEDGER
        self._state = state
        self._guard = threading.Lock()
        # The peer of each task session id; both parties of a task may share this state folder.
        self._unfinished: dict[str, str] = {}
        # The inode and the offset up to which the file was read, and the tasks opened in the last 24 hours.
        self._read: tuple[int, int] = (0, 0)
        self._openings: list[tuple[datetime, tuple[object, ...]]] = []

    def prepare(self) -> None:
        """Check that the ledger can be written; raises CannotCreateError."""
        make_state_folder(self._state)
        with self._file():
            pass

    def open(self, opening: Opening, allow: Callable[[int], None] | None = None, *, resumed: bool = False) -> None:
        """Record that a task begins, if `allow` permits it; a resumed task already has its record.

        allow: called with the number of runs of the same subject in the last 24 hours; if it raises, nothing is
        recorded. No other process can record a run in between. Raises CannotCreateError, StorageError.
        """
        with self._guard, self._file() as file:
            if not resumed or not any(_recent(file, "open", opening.task_sid, opening.peer)):
                if allow is not None:
                    allow(self._runs_of_a_day(file, opening.subject))
                self._append(file, {"event": "open", "time": _now(), **asdict(opening)})
            self._unfinished[opening.task_sid] = opening.peer

    def answer(self, partition_sid: str, peer: str, number: int, items: int) -> None:
        """Record that a bin is answered; items: its capacity [items]. Raises CannotCreateError, StorageError."""
        entry = {"event": "answer", "time": _now(), "task_sid": partition_sid, "peer": peer}
        with self._guard, self._file() as file:
            self._append(file, {**entry, "bin": number, "items": items})

    def answers(self, partition_sid: str, peer: str) -> Counter[int]:
        """Return how often each bin was answered in the last two days; raises CannotCreateError, StorageError."""
        with self._guard, self._file() as file:
            return Counter(int(line["bin"]) for line in _recent(file, "answer", partition_sid, peer))

    def close(
        self, task_sid: str, error: PsicliError | None, matched: int | None, output_sha256: str | None = None
    ) -> None:
        """Record, once, how a task that this run opened has ended; raises CannotCreateError, StorageError.

        output_sha256: the digest of the published output, if there is one.
        """
        with self._guard:
            peer = self._unfinished.pop(task_sid, None)
            if peer is None:
                return
            entry = {"event": "close", "time": _now(), "task_sid": task_sid, "peer": peer}
            why = (FAILED, error.code, type(error).__name__) if error else (DONE, None, None)
            facts = zip(_CLOSING, (*why, matched, output_sha256), strict=True)
            with self._file() as file:
                self._append(file, entry | {name: value for name, value in facts if value is not None})

    def entries(self) -> list[Entry]:
        """Return all records, oldest first; raises CannotCreateError, StorageError."""
        with storing(self.path, "reading"):
            try:
                os.lstat(self.path)
            except FileNotFoundError:
                return []
        found: dict[tuple[str, str], Entry] = {}
        with self._file() as file:
            for _, line in _lines(file):
                if line is None:
                    continue
                task = str(line["task_sid"]), str(line["peer"])
                if line["event"] == "open":
                    found[task] = Entry(line["time"], _opening(line))
                elif line["event"] == "close" and task in found:
                    facts: dict[str, Any] = {name: line.get(name) for name in _CLOSING}
                    found[task] = replace(found[task], closed=line["time"], **facts)
        return list(found.values())

    def _runs_of_a_day(self, file: io.FileIO, subject: tuple[object, ...]) -> int:
        status = os.fstat(file.fileno())
        number, offset = self._read
        if status.st_ino != number or status.st_size < offset:
            # This is the first read, or somebody has replaced or truncated the file.
            offset, self._openings = 0, []
        since = datetime.now(UTC) - DAY
        for end, line in _lines(file, offset, since):
            offset = end
            if line is not None and line["event"] == "open":
                self._openings.append((datetime.fromisoformat(line["time"]), _opening(line).subject))
        self._read = status.st_ino, offset
        self._openings = [each for each in self._openings if each[0] > since]
        return sum(other == subject for _, other in self._openings)

    def _append(self, file: io.FileIO, entry: dict[str, Any]) -> None:
        data = json.dumps(entry).encode() + _NEWLINE
        with storing(self.path, "writing"):
            size = os.fstat(file.fileno()).st_size
            if size and os.pread(file.fileno(), 1, size - 1) != _NEWLINE:
                # The last line is torn: a run was killed, or the disk was full.
                data = _NEWLINE + data
            while data:
                data = data[os.write(file.fileno(), data) :]
            failpoints.hit("ledger.appended")
            os.fsync(file.fileno())
            failpoints.hit("ledger.synced")

    @contextmanager
    def _file(self) -> Iterator[io.FileIO]:
        """Open the ledger while no other run uses it, creating it if necessary."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with held(self._state) as folder:
            with creating(self.path):
                descriptor = os.open(LEDGER, flags, 0o600, dir_fd=folder)
            with open(descriptor, "r+b", buffering=0) as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise CannotCreateError(path=self.path, reason="it is not a regular file")
                with storing(self.path, "reading"):
                    if not status.st_size:
                        # An empty ledger is probably new: make its name durable too.
                        os.fsync(folder)
                    yield file


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# The beginning of a line that psicli wrote; the group is its time, to the second.
_BEGINNING = re.compile(rb'\{"event": "[a-z]+", "time": "([0-9-]{10}T[0-9:]{8})\+00:00"')


def _lines(
    file: io.FileIO, offset: int = 0, since: datetime | None = None
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield, for every complete line from an offset on, the offset after it, and its content or None if unusable.

    Lines from before `since` may yield None too, so that years of old lines are skipped without being parsed.
    """
    oldest = b"" if since is None else since.strftime("%Y-%m-%dT%H:%M:%S").encode()
    with open(os.dup(file.fileno()), "rb") as reader:
        reader.seek(offset)
        for data in reader:
            offset += len(data)
            if data.endswith(_NEWLINE):
                begins = _BEGINNING.match(data)
                yield offset, None if begins and begins[1] < oldest else _parsed(data)


def _recent(file: io.FileIO, event: str, task_sid: str, peer: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of the last two days about this event of this task."""
    for _, line in _lines(file, since=datetime.now(UTC) - 2 * DAY):
        if line is not None and (line["event"], line["task_sid"], line["peer"]) == (event, task_sid, peer):
            yield line


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Parse a line; return None if it is torn or of an unknown kind."""
    try:
        line: dict[str, Any] = json.loads(data)
        if datetime.fromisoformat(line["time"]).tzinfo is None:
            return None
        if line["event"] == "open":
            _opening(line)
            return line
        needed = {"close": ("task_sid", "peer", "outcome"), "answer": ("task_sid", "peer", "bin", "items")}
        names = needed.get(line["event"])
        return line if names is not None and all(name in line for name in names) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _opening(line: dict[str, Any]) -> Opening:
    """Return the task of an `open` line; raises KeyError, TypeError, ValueError."""
    facts: dict[str, Any] = {name: str(line[name]) for name in ("job", "task", "peer", "task_sid", "input")}
    facts |= {name: int(line[name]) for name in ("distinct_items", "peer_items", "peer_questions")}
    return Opening(**facts, keys=tuple(str(column) for column in line["keys"]))
