"""One run, from the job to its report; read run_job from top to bottom."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from psicli import __version__, curve, tables
from psicli.config import Job, Task
from psicli.core import failpoints, signals, trace
from psicli.core.errors import (
    CannotCreateError,
    InterruptedBySignal,
    PsicliError,
    StorageError,
    reason,
    shown,
    unexpected,
)
from psicli.core.formats import file_format
from psicli.core.memory import MemoryPlan, peak_memory
from psicli.core.stages import Stage, Stages
from psicli.exchange.pipeline import Prepared, Storage
from psicli.items.encoding import encode_items
from psicli.items.partitions import Matches, Partitioner
from psicli.job.outputs import TaskOutput
from psicli.job.policy import Policy
from psicli.job.resume import Mode, TaskKeeper, sweep
from psicli.protocol.bins import LEAST_BIN_ITEMS, MOST_BIN_ITEMS
from psicli.protocol.messages import Kept, Purpose, TaskTerms, partition_key
from psicli.protocol.task import Progress, TaskParty
from psicli.report.console import Console
from psicli.report.report import Report, Status, TaskReport, what_the_peer_learns
from psicli.report.trace_file import save_trace
from psicli.session.agreement import Terms
from psicli.session.live import TaskResult
from psicli.session.session import Session, open_session
from psicli.storage.files import check_writable
from psicli.storage.ledger import Ledger, Opening
from psicli.storage.locks import PortLock
from psicli.storage.spool import Spool
from psicli.storage.state import run_folder, state_folder
from psicli.tables import Input
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.listener import Listener
from psicli.transport.tls import TlsCredentials, ending

logger = logging.getLogger(__name__)

STDIO = "-"
# glibc's number for how many heaps threads may have.
_M_ARENA_MAX = -8
# How long a side that fails before the session waits for the peer, to tell it [s].
REFUSAL_TIMEOUT = 5.0
# What a report says of a task that another run was through with: what was counted, and what came of it.
COUNTED = ("rows", "distinct_items", "matchless_rows", "peer_items", "peer_questions")
FOUND = ("matched", "output_rows", "output", "output_sha256")


def run_job(
    job: Job, console: Console, lock: PortLock, trace_file: Path | None = None, resume: Mode = Mode.AUTO
) -> Report:
    """Run every task of the job with the peer and report; a failure ends up in the report, not in an exception.

    lock: held by the caller, of the job's port or address; its record shows how far the run is. trace_file: where to
    write a trace of the run, if anywhere. resume: when to continue from what a run that was killed has left.
    """
    started = time.monotonic()
    tasks = [TaskReport(task.name, task.receiver, task.broadcast_result) for task in job.tasks]
    report = Report(job.name, job.party, job.peer, __version__, curve.backend(), tasks)
    ledger = Ledger(state_folder())
    runs: list[TaskRun] = []
    logger.debug("%s", what_the_peer_learns(report))
    try:
        with ExitStack() as stack:
            # No core dumps: whoever finds a scalar in one and has the points that were sent can guess every item.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _share_one_heap()
            curve.set_threads(job.pipeline.threads)
            curve.self_test()
            meeting = stack.enter_context(closing(meeting_point(job, _credentials(job, report))))
            if job.listens:
                logger.info("listening on %s for %s", meeting.endpoint.where, job.peer)
            else:
                logger.info("connecting to %s at %s", job.peer, meeting.endpoint.where)
            paths = _checked_inputs(job, meeting, stack, ledger, trace_file)
            if trace_file is not None:
                trace.start()
            spool = stack.enter_context(Spool(state_folder()))
            stack.callback(_note_disk, report, spool)
            sweep(state_folder())
            storage = Storage(spool, MemoryPlan(job.pipeline.memory))
            shared = Shared(job, storage, ledger, report, console, lock, resume)
            for task, path, entry in zip(job.tasks, paths, tasks, strict=True):
                runs.append(TaskRun(shared, task, path, entry))
                stack.callback(runs[-1].close)
            session = stack.enter_context(_session(job, meeting, storage, report))
            session.agree()
            session.run(runs)
    except PsicliError as exc:
        report.fail(exc)
    except Exception as exc:
        logger.exception("unexpected failure")
        report.fail(unexpected(exc))
    if trace_file is not None:
        try:
            save_trace(trace_file, job.party, {"job": job.name, "party": job.party, "psicli": __version__})
        except PsicliError as exc:
            report.fail(exc)
    report.close(time.monotonic() - started, peak_memory())
    for run in runs:
        run.end(report.error)
    return report


def _share_one_heap() -> None:
    """Let Arrow and all threads take memory from one heap of the C library, before there is another.

    A heap keeps what was once held in it, and so does Arrow's own allocator: together they took up to 130 MB more, and
    saved no time.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _note_disk(report: Report, spool: Spool) -> None:
    report.spool_bytes = spool.peak


# Before the session --------------------------------------------------------------------------------------------


def _credentials(job: Job, report: Report) -> TlsCredentials | None:
    """Read the TLS files; None where the job does without."""
    if job.tls_insecure:
        _warn(report, "tls: insecure: all goes in plain text, and the other side may be anybody")
    credentials = load_credentials(job)
    if credentials is not None:
        _warn(report, ending(credentials.own, f"the certificate in {credentials.certificate_file}", may_last(job)))
    return credentials


def load_credentials(job: Job) -> TlsCredentials | None:
    """Read the TLS files of a job; raises TlsFileError."""
    if job.tls is None:
        return None
    files = job.tls.ca_file, job.tls.certificate_file, job.tls.private_key_file
    return TlsCredentials(*files, own_name=job.tls_name, peer_name=job.peer_tls_name)


def may_last(job: Job) -> float:
    """Return how long a job may take at a guess [s]: until the peer is there, and the longest silence it allows."""
    return _rendezvous(job) + job.link.recv_timeout_ms / 1000


def _rendezvous(job: Job) -> float:
    return job.link.connect_retry_times * job.link.connect_retry_interval_ms / 1000


def _warn(report: Report, warning: str | None) -> None:
    if warning is not None:
        logger.warning("%s", warning)
        report.warnings.append(warning)


def meeting_point(job: Job, credentials: TlsCredentials | None, purpose: Purpose = Purpose.RUN) -> Listener | Dialer:
    """Hold the port, or get ready to dial; nothing has been read yet. Raises PortBusyError, BindError."""
    # A check does not wait for a connection that broke.
    window = job.link.reconnect_window_ms / 1000 if purpose is Purpose.RUN else 0.0
    at, rest = job.listener, (job.peer, credentials, purpose, window)
    if job.listens:
        return Listener(Endpoint(at.listen_host, at.listen_port, *rest))
    return Dialer(Endpoint(at.host, at.port, *rest), job.link.connect_retry_interval_ms / 1000)


def _checked_inputs(
    job: Job, meeting: Listener | Dialer, stack: ExitStack, ledger: Ledger, trace_file: Path | None
) -> list[Path]:
    """Check what can be checked without reading whole files, and return where the inputs really lie.

    Tells the peer if this side cannot go on.
    """
    try:
        if meeting.endpoint.credentials is not None:
            meeting.endpoint.credentials.check_own()
        paths = [_input_path(task, stack) for task in job.tasks]
        for task, path in zip(job.tasks, paths, strict=True):
            output = None if task.output_path is None else file_format(task.output_path)
            with signals.allowed():
                tables.check_input(path, file_format(path), task.keys, output=output, name=_input_name(task))
            if isinstance(task.output_path, Path):
                check_writable(task.output_path)
        ledger.prepare()
        if trace_file is not None:
            _check_trace_file(trace_file, job)
        failpoints.passage("input.checked")
    except InterruptedBySignal:
        raise
    except Exception as exc:
        logger.info("cannot start; telling %s", job.peer)
        meeting.refuse(exc.code if isinstance(exc, PsicliError) else PsicliError.code, REFUSAL_TIMEOUT)
        raise
    return paths


def _check_trace_file(path: Path, job: Job) -> None:
    used = [job.path, *(each for task in job.tasks for each in (task.input_path, task.output_path))]
    if any(isinstance(each, Path) and each.resolve() == path.resolve() for each in used):
        raise CannotCreateError(path=path, reason="the job uses this file itself")
    check_writable(path)


def _input_path(task: Task, stack: ExitStack) -> Path:
    """Return where a task's input lies: standard input, which is read once and looked at several times, in a copy."""
    if isinstance(task.input_path, Path):
        return task.input_path
    try:
        path = stack.enter_context(run_folder(state_folder())) / "stdin.csv"
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as copy, signals.allowed():
            shutil.copyfileobj(sys.stdin.buffer, copy)
    except OSError as exc:
        raise StorageError(path="a copy of standard input", reason=reason(exc)) from exc
    return path


def _input_name(task: Task) -> str:
    """Return what a task's input is called in messages."""
    return "standard input" if task.input_path == STDIO else str(task.input_path)


def terms(job: Job, purpose: Purpose = Purpose.RUN) -> Terms:
    """Return what this side says of the job when it meets the peer."""
    return Terms(
        job.party,
        job.peer,
        job.name,
        tuple(TaskTerms(task.name, task.receiver, task.broadcast_result, len(task.keys)) for task in job.tasks),
        job.link.recv_timeout_ms,
        purpose,
    )


def bin_items(job: Job) -> int:
    """Return the most items a bin that this side can hold, a power of two [items]."""
    return job.pipeline.bin_items or MemoryPlan(job.pipeline.memory).bin_items(LEAST_BIN_ITEMS, MOST_BIN_ITEMS)


def _session(job: Job, meeting: Listener | Dialer, storage: Storage, report: Report) -> Session:
    session = open_session(
        meeting,
        terms(job),
        timeout=_rendezvous(job),
        depth=job.pipeline.depth,
        frame_items=job.pipeline.frame_items,
        bin_items=bin_items(job),
        storage=storage,
    )
    if session.peer_certificate is not None:
        _warn(report, ending(session.peer_certificate, f"{job.peer}'s certificate", may_last(job)))
    report.session_id = session.sid.hex()
    report.peer_version = shown(session.peer_version, 40).strip("'")
    logger.info("in session with %s", job.peer)
    return session


# One task ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """What the tasks of one run have in common."""

    job: Job
    storage: Storage
    ledger: Ledger
    report: Report
    console: Console
    lock: PortLock
    resume: Mode


class TaskRun:
    """One task from its input to its output; the session calls its parts when their time has come."""

    def __init__(self, shared: Shared, task: Task, path: Path, entry: TaskReport) -> None:
        self.name = task.name
        self.receives = task.receiver == shared.job.party
        self.broadcast = task.broadcast_result
        self.stages = Stages(task.name)
        self._shared = shared
        self._task = task
        self._policy = Policy(shared.job.policy, task.name)
        self._path = path
        self._entry = entry
        self._keeper = TaskKeeper(shared.resume, shared.job, task, shared.ledger, self._outcome)
        # What an earlier run came to that was done with the task, where the peer agrees.
        self._done_before: Mapping[str, Any] | None = None
        self._input: Input | None = None
        self._output: TaskOutput | None = None
        self._extra = {"task": task.name}
        self._reading_seconds = 0.0
        self._started = 0.0

    def find(self) -> Kept | None:
        """Return what an earlier run has left of the task, where this one may continue from it."""
        return self._keeper.find()

    def settled(self, party: TaskParty) -> None:
        """Take note of what both sides have decided to continue from."""
        self._keeper.settle(resumed=party.resumption is not None)
        if party.resumption is not None and party.resumption.complete:
            self._done_before = self._keeper.result

    def prepare(self, partition_sid: bytes) -> Prepared:
        """Read the whole input, find its mistakes, and cut its items into bins."""
        started = time.monotonic()
        task, storage, name = self._task, self._shared.storage, _input_name(self._task)
        self._phase("reading %s", name)
        with self.stages.at(Stage.READING, "read input"):
            self._input = tables.open_input(self._path, file_format(self._path), task.keys, name=name)
            partitioner = Partitioner(partition_key(partition_sid), storage.spool, storage.plan.reading)
            for key_texts in self._input.key_batches():
                partitioner.expect(self._input.expected_rows)
                partitioner.add(encode_items(key_texts))
        with self.stages.at(Stage.READING, "count items"):
            found = partitioner.finish()
        self._keeper.confirm(self._input.identity)
        self._entry.rows, self._entry.matchless_rows = found.rows, found.null_keys
        self._entry.distinct_items = len(found)
        if task.output_path is None:
            self._input.close()
        else:
            where = task.output_path, self._input, found, storage, self._policy
            self._output = TaskOutput(*where, receives=self.receives)
        self._reading_seconds = time.monotonic() - started
        failpoints.passage("input.read")
        return Prepared(found, self._output, self._keeper)

    def opened(self, party: TaskParty) -> None:
        """Check the policy on sizes and runs, and note in the ledger that the task begins, unless it is resumed."""
        self._entry.peer_items, self._entry.peer_questions = party.peer_count, party.questions
        self._entry.bins = party.number_of_bins
        failpoints.passage("task.admitted")
        self._policy.check_peer_items(party.peer_count, party.questions)
        self._entry.task_sid = party.partition_sid.hex()
        resumed = party.resumption is not None
        if resumed:
            self._entry.resumed = party.progress.share
            logger.info("continues from %.0f %% of an earlier run", 100 * self._entry.resumed, extra=self._extra)
        path, job = self._task.input_path, self._shared.job
        opening = Opening(
            job=job.name,
            task=self.name,
            peer=job.peer,
            task_sid=self._entry.task_sid,
            input=STDIO if path == STDIO else os.path.abspath(path),
            keys=self._task.keys,
            distinct_items=party.own_count,
            peer_items=party.peer_count,
            peer_questions=party.questions,
        )
        # The ledger need not count runs that nobody limits.
        allow = None if job.policy.max_runs_per_day is None else self._policy.check_runs
        self._shared.ledger.open(opening, allow, resumed=resumed)

    def started(self) -> None:
        self._started = time.monotonic()
        self._entry.status = Status.RUNNING
        if self._entry.distinct_items is not None:
            self._phase("exchanging %d distinct items", self._entry.distinct_items)

    def progress(self, progress: Progress) -> None:
        """Show how far the masking is, on the console and in the record of the lock."""
        self._shared.console.progress(self.name, progress)
        own, own_total, peer, peer_total = progress
        self._shared.lock.update(self.name, "exchanging", 100 * (own + peer) // max(own_total + peer_total, 1))

    def exchanged(self, result: TaskResult) -> None:
        entry = self._entry
        entry.peer_items, entry.warning = result.peer_items, result.warning
        entry.bytes_sent, entry.bytes_received = result.message_bytes
        if self._done_before is not None:
            self._take_over(self._done_before)
            self._note_done("done by an earlier run; input and output are unchanged")
        elif self._output is not None and self._output.refusal is not None:
            self._fail(self._output.refusal)
        elif self.broadcast or not self.receives:
            self._done()

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        """Match and write a one-sided result; a failure here neither stops the session nor shows in it."""
        if self._done_before is not None:
            return
        try:
            self._phase("matching and writing %s", self._task.output_path)
            found = matches()
            assert self._output is not None
            self._output.check(found)
            with self.stages.at(Stage.WRITING, "write output"):
                self._output.stage(found)
                self._output.publish()
            self._done()
        except PsicliError as exc:
            self._fail(exc)
        except Exception as exc:
            logger.exception("unexpected failure", extra=self._extra)
            self._fail(unexpected(exc))

    def close(self) -> None:
        """Note where the time went, and remove what was written and not published."""
        seconds = self.stages.seconds()
        if any(seconds.values()):
            self._entry.stages = seconds
        if self._input is not None:
            self._input.close()
        if self._output is not None:
            self._output.discard()

    def _done(self) -> None:
        outcome = self._outcome()
        assert outcome is not None
        self._take_over(outcome)
        self._keeper.conclude()
        # Not what it waited for its turn.
        self._entry.seconds = self._reading_seconds + time.monotonic() - self._started
        self._note_done("done in %.1f s", self._entry.seconds)

    def _take_over(self, outcome: Mapping[str, Any]) -> None:
        """Report what the task came to, in this run or in an earlier one."""
        for name in COUNTED + FOUND:
            setattr(self._entry, name, outcome[name])

    def _note_done(self, text: str, *facts: object) -> None:
        self._entry.status = Status.DONE
        self._note_end(None)
        self._phase(text, *facts)

    def _outcome(self) -> Mapping[str, Any] | None:
        """Return what is to be reported of the task if another run takes it over; None if its output was refused."""
        output = self._output
        if output is not None and output.refusal is not None:
            return None
        found = [None] * len(FOUND) if output is None else [output.matched, output.rows, output.name, output.sha256]
        return {name: getattr(self._entry, name) for name in COUNTED} | dict(zip(FOUND, found, strict=True))

    def _fail(self, error: PsicliError) -> None:
        self._entry.status = Status.FAILED
        self._note_end(error)
        self._shared.report.fail(error)

    def end(self, error: PsicliError | None) -> None:
        """Close the ledger's entry and leave or remove what is kept; error: why the run failed."""
        self._note_end(error)
        try:
            self._keeper.end(error)
        except PsicliError as exc:
            self._shared.report.fail(exc)

    def _note_end(self, error: PsicliError | None) -> None:
        """Close the task in the ledger, unless it is closed or was never opened there."""
        try:
            matched = self._entry.matched if self._output is None else self._output.matched
            self._shared.ledger.close(self._entry.task_sid or "", error, matched, self._entry.output_sha256)
        except PsicliError as exc:
            # What the task was for is in place, or has failed for a better reason.
            logger.warning("%s", exc.message, extra=self._extra)

    def _phase(self, text: str, *facts: object) -> None:
        self._shared.lock.update(self.name, text.split()[0], 0)
        logger.info(text, *facts, extra=self._extra)
