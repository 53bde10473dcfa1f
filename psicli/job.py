"""One run, from the job to its report; read run_job from top to bottom."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from psicli import __version__, curve, items, signals, tables
from psicli.config import Job, Task
from psicli.errors import InternalError, InterruptedBySignal, PsicliError, StorageError, shown
from psicli.files import AtomicFile, FileFormat, check_writable, file_format
from psicli.items import ItemSet
from psicli.link import Dialer, Listener, TlsCredentials
from psicli.protocol import TaskTerms
from psicli.report import Report, Status, TaskReport
from psicli.session import Session, TaskResult, Terms, open_session
from psicli.spool import Mask
from psicli.tables import InputTable

logger = logging.getLogger(__name__)

STDIO = "-"
# How long a side that fails before the session waits for the peer, to tell it [s].
REFUSAL_TIMEOUT = 5.0


class Hooks(Protocol):
    """What a run tells while it runs, from any thread; the console and the lock's record show it."""

    def phase(self, task: str, phase: str) -> None:
        """Tell what a task is at."""

    def progress(self, task: str, done: int, total: int) -> None:
        """Tell how much of a task's masking is through [frames]."""


def run_job(job: Job, hooks: Hooks) -> Report:
    """Run every task of the job with the peer and report; a failure ends up in the report, not in an exception.

    The caller holds the lock of the job's port or address.
    """
    started = time.monotonic()
    report = _blank_report(job)
    try:
        with ExitStack() as stack:
            _keep_secrets_in_memory()
            curve.set_threads(job.pipeline.threads)
            curve.self_test()
            meeting = stack.enter_context(_meeting_point(job))
            sources = _checked_sources(job, meeting, stack)
            runs = [TaskRun(job, *pair, report, hooks) for pair in zip(job.tasks, sources, strict=True)]
            for run in runs:
                stack.callback(run.discard)
            session = stack.enter_context(_session(job, meeting, report))
            session.agree()
            session.run(runs)
    except PsicliError as exc:
        report.fail(exc)
    except Exception as exc:
        logger.exception("unexpected failure")
        report.fail(unexpected(exc))
    report.close(time.monotonic() - started)
    return report


def _keep_secrets_in_memory() -> None:
    """Turn core dumps off: whoever finds a scalar in one and has the points that were sent can guess every item."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def unexpected(exc: Exception) -> InternalError:
    return InternalError(detail=f"an unexpected {type(exc).__name__}")


def _blank_report(job: Job) -> Report:
    tasks = [TaskReport(task.name, task.receiver, task.broadcast_result) for task in job.tasks]
    return Report(job.name, job.party, job.peer, __version__, curve.backend(), tasks)


# Before the session --------------------------------------------------------------------------------------------


@contextmanager
def _meeting_point(job: Job) -> Iterator[Listener | Dialer]:
    """Hold the port, or get ready to dial; nothing has been read yet."""
    tls = None
    if job.tls is not None:
        tls = TlsCredentials.load(job.tls.ca_file, job.tls.certificate_file, job.tls.private_key_file)
    meeting: Listener | Dialer
    if job.listens:
        assert job.listener.listen_host is not None
        assert job.listener.listen_port is not None
        meeting = Listener(job.listener.listen_host, job.listener.listen_port, job.peer, tls)
        logger.info("listening on %s for %s", meeting.where, job.peer)
    else:
        interval = job.link.connect_retry_interval_ms / 1000
        meeting = Dialer(job.listener.host, job.listener.port, job.peer, tls, interval)
        logger.info("connecting to %s at %s", job.peer, meeting.where)
    try:
        yield meeting
    finally:
        meeting.close()


@dataclass(frozen=True)
class Source:
    """Where a task's input really lies, and what it is called in messages."""

    path: Path
    name: str
    format: FileFormat


def _checked_sources(job: Job, meeting: Listener | Dialer, stack: ExitStack) -> list[Source]:
    """Check what can be checked without reading whole files; tell the peer if this side cannot go on."""
    try:
        sources = [_source(task, stack) for task in job.tasks]
        for task, source in zip(job.tasks, sources, strict=True):
            output = None if task.output_path is None else file_format(task.output_path)
            with signals.allowed():
                tables.check_input(source.path, source.format, task.keys, output=output, name=source.name)
            if isinstance(task.output_path, Path):
                check_writable(task.output_path)
    except InterruptedBySignal:
        raise
    except PsicliError as exc:
        logger.info("cannot start; telling %s", job.peer)
        meeting.refuse(exc.code, REFUSAL_TIMEOUT)
        raise
    return sources


def _source(task: Task, stack: ExitStack) -> Source:
    if isinstance(task.input_path, Path):
        return Source(task.input_path, str(task.input_path), file_format(task.input_path))
    # Standard input is read once and looked at several times.
    try:
        return Source(_spooled_stdin(stack), "standard input", file_format(STDIO))
    except OSError as exc:
        raise StorageError(path="a copy of standard input", reason=(exc.strerror or "unknown").lower()) from exc


def _spooled_stdin(stack: ExitStack) -> Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="psicli-"))
    path = Path(folder) / "stdin.csv"
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as spooled, signals.allowed():
        shutil.copyfileobj(sys.stdin.buffer, spooled)
    return path


def _session(job: Job, meeting: Listener | Dialer, report: Report) -> Session:
    terms = Terms(
        job.party,
        job.peer,
        job.name,
        tuple(TaskTerms(task.name, task.receiver, task.broadcast_result, len(task.keys)) for task in job.tasks),
        job.link.recv_timeout_ms,
    )
    timeout = job.link.connect_retry_times * job.link.connect_retry_interval_ms / 1000
    session = open_session(meeting, terms, timeout=timeout, recv_timeout=job.link.recv_timeout_ms / 1000)
    report.session_id = session.sid.hex()
    report.peer_version = shown(session.peer_version, 40).strip("'")
    logger.info("in session with %s", job.peer)
    return session


# One task ------------------------------------------------------------------------------------------------------


class TaskRun:
    """One task from its input to its output; the session calls its parts when their time has come."""

    def __init__(self, job: Job, task: Task, source: Source, report: Report, hooks: Hooks) -> None:
        self.name = task.name
        self.receives = task.receiver == job.party
        self.broadcast = task.broadcast_result
        self._task = task
        self._source = source
        self._report = report
        self._entry = next(entry for entry in report.tasks if entry.name == task.name)
        self._hooks = hooks
        self._output: TaskOutput | None = None
        self._reading_seconds = 0.0
        self._started = 0.0

    def prepare(self) -> tuple[pa.LargeBinaryArray, TaskOutput | None]:
        """Read the whole input, find its mistakes, and put its distinct items in secret order."""
        started = time.monotonic()
        self._phase("reading %s", self._source.name)
        table = tables.read_input(self._source.path, self._source.format, self._task.keys, name=self._source.name)
        item_set = items.order_secretly(items.encode_items(table.key_texts), os.urandom(items.ORDER_SECRET_BYTES))
        self._entry.rows, self._entry.matchless_rows = table.rows, item_set.matchless
        self._entry.distinct_items = len(item_set.items)
        if self._task.output_path is not None:
            kind = StandardOutput if self._task.output_path == STDIO else TaskOutput
            self._output = kind(self._task.output_path, table, item_set)
        self._reading_seconds = time.monotonic() - started
        return item_set.items, self._output

    def started(self) -> None:
        self._started = time.monotonic()
        self._entry.status = Status.RUNNING
        if self._entry.distinct_items is not None:
            self._phase("exchanging %d distinct items", self._entry.distinct_items)

    def progress(self, done: int, total: int) -> None:
        self._hooks.progress(self.name, done, total)

    def exchanged(self, result: TaskResult) -> None:
        entry = self._entry
        entry.peer_items, entry.warning = result.peer_items, result.warning
        entry.bytes_sent, entry.bytes_received = result.message_bytes
        if self._output is None or self.broadcast:
            self._done()

    def finish_alone(self, matched: Callable[[], Mask]) -> None:
        """Match and write a one-sided result; a failure here neither stops the session nor shows in it."""
        assert self._output is not None
        try:
            self._phase("matching and writing %s", self._output.name)
            self._output.stage(matched())
            self._output.publish()
            self._done()
        except PsicliError as exc:
            self._fail(exc)
        except Exception as exc:
            logger.exception("unexpected failure", extra={"task": self.name})
            self._fail(unexpected(exc))

    def discard(self) -> None:
        """Remove what was written and not published."""
        if self._output is not None:
            self._output.discard()

    def _done(self) -> None:
        entry, output = self._entry, self._output
        if output is not None:
            entry.matched, entry.output_rows, entry.output = output.matched, output.rows, output.name
        # Not what it waited for its turn.
        entry.seconds = self._reading_seconds + time.monotonic() - self._started
        entry.status = Status.DONE
        self._phase("done in %.1f s", entry.seconds)

    def _fail(self, error: PsicliError) -> None:
        self._entry.status = Status.FAILED
        self._report.fail(error)

    def _phase(self, text: str, *facts: object) -> None:
        self._hooks.phase(self.name, text.split()[0])
        logger.info(text, *facts, extra={"task": self.name})


class TaskOutput:
    """Where the matched rows of one task go: a file that appears whole or not at all.

    matched: own items found [items]; rows: rows written.
    """

    def __init__(self, path: Path | str, table: InputTable, item_set: ItemSet) -> None:
        self.name = str(path)
        self.matched = 0
        self.rows = 0
        self._format = file_format(path)
        self._table = table
        self._item_set = item_set
        self._file: AtomicFile | None = None

    def stage(self, matched: Mask) -> None:
        """Write the rows of the matched items [n booleans, secret order] and make them durable."""
        row_mask = pc.fill_null(pc.take(pa.array(matched), self._item_set.row_codes), False)
        self.matched = int(matched.sum())
        self._file = AtomicFile(self._target())
        self.rows = tables.write_output(self._file.file, self._format, self._table, row_mask)
        self._file.seal()

    def publish(self) -> None:
        """Put the staged rows in place."""
        assert self._file is not None
        self._file.publish()

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _target(self) -> Path:
        return Path(self.name)


class StandardOutput(TaskOutput):
    """Rows for standard output: staged in a file first, since a pipe cannot take anything back."""

    def __init__(self, path: Path | str, table: InputTable, item_set: ItemSet) -> None:
        super().__init__(path, table, item_set)
        self._folder = tempfile.TemporaryDirectory(prefix="psicli-")

    def publish(self) -> None:
        super().publish()
        try:
            with open(self._target(), "rb") as staged:
                shutil.copyfileobj(staged, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as exc:
            raise StorageError(path="standard output", reason=(exc.strerror or "unknown").lower()) from exc

    def discard(self) -> None:
        super().discard()
        self._folder.cleanup()

    def _target(self) -> Path:
        return Path(self._folder.name) / "stdout.csv"
