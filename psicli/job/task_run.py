"""One task, from its input to its output."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psicli import outputs, tables
from psicli.config import InputFiles, Job, Task
from psicli.core import failpoints
from psicli.core.errors import BadInputError, InputMissingError, PsicliError, counted, unexpected
from psicli.core.peer_errors import skip_of_peer
from psicli.core.places import Url
from psicli.core.records import dataclass
from psicli.core.stages import Stage, Stages
from psicli.curve import threads
from psicli.exchange.task_exchange import Prepared, Storage
from psicli.items.partitions import Items, Matches, Partitioner
from psicli.items.sketches import Sketch, Sketches
from psicli.items.spelling import Spellings, unfit_findings
from psicli.job.drift import Drift, Past
from psicli.job.inputs import Inputs, selection
from psicli.job.meeting import protocol
from psicli.job.outputs import Found, TaskOutput, outcome
from psicli.job.policy import Comparison, Duration, Policy
from psicli.job.reading.ahead import Reading
from psicli.job.resume import Mode, Resume
from psicli.protocol.messages import COUNT, RR22, Kept, partition_key
from psicli.protocol.task import Progress, TaskParty
from psicli.report.console import Console
from psicli.report.report import Report, Status, TaskReport, too_little_matched
from psicli.session.live import TaskResult
from psicli.storage.ledger import Ledger, Opening
from psicli.storage.locks import PortLock
from psicli.tables import Input, Source

if TYPE_CHECKING:
    from psicli.ray.connection import Cluster

logger = logging.getLogger(__name__)

# The items of an input, the input after its first reading, and what is unusual about its keys.
_Read = tuple[Items, Input, Spellings]


@dataclass(frozen=True)
class Shared:
    """What all tasks of one run share."""

    job: Job
    inputs: Inputs
    storage: Storage
    ledger: Ledger
    sketches: Sketches
    report: Report
    console: Console
    lock: PortLock
    resume: Mode
    past: Past
    timing: Duration
    # The party's own cluster, whose nodes read inputs that they have.
    cluster: Cluster | None = None


class TaskRun:
    """One task, from its input to its output; the session calls its methods in turn."""

    def __init__(self, shared: Shared, task: Task, entry: TaskReport) -> None:
        self.name = task.name
        self.receives = task.receiver == shared.job.party
        self.broadcast = task.broadcast_result
        self.counts = task.result == COUNT
        self.protocol = protocol(task)
        self.stages = Stages(task.name)
        self._shared = shared
        self._task = task
        self._entry = entry
        self._resume = Resume(shared.resume, shared.job, task, shared.inputs.sources.get(task.name), shared.ledger)
        self._input: Input | None = None
        # The reading of the input that began before the task, or that takes place.
        self._reading: Reading | None = None
        self._output: TaskOutput | None = None
        # The result of a task without an output.
        self._alone = Found()
        # Why this party's keys may not match those that look the same.
        self._causes: list[str] = []
        # The id under which the ledger has the task.
        self._opened_sid = ""
        self._drift = Drift(shared.past, entry, self._warn)
        self._comparison = Comparison(shared.sketches, self._policy, shared.job.name, self._warn)
        # Time spent on the task so far [s]; during the task's turn, the start time of that turn is already subtracted.
        self._seconds = 0.0
        # Why this party leaves the task out, if it does.
        self._fault = shared.inputs.faults.get(task.name)
        if self._fault is not None:
            self._leave_out(self._fault)

    @property
    def is_left_out(self) -> bool:
        """Whether this party leaves the task out."""
        return self._fault is not None

    def read_ahead(self) -> None:
        """Begin to read the input, before the peer is there; only the first task may, since others need the memory."""
        source = self._shared.inputs.sources[self.name]
        # Nodes of a cluster may read it, and what a store sends may cost money.
        if self._shared.cluster is None and not any(isinstance(part.place, Url) for part in source.parts):
            self._reading = self._new_reading()
            self._reading.begin(self._shared.storage.plan.reading)

    def find(self) -> Kept | None:
        """Return what this run could resume from the checkpoint of an earlier run, or None."""
        if self._fault is not None:
            raise self._fault
        return self._resume.find()

    def skip_for(self, failure: BaseException) -> int | None:
        """Return the exit code of a bad input or output without which this party goes on, else None."""
        if not self._shared.job.keep_going:
            return None
        if self._fault is None and isinstance(failure, BadInputError | InputMissingError):
            self._fault = failure
            self._leave_out(failure)
        return failure.code if failure is self._fault else None

    def peer_skips(self, failure_class: int) -> None:
        """Leave the task out because of the peer; raises PeerSkippedError without keep_going."""
        error = skip_of_peer(self.name, failure_class, keep_going=self._shared.job.keep_going)
        if not self._shared.job.keep_going:
            raise error
        self._leave_out(error)

    def _leave_out(self, error: PsicliError) -> None:
        self._shared.report.fail(error)
        self._entry.fail(error)
        self._shared.console.leave_out(self.name)
        logger.warning("skipped: %s", error.message, extra=self._about)

    def settled(self, party: TaskParty) -> None:
        """Apply what both parties have agreed to resume from."""
        self._resume.settle(party.resumption)
        if self._resume.done_before is not None:
            # The input is read later, to write the result, or never.
            self._close_reading()

    def prepare(self, partition_sid: bytes) -> Prepared:
        """Read the whole input and partition its items; raises the first error of the input."""
        started = time.monotonic()
        found, source = self._read(partition_sid)
        checkpoint = self._resume.checkpoint
        checkpoint.confirm(source.identity)
        self._entry.rows, self._entry.matchless_rows = found.rows, found.null_keys
        self._entry.distinct_items = len(found)
        if self._task.output_path is None:
            source.close()
        else:
            read = self._task, source, found
            rules = self._policy, self._drift.check_rate
            self._output = TaskOutput(*read, self._shared.storage, rules, self._entry, checkpoint)
        self._seconds += time.monotonic() - started
        failpoints.hit("input.read")
        return Prepared(found, self._output, checkpoint, strict=self._shared.job.policy.strict)

    def _read(self, partition_sid: bytes) -> tuple[Items, Input]:
        self._phase("reading %s", self._shared.inputs.sources[self.name].name)
        key, sketch = partition_key(partition_sid), self._comparison.begin()
        items, read, spellings = self._read_on_nodes(key, sketch) or self._read_here(key, sketch)
        self._note_keys(read, spellings, items)
        return items, read

    def _opening(self, cores: int = 1) -> Callable[[], Input]:
        """Return a function that opens the input; cores: how many a slow form may use."""
        task, source = self._task, self._shared.inputs.sources[self.name]
        how: dict[str, Any] = {"forms": task.forms, "output": task.output_format, "selection": selection(task)}
        return partial(tables.open_source, source, task.keys, threads=cores, **how)

    def _new_reading(self) -> Reading:
        touched = partial(_last_changes, self._shared.inputs.sources[self.name])
        return Reading(self._opening(threads()), Spellings(self._task.keys, self._task.forms), self.stages, touched)

    def _note_keys(self, source: Input, spellings: Spellings, items: Items) -> None:
        """Report the key columns, their forms, and what is unusual about their values."""
        columns = source.columns
        self._entry.key_columns = spellings.columns(source.schema)
        self._entry.key_form = [form.agreed for form in columns.forms]
        self._entry.unfit_rows = [unfit.count for unfit in columns.unfit]
        self._causes = spellings.causes(source.schema)
        findings = unfit_findings(columns, source.rows, source.unit), spellings.findings(items.null_keys, len(items))
        for finding in chain(*findings):
            if not finding.is_note:
                self._warn(str(finding))

    def _read_on_nodes(self, key: bytes, sketch: Sketch | None) -> _Read | None:
        """Read the input on the nodes of the cluster, if there is one and they can read it."""
        if self._shared.cluster is None:
            return None
        # Imported late, because Ray is an extra and slow to import.
        from psicli.ray.reading import read_on_nodes

        with self.stages.at(Stage.READING, "read input on nodes"):
            read = read_on_nodes(self._shared.cluster, self._opening(), key, sketch)
            if read is not None:
                _, self._input, _ = read
                self._check_unquoted(self._input)
            return read

    def _read_here(self, key: bytes, sketch: Sketch | None) -> _Read:
        storage, visit = self._shared.storage, None if sketch is None else sketch.add
        if self._reading is None or not self._reading.goes_on():
            self._close_reading()
            self._reading = self._new_reading()
        reading = self._reading
        self._seconds += reading.seconds
        with closing(Partitioner(key, storage.spool, storage.plan.reading, visit)) as partitioner:
            with self.stages.at(Stage.READING, "read input"):
                for batch in reading.batches():
                    partitioner.expect(batch.expected_rows)
                    partitioner.add(batch.items)
                self._input = reading.source
                self._check_unquoted(self._input)
            with self.stages.at(Stage.READING, "count items"):
                return partitioner.finish(), self._input, reading.spellings

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _check_unquoted(self, source: Input) -> None:
        if self._task.output_format is not None:
            outputs.check_unquoted(source, self._task.output_format, self._task.output)

    def opening(self, party: TaskParty) -> None:
        """Check the policy on the input and on runs, and record the start of the task in the ledger unless it resumes.

        The peer does not know this party's count yet.
        """
        self._policy.check_items(party.own_count)
        self._drift.check_own()
        self._comparison.check()
        self._open_in_ledger(party)

    def opened(self, party: TaskParty) -> None:
        """Check the policy on sizes, and record the peer's counts in the ledger."""
        self._entry.peer_items, self._entry.peer_questions = party.peer_count, party.questions
        self._entry.bins, self._entry.task_sid = party.number_of_bins, party.partition_sid.hex()
        failpoints.hit("task.admitted")
        if party.resumption is not None:
            self._entry.resumed = party.progress.share
            logger.info("resuming an earlier run at %.0f %%", 100 * self._entry.resumed, extra=self._about)
        if party.completed_before:
            # This party sends no Open.
            self._open_in_ledger(party)
        else:
            self._shared.ledger.meet(
                party.partition_sid.hex(), self._shared.job.peer, party.peer_count, party.questions
            )
        # By rr22, the peer fills a store if it is the receiver.
        store = self._task.protocol == RR22 and not self.receives
        self._policy.check_peer_items(party.peer_count, party.questions, store=store)
        if not party.completed_before:
            self._drift.check_peer(party.peer_count)
        self._comparison.keep()

    def _open_in_ledger(self, party: TaskParty) -> None:
        job = self._shared.job
        self._opened_sid = party.partition_sid.hex()
        opening = Opening(
            job=job.name,
            task=self.name,
            party=job.party,
            peer=job.peer,
            task_sid=self._opened_sid,
            input=_in_ledger(self._task.input),
            keys=self._task.keys,
            distinct_items=party.own_count,
            peer_items=party.peer_count if party.completed_before else None,
            peer_questions=party.questions if party.completed_before else None,
            protocol=self._task.protocol,
        )
        # Without a limit the ledger need not count the runs.
        allow = None if job.policy.max_runs_per_day is None else self._policy.check_runs
        self._shared.ledger.open(opening, allow, resumed=party.resumption is not None)

    def started(self) -> None:
        self._seconds -= time.monotonic()
        if self._entry.error is not None:
            # A skipped task may be the earliest one when the run ends.
            return
        self._entry.status = Status.RUNNING
        if self._entry.distinct_items is not None:
            self._phase("exchanging %s", counted(self._entry.distinct_items, "distinct item"))

    def progress(self, progress: Progress) -> None:
        """Show the progress of the masking on the console and in the lock's record."""
        self._shared.console.progress(self.name, progress)
        own, own_total, peer, peer_total = progress
        self._shared.lock.update(self.name, "exchanging", 100 * (own + peer) // max(own_total + peer_total, 1))

    def exchanged(self, result: TaskResult) -> None:
        entry = self._entry
        entry.peer_items, entry.warning = result.peer_items, result.warning
        entry.bytes_sent, entry.bytes_received = result.message_bytes
        if self._resume.done_before is not None:
            self._take_over(self._resume.done_before)
            self._note_done("done by an earlier run; input and output are unchanged")
        elif self._output is not None and self._output.refusal is not None:
            self._fail(self._output.refusal)
        elif self.broadcast or not self.receives:
            self._done()

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        """Match and write a one-sided result; a failure here neither stops the session nor is visible to the peer."""
        if self._resume.done_before is None:
            self._finish(partial(self._write, matches))

    def finish_count(self, count: Callable[[], int]) -> None:
        """Count the matches of a task whose result is only their number; a failure is as in `finish_alone`."""
        self._finish(partial(self._count, count))

    def _write(self, matches: Callable[[], Matches]) -> None:
        self._phase("matching and writing %s", self._task.output_path)
        found = matches()
        assert self._output is not None
        self._output.check(found)
        with self.stages.at(Stage.WRITING, "write output"):
            self._output.stage(found)
            self._output.publish()

    def _count(self, count: Callable[[], int]) -> None:
        self._phase("counting matches")
        self._alone.matched = count()
        self._policy.check_match_rate(self._alone.matched, self._entry.distinct_items or 0)
        self._drift.check_rate(self._alone.matched)

    def _finish(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._done()
        except PsicliError as exc:
            self._fail(exc)
        except Exception as exc:
            self._fail(unexpected(exc, logger, self._about))

    def close(self) -> None:
        """Report when and how long each stage ran, and remove everything that was written but not published."""
        seconds = self.stages.seconds()
        if any(seconds.values()):
            self._entry.stages = seconds
            self._entry.timeline = self.stages.timeline(self._shared.timing.started)
        self._close_reading()
        if self._input is not None:
            self._input.close()
        if self._output is not None:
            self._output.discard()

    @property
    def _found(self) -> Found:
        return self._alone if self._output is None else self._output.found

    @property
    def _policy(self) -> Policy:
        return Policy(self._shared.job.policy, self.name)

    @property
    def _about(self) -> dict[str, str]:
        """The extra fields of every log line about this task."""
        return {"task": self.name}

    def _done(self) -> None:
        result = outcome(self._entry, self._found)
        self._take_over(result)
        if self._output is None:
            # With an output, publish() has already done this.
            self._resume.checkpoint.conclude(self._policy.told(result))
        self._entry.seconds = self._seconds + time.monotonic()
        self._drift.check_seconds()
        self._note_done("done in %.1f s", self._entry.seconds)

    def _take_over(self, result: Mapping[str, Any]) -> None:
        """Copy a result of this run or of an earlier one into the report."""
        for name, value in self._policy.told(result).items():
            setattr(self._entry, name, value)

    def _note_done(self, text: str, *facts: object) -> None:
        self._entry.status = Status.DONE
        hint = too_little_matched(self._entry, self._shared.job.peer, self._causes)
        if hint is not None:
            self._warn(hint)
        self._note_end(None)
        self._phase(text, *facts)

    def _warn(self, text: str) -> None:
        logger.warning("%s", text, extra=self._about)
        self._entry.warnings.append(text)

    def _fail(self, error: PsicliError) -> None:
        self._entry.fail(error)
        self._note_end(error)
        self._shared.report.fail(error)

    def end(self) -> None:
        """Close the task in the ledger, and release or remove its checkpoint."""
        report = self._shared.report
        error = report.ended_by or self._entry.error or report.error
        self._note_end(error)
        try:
            self._resume.checkpoint.end(error)
        except PsicliError as exc:
            self._shared.report.fail(exc)

    def _note_end(self, error: PsicliError | None) -> None:
        """Close the task in the ledger, unless it is already closed or was never opened."""
        try:
            found = self._found if self._entry.matched is None else Found(self._entry.matched)
            told = self._policy.told(outcome(self._entry, found))
            counts = told["matched"], told.get("matched_percent") if told["matched"] is None else None
            entry = self._entry
            close = partial(
                self._shared.ledger.close, rows=entry.rows, seconds=entry.seconds, drift_accepted=entry.drift_accepted
            )
            close(self._opened_sid, error, *counts, entry.output_sha256)
        except PsicliError as exc:
            # By now the output is in place, or the task has already failed for a more important reason.
            logger.warning("%s", exc.message, extra=self._about)

    def _phase(self, text: str, *facts: object) -> None:
        self._shared.lock.update(self.name, text.split()[0], 0)
        logger.info(text, *facts, extra=self._about)


def _in_ledger(files: InputFiles) -> str:
    """Return what the ledger calls an input: absolute paths."""
    if files.query is not None:
        return "duckdb:" + "".join(os.path.abspath(str(each)) for each in files.paths)
    return ", ".join(os.path.abspath(each) if isinstance(each, Path) else str(each) for each in files.paths)


def _last_changes(source: Source) -> list[int]:
    """Return when each file of this machine was last changed in any way, also in its name or rights [ns]."""
    return [os.stat(part.place).st_ctime_ns for part in source.parts if isinstance(part.place, Path)]
