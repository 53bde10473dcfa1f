"""The ledger: a record of every run, of every task that this party opened with a peer, and of how each ended.

The ledger is a file of JSON lines in the state folder; psicli only appends to it. A run has a `begin` and an `end`
line. The `open` line of a task is on disk before this party's Open is sent, which tells the peer a count. A `met` line
adds the counts of the peer before any point is sent. If no `end` or `close` line follows, the run was killed. A task
that can be resumed also has an `answer` line for each bin, on disk before the first answer is sent. The lines form a
chain, see chain.py; records.py reads them and ignores unknown fields. The ledger holds names, paths, counts and ids:
never an item, a point or a scalar.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from psicli.core import failpoints
from psicli.core.errors import (
    EXIT_CODES,
    BrokenLedgerError,
    CannotCreateError,
    PsicliError,
    creating,
    printable,
    storing,
)
from psicli.storage.ledger import chain
from psicli.storage.ledger.recent import Wanted, last_tasks
from psicli.storage.ledger.records import (
    CLOSING,
    DONE,
    ECDH,
    ENDING,
    FAILED,
    Entry,
    History,
    Opening,
    RunEntry,
    opening_of,
    parsed,
    take,
)
from psicli.storage.state import has_traces, held, make_state_folder

__all__ = ["DONE", "ECDH", "FAILED", "Entry", "History", "Ledger", "Opening", "RunEntry", "Wanted"]

logger = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
HEAD = "ledger.head"
DAY = timedelta(days=1)

_NEWLINE = b"\n"
# The lines that are on the disk, with all lines before them, before the run goes on.
_SYNCED = {"open", "answer", "end", chain.BROKEN}
# How much of the ledger's end is searched for the last runs of a job: about 100,000 lines [bytes].
_RECENT = 32 << 20
# How many faults a warning names.
_FAULTS_SHOWN = 3
# How many of them a line records.
_FAULTS_KEPT = 100


class _Files(NamedTuple):
    ledger: io.FileIO
    head: io.FileIO


class _Place(NamedTuple):
    """Where the next line goes. head: the last line; covering: whether the next line covers everything before it.

    torn: whether the last line lacks its end.
    """

    head: chain.Head
    covering: bool = False
    torn: bool = False


class Ledger:
    """The ledger in a state folder. Thread-safe; other processes may use the same file at the same time.

    warn: called with a sentence if the ledger is not as psicli left it. strict: whether to raise BrokenLedgerError
    then, and record nothing. head: the number and the digest of the last line that this run wrote.
    """

    def __init__(self, state: Path, warn: Callable[[str], None] = logger.warning, *, strict: bool = False) -> None:
        self.path = state / LEDGER
        self.head: tuple[int, str] | None = None
        # Whether this run began the ledger.
        self.is_new = False
        self._state = state
        self._warn, self._strict = warn, strict
        self._run = ""
        # Who runs with whom: every line of a run says so.
        self._parties: dict[str, str] = {}
        self._guard = threading.Lock()
        # The peer of each task session id; both parties of a task may share this state folder.
        self._unfinished: dict[str, str] = {}
        # The inode and the offset up to which the file was read, and the tasks opened in the last 24 hours.
        self._read: tuple[int, int] = (0, 0)
        self._openings: list[tuple[datetime, tuple[object, ...]]] = []

    @property
    def run(self) -> str:
        """The id of the run, from its `begin` line to its `end` line; else empty."""
        return self._run

    def prepare(self) -> None:
        """Check that the ledger can be written; raises CannotCreateError, StorageError."""
        make_state_folder(self._state)
        with self._files():
            pass

    def begin(self, job: str, party: str, peer: str, version: str, address: str) -> None:
        """Check the whole ledger, and record that a run begins; raises CannotCreateError, StorageError."""
        make_state_folder(self._state)
        run = secrets.token_hex(8)
        facts = {"run": run, "job": job, "party": party, "peer": peer, "version": version, "address": address}
        self._parties = {"party": party, "peer": peer}
        with self._guard, self._files() as files:
            self.is_new = not any(os.fstat(file.fileno()).st_size for file in files)
            self._check(files)
            self._append(files, "begin", **facts)
            self._run = run

    def end(self, error: PsicliError | None, seconds: float | None = None, **session: str | None) -> None:
        """Record how the run has ended, if it began, and how long it took [s].

        session: session_id, peer_version, peer_certificate_sha256.
        """
        if not self._run:
            return
        why = (FAILED, error.code, type(error).__name__, EXIT_CODES[error.code][0]) if error else (DONE, 0, None, None)
        facts = {**dict(zip(ENDING, why, strict=False)), **session, "seconds": _rounded(seconds)}
        with self._guard, self._files() as files:
            self._append(
                files, "end", run=self._run, **{name: fact for name, fact in facts.items() if fact is not None}
            )
            self._run = ""

    def open(self, opening: Opening, allow: Callable[[int], None] | None = None, *, resumed: bool = False) -> None:
        """Record that this party opens a task, if `allow` permits it; a resumed task already has its record.

        allow: called with the number of runs of the same subject in the last 24 hours; if it raises, nothing is
        recorded. No other process can record a run in between. Raises CannotCreateError, StorageError.
        """
        with self._guard, self._files() as files:
            if not resumed or not any(_recent(files.ledger, "open", opening.task_sid, opening.peer)):
                if allow is not None:
                    allow(self._runs_of_a_day(files.ledger, opening.subject))
                known = asdict(replace(opening, run=self._run))
                if opening.protocol == ECDH:
                    del known["protocol"]
                self._append(files, "open", **{name: fact for name, fact in known.items() if fact is not None})
            self._unfinished[opening.task_sid] = opening.peer

    def meet(self, task_sid: str, peer: str, items: int, questions: int) -> None:
        """Record that the peer has opened the task too, with its counts [items]."""
        with self._guard, self._files() as files:
            self._append(files, "met", task_sid=task_sid, peer=peer, peer_items=items, peer_questions=questions)

    def answer(self, partition_sid: str, peer: str, number: int, items: int) -> None:
        """Record that a bin is answered; items: how many the peer can ask about in it [items].

        Raises CannotCreateError, StorageError.
        """
        with self._guard, self._files() as files:
            self._append(files, "answer", task_sid=partition_sid, peer=peer, bin=number, items=items)

    def answers(self, partition_sid: str, peer: str) -> Counter[int]:
        """Return how often each bin was answered in the last two days; raises CannotCreateError, StorageError."""
        with self._guard, self._files() as files:
            return Counter(int(line["bin"]) for line in _recent(files.ledger, "answer", partition_sid, peer))

    def close(
        self,
        task_sid: str,
        error: PsicliError | None,
        matched: int | None,
        matched_percent: int | None = None,
        output_sha256: str | None = None,
        rows: int | None = None,
        seconds: float | None = None,
        *,
        drift_accepted: Sequence[str] = (),
    ) -> None:
        """Record, once, how a task that this run opened has ended; raises CannotCreateError, StorageError.

        output_sha256: the digest of the published output, if there is one. rows: those of the input. seconds: how long
        the task took [s]. drift_accepted: the measures that the user accepted outside their usual ranges.
        """
        with self._guard:
            peer = self._unfinished.pop(task_sid, None)
            if peer is None:
                return
            why = (FAILED, error.code, type(error).__name__) if error else (DONE, None, None)
            found = (*why, matched, matched_percent, output_sha256, rows, _rounded(seconds), [*drift_accepted] or None)
            facts = zip(CLOSING, found, strict=True)
            known = {name: value for name, value in facts if value is not None}
            with self._files() as files:
                self._append(files, "close", task_sid=task_sid, peer=peer, **known)

    def entries(self) -> list[Entry]:
        """Return the records of all tasks, oldest first; raises CannotCreateError, StorageError."""
        return self.history().tasks

    def last_tasks(self, wanted: Wanted) -> list[Entry]:
        """Return the records of the last openings of some tasks, oldest first; what is very old is not searched.

        Raises CannotCreateError, StorageError.
        """
        if not self._exists(self.path):
            return []
        with self._guard, self._files() as files, storing(self.path, "reading"):
            size = os.fstat(files.ledger.fileno()).st_size
            return last_tasks(_read_at(files.ledger, size - _RECENT, size), wanted)

    def history(self) -> History:
        """Return all records; raises CannotCreateError, StorageError."""
        if not self._exists(self.path):
            return History()
        tasks: dict[tuple[str, str], Entry] = {}
        runs: dict[str, RunEntry] = {}
        with self._files() as files:
            for _, line in _lines(files.ledger):
                if line is not None:
                    take(line, tasks, runs)
        return History([*tasks.values()], [*runs.values()])

    def verify(self, anchor: str | None = None) -> chain.Verdict:
        """Examine the whole ledger, as chain.examine does; raises CannotCreateError, StorageError."""
        if not self._exists(self.path):
            existed = has_traces(self._state)
            if not self._exists(self._state / HEAD):
                return chain.examine((), chain.Head(), anchor, existed=existed)
            with held(self._state) as folder, self._open(folder, HEAD) as head:
                return chain.examine((), _head(head), anchor, existed=existed)
        with self._files() as files, storing(self.path, "reading"):
            return chain.examine(_octets(files.ledger), _fitting(files), anchor, existed=has_traces(self._state))

    def _exists(self, path: Path) -> bool:
        with storing(path, "reading"):
            try:
                os.lstat(path)
            except FileNotFoundError:
                return False
        return True

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
                self._openings.append((datetime.fromisoformat(line["time"]), opening_of(line).subject))
        self._read = status.st_ino, offset
        self._openings = [each for each in self._openings if each[0] > since]
        return sum(other == subject for _, other in self._openings)

    # Writing

    def _append(self, files: _Files, event: str, /, **facts: Any) -> None:
        self._append_at(files, self._place(files) or self._check(files), event, facts)

    def _append_at(self, files: _Files, place: _Place, event: str, facts: Mapping[str, Any]) -> None:
        start = os.fstat(files.ledger.fileno()).st_size + place.torn
        end = _NEWLINE * place.torn
        with storing(self.path, "writing"):
            prev = _digest_of_all(files.ledger, end) if place.covering else place.head.digest
            entry = {"time": _now(), "event": event, **self._parties, **facts}
            line = chain.sealed(entry, place.head.number + 1, prev, covers=place.covering)
            head = place.head.before(line, start)._replace(boot=_boot())
            is_new = not os.fstat(files.head.fileno()).st_size
            _write(files.head, head.encode(), 0)
            failpoints.hit("ledger.head.written")
            _write(files.ledger, end + line)
            failpoints.hit("ledger.appended")
            head = head.after()
            if event in _SYNCED:
                os.fsync(files.ledger.fileno())
                failpoints.hit("ledger.synced")
                head = head.on_disk()
            _write(files.head, head.encode(), 0)
            if is_new or event == "end":
                os.fdatasync(files.head.fileno())
        self.head = head.number, head.digest

    def _place(self, files: _Files) -> _Place | None:
        """Return where the next line goes, by the head alone; None if the ledger does not end there."""
        with storing(self.path, "reading"):
            head, size = _head(files.head), os.fstat(files.ledger.fileno()).st_size
            if head is None or (head.number and not size):
                return None
            written = _read_at(files.ledger, head.end, head.next_end) + _NEWLINE * (size == head.next_end - 1)
            if head.writes and chain.digest(written) == head.next_digest:
                head = head.after()
            if size == head.end:
                return _Place(head, covering=not head.number)
            # A run was killed, or the disk was full, before the whole line was written.
            begun = head.writes and size > head.end and chain.is_torn(_read_at(files.ledger, head.end, size))
            if size == head.end - 1 or begun:
                return _Place(head, covering=True, torn=True)
        return None

    def _check(self, files: _Files) -> _Place:
        """Examine the whole ledger; warn of what is wrong and record it, and return where the next line goes.

        What an earlier line records is not found again.
        """
        with storing(self.path, "reading"):
            head, place = _head(files.head), self._place(files)
            if head is not None and place is not None and chain.is_intact(lambda: _octets(files.ledger), head):
                return place
            fitting = _fitting(files)
            if fitting is not None and fitting != head:
                _write(files.head, fitting.encode(), 0)
                return self._check(files)
            verdict = chain.examine(_octets(files.ledger), head, existed=has_traces(self._state))
            size = os.fstat(files.ledger.fileno()).st_size
            torn = bool(size) and _read_at(files.ledger, size - 1, size) != _NEWLINE
        if not verdict.fresh:
            return place or _Place(chain.Head(verdict.number), covering=True, torn=torn)
        found = [fault.text for fault in verdict.fresh]
        shown = "; ".join(found[:_FAULTS_SHOWN]) + ("; …" if len(found) > _FAULTS_SHOWN else "")
        if self._strict:
            raise BrokenLedgerError(path=self.path, found=shown)
        known = {} if head is None else {"last": verdict.last, "head": verdict.expected}
        at = _Place(chain.Head(verdict.number), covering=True, torn=torn)
        self._append_at(files, at, chain.BROKEN, {"found": found[:_FAULTS_KEPT], **known})
        self._warn(
            f"the ledger {printable(self.path)} is not as psicli left it ({shown}); max_runs_per_day cannot count runs "
            "whose lines are missing. Run `psicli ledger --verify`, and find out who changed it."
        )
        return self._place(files) or at

    @contextmanager
    def _files(self) -> Iterator[_Files]:
        """Open the ledger and its head while no other run uses them, creating them if necessary."""
        with held(self._state) as folder, self._open(folder, LEDGER) as ledger, self._open(folder, HEAD) as head:
            yield _Files(ledger, head)

    @contextmanager
    def _open(self, folder: int, name: str) -> Iterator[io.FileIO]:
        path = self._state / name
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        # pwrite ignores its offset in a file that is opened for appending.
        flags |= os.O_APPEND if name == LEDGER else 0
        if path.is_symlink():
            raise CannotCreateError(path=path, reason="it is a link, which psicli does not follow")
        with creating(path):
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        with open(descriptor, "r+b", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CannotCreateError(path=path, reason="it is not a regular file")
            with storing(path, "reading"):
                if not status.st_size:
                    # An empty file is probably new: make its name durable too.
                    os.fsync(folder)
                yield file


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


@cache
def _boot() -> str:
    """Return the id of this start of the system, or zeros if the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16]
    return "0" * 16


def _fitting(files: _Files) -> chain.Head | None:
    """Return the head; after a restart of the system, the one that fits the ledger."""
    head = _head(files.head)
    if head is None or head.boot == _boot():
        return head
    fitting = chain.after_restart(lambda: _octets(files.ledger), head)
    return fitting if fitting is head else fitting._replace(boot=_boot())


def _head(file: io.FileIO) -> chain.Head | None:
    return chain.Head.decode(os.pread(file.fileno(), chain.HEAD_BYTES + 1, 0))


def _write(file: io.FileIO, data: bytes, offset: int | None = None) -> None:
    """Write all data at an offset, or append it; raises OSError."""
    while data:
        number = os.write(file.fileno(), data) if offset is None else os.pwrite(file.fileno(), data, offset)
        data, offset = data[number:], None if offset is None else offset + number


def _read_at(file: io.FileIO, start: int, stop: int) -> bytes:
    return os.pread(file.fileno(), max(stop - start, 0), max(start, 0))


def _octets(file: io.FileIO) -> Iterator[bytes]:
    """Yield all lines as they are in the file."""
    with open(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        yield from reader


def _digest_of_all(file: io.FileIO, end: bytes) -> str:
    """Return the digest of everything in a file and of what is about to end its last line."""
    with open(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        everything = hashlib.file_digest(reader, "sha256")
    everything.update(end)
    return everything.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# The beginning of a line that psicli wrote; the group is its time, to the second.
_BEGINNING = re.compile(rb'\{(?:"event": "[a-z]+", )?"time": "([0-9-]{10}T[0-9:]{8})\+00:00"')


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
                yield offset, None if begins and begins[1] < oldest else parsed(data)


def _recent(file: io.FileIO, event: str, task_sid: str, peer: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of the last two days about this event of this task."""
    for _, line in _lines(file, since=datetime.now(UTC) - 2 * DAY):
        if line is not None and line["event"] == event and (line["task_sid"], line["peer"]) == (task_sid, peer):
            yield line
