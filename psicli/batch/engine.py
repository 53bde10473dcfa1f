"""The loop of a batch: it starts jobs as the machine allows, follows their processes, and retries what may pass.

No order of two parties' lists can lock them up. A job that waits for its peer while others want its place goes back to
the queue after a bounded time. From then on, both parties choose by the clock whom to wait for next (`_turn`), so they
choose the same job.

One thread does everything: the processes do the work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from psicli.batch.admission import doubt_about, is_full, reason_to_wait, settle
from psicli.batch.child import Child
from psicli.batch.machine import Cores, free_memory
from psicli.batch.plan import Limits, Plan, Planned, place_in_words
from psicli.config.fields import is_loopback
from psicli.core import signals
from psicli.core.errors import BusyError, CannotCreateError, InterruptedBySignal, PsicliError, reason
from psicli.core.peer_errors import OtherJobError, PeerLostError
from psicli.report.batch import BatchReport, JobState, State, Watcher
from psicli.report.channel import WAITING
from psicli.storage.files import append_to, save

logger = logging.getLogger(__name__)

# How often the batch looks whether another job may start, and how far the running ones are [s].
TICK = 0.2
# A retry waits twice as long as the one before it, but never longer than this [s].
LONGEST_WAIT = 600.0
# The pause between two attempts of a job whose port another run uses [s].
BUSY_WAIT = 1.0
# How long a process may take to stop after SIGTERM, before it is killed [s].
STOP_TIMEOUT = 20.0
# The pause between two starts: a process that has just begun does not show yet in how busy the cores are [s].
_PACE = 0.2
# How often the batch looks what its processes use of the machine [s].
_WATCH = 0.3
_ANOTHER = "another job has failed"
# What may pass: the peer is gone or late, another run has the port, somebody has ended the process.
_PASSING = {PeerLostError.code, BusyError.code} | {
    128 + each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
}


def run_batch(plan: Plan, limits: Limits, watchers: Sequence[Watcher], report_dir: Path | None = None) -> BatchReport:
    """Run all jobs of a plan, and return the report; failures are in the report.

    watchers: who follows the batch. report_dir: where each job leaves its report and its log, if anywhere. Raises
    BudgetError, before anything starts, if the memory of a job does not fit.
    """
    batch = _Batch(plan, limits, watchers, report_dir)
    try:
        batch.run()
    except InterruptedBySignal as exc:
        batch.stop(f"the batch was {exc.message}", exc.code)
        batch.report.exit_code = exc.code
        batch.report.error = {"class": type(exc).__name__, "code": exc.code, "message": exc.message, "hint": ""}
    finally:
        batch.close()
    return batch.report


def _turn_at(rendezvous: float) -> Callable[[_Entry], bytes]:
    """Return by what the jobs are ordered in the present slot of time: the greatest is next, on both sides.

    It depends on what both parties know of a job. So of the jobs that any two parties still have to run, they agree on
    one, if their clocks agree.
    """
    slot = int(time.time() / rendezvous)

    def turn(entry: _Entry) -> bytes:
        job = entry.planned.job
        known = [slot, job.name, sorted((job.party, job.peer)), job.listener.port_offset, [t.name for t in job.tasks]]
        return hashlib.sha256(json.dumps(known).encode()).digest()

    return turn


def _to_end_of_slot(rendezvous: float) -> float:
    """Return the time to the end of this slot, or of the next one if this one is nearly over [s]."""
    left = rendezvous - time.time() % rendezvous
    return left if left >= rendezvous / 2 else left + rendezvous


def _kind(why: str) -> str:
    return re.sub(r"[0-9.,]+", "#", why)


class _Entry:
    """One job, and when its next process may start."""

    def __init__(self, planned: Planned, memory: int) -> None:
        self.planned = planned
        job, config = planned.job, str(planned.entry.config)
        self.state = JobState(planned.name, job.peer, config, len(job.tasks), memory=memory)
        self.state.is_local = is_loopback(job.listener.host)
        self.child: Child | None = None
        self.not_before = 0.0
        # When the present process has started, has begun to wait for its peer, and has met it.
        self.started = 0.0
        self.waits_since: float | None = None
        self.met: float | None = None
        # Whether its process was ended because another job has failed.
        self.dropped = False
        # When the job stops to wait for its peer, and for its port; a failure begins this anew.
        self.patience_ends: float | None = None
        self.busy_ends: float | None = None


class _Batch:
    def __init__(self, plan: Plan, limits: Limits, watchers: Sequence[Watcher], report_dir: Path | None) -> None:
        self._limits, self._watchers, self._report_dir = limits, watchers, report_dir
        self._began = time.monotonic()
        self._rules, budgets = settle(plan.jobs, limits)
        self._cores = Cores(self._rules.cores)
        self._entries = {each.name: _Entry(each, budgets[each.name]) for each in plan.jobs}
        self._states = [each.state for each in self._entries.values()]
        self._selector = selectors.DefaultSelector()
        # Once a job has missed its peer, the clock decides who is next.
        self._by_the_clock = False
        # When the batch last looked at the cores, and at its processes.
        self._looked = self._watched = 0.0
        # When it last counted how late the peers are.
        self._counted = 0.0
        self._stopping = False
        self.report = BatchReport(
            plan.batch.name,
            self._states,
            datetime.now(UTC).isoformat(timespec="seconds"),
            cores=self._rules.cores,
            memory=self._rules.memory,
            places=self._rules.places,
            remarks=list(plan.remarks),
        )
        if doubt := doubt_about(self._rules):
            self._warn(doubt)

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    @property
    def _running(self) -> list[_Entry]:
        return [each for each in self._entries.values() if each.child is not None]

    def run(self) -> None:
        """Run the batch to its end; raises InterruptedBySignal."""
        while not all(state.is_over for state in self._states):
            self._drop_what_cannot_run()
            while self._start_next():
                pass
            self._attend(TICK)
            if self._limits.deadline is not None and self._now >= self._limits.deadline:
                self.stop("the deadline has passed", BusyError.code)

    def close(self) -> None:
        """End what still runs, and complete the report."""
        if self._running:
            self.stop("the batch has failed")
        self._selector.close()
        report = self.report
        report.seconds = self._now
        report.computed = sum(state.computed for state in self._states)
        report.exit_code = report.exit_code or next((state.exit_code for state in self._states if state.exit_code), 0)

    def stop(self, why: str, code: int | None = None) -> None:
        """End all processes and wait for them; why and code: of all jobs that are not over."""
        self._stopping = True
        for number, patience in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, STOP_TIMEOUT)):
            for entry in self._running:
                assert entry.child is not None
                entry.child.end(number)
            deadline = time.monotonic() + patience
            while self._running and time.monotonic() < deadline:
                self._attend(TICK)
        for state in self._states:
            if not state.is_over:
                state.exit_code = code or state.exit_code
                self._change(state, State.FAILED if state.starts else State.NOT_RUN, why)

    # Which job is next

    def _drop_what_cannot_run(self) -> None:
        failed = any(state.state is State.FAILED for state in self._states)
        for entry in self._entries.values():
            if entry.state.state is State.WAITING and failed and self._limits.fail_fast and not entry.dropped:
                # It might wait for long.
                assert entry.child is not None
                entry.dropped = True
                entry.child.end()
            if entry.state.state is not State.QUEUED:
                continue
            lost = [name for name in entry.planned.after if self._gave_up(name)]
            if lost:
                self._change(entry.state, State.NOT_RUN, f"{lost[0]} {self._entries[lost[0]].state.state}")
            elif failed and self._limits.fail_fast:
                self._change(entry.state, State.NOT_RUN, _ANOTHER)

    def _gave_up(self, name: str) -> bool:
        return name in self._entries and self._entries[name].state.state in (State.FAILED, State.NOT_RUN)

    def _start_next(self) -> bool:
        """Start one job, and return True if one could start now."""
        ready = list(self._ready())
        running = [each.state for each in self._running]
        if not ready or (is_full(running, self._rules) and self._now - self._looked < _PACE):
            return False
        self._looked = self._now
        entry = max(ready, key=_turn_at(self._limits.rendezvous)) if self._by_the_clock else ready[0]
        busy, free = self._cores.look(), free_memory()
        why = reason_to_wait(entry.state.memory, running, self._rules, free=free, busy=busy)
        if why is None:
            self._start(entry)
            return True
        if running:
            self._wait(entry.state, why)
        else:
            # Other programs have the memory; nothing of this batch will release it.
            self._failed(entry, BusyError.code, f"not enough memory: {why}")
        return False

    def _ready(self) -> Iterator[_Entry]:
        """Yield the jobs that only wait for a place, and say why the others wait."""
        taken = {each.planned.place: each.state.name for each in self._running}
        for entry in self._entries.values():
            state = entry.state
            if state.state is not State.QUEUED:
                continue
            if before := [name for name in entry.planned.after if not self._is_done(name)]:
                self._wait(state, f"{', '.join(before)} must be done first")
            elif entry.planned.place in taken:
                job = entry.planned.job
                use = "uses" if job.listens else "uses the connection"
                self._wait(state, f"{taken[entry.planned.place]} {use} {place_in_words(job)}")
            elif entry.not_before <= self._now:
                yield entry

    def _is_done(self, name: str) -> bool:
        # A retry leaves out what is done already.
        return name not in self._entries or self._entries[name].state.state is State.DONE

    def _others_want_its_place(self, entry: _Entry) -> bool:
        """Return whether there is more to do than can be in progress at the same time."""
        rest = [each for each in self._entries.values() if not each.state.is_over]
        return (
            len(rest) > self._rules.places
            or sum(each.state.memory for each in rest) > self._rules.memory
            or any(each is not entry and each.planned.place == entry.planned.place for each in rest)
        )

    # The life of one process

    def _start(self, entry: _Entry) -> None:
        state = entry.state
        if entry.patience_ends is None:
            entry.patience_ends = self._now + entry.planned.job.connect_timeout
        patience = max(entry.patience_ends - self._now, 1.0)
        if self._others_want_its_place(entry):
            patience = min(patience, _to_end_of_slot(self._limits.rendezvous))
        entry.started, entry.waits_since, entry.met = self._now, None, None
        try:
            entry.child = Child(
                entry.planned,
                memory=state.memory,
                rendezvous=patience,
                on_progress=lambda message: self._on_progress(entry, message),
                on_line=lambda level, line: self._said(state, level, line),
                log=self._log_of(state),
            )
        except OSError as exc:
            self._failed(entry, BusyError.code, f"its process cannot start: {reason(exc)}")
            return
        for pipe in entry.child.pipes:
            self._selector.register(pipe, selectors.EVENT_READ, entry)
        state.starts += 1
        state.pid, state.percent, state.task = entry.child.pid, 0, ""
        if state.first_started is None:
            state.first_started = self._now
        self.report.most_jobs = max(self.report.most_jobs, len(self._running))
        self._change(state, State.STARTING, "")

    def _attend(self, seconds: float) -> None:
        """Take what the processes say for up to this time [s], and see which have ended."""
        with signals.allowed():
            ready = self._selector.select(seconds)
        self._count_lateness()
        for key, _ in ready:
            assert key.data.child is not None
            if not key.data.child.read(key.fd):
                self._selector.unregister(key.fd)
        for entry in self._running:
            assert entry.child is not None
            if entry.child.reap():
                self._end(entry, entry.child)
        if self._now - self._watched >= _WATCH:
            self._watched = self._now
            self._watch()
        for watcher in self._watchers:
            watcher.progressed(self._states)

    def _count_lateness(self) -> None:
        """Count the time since the last call for the jobs whose peer is with no job of this batch."""
        passed, self._counted = self._now - self._counted, self._now
        present = {entry.state.peer for entry in self._running if entry.state.state is State.RUNNING}
        for entry in self._running:
            if entry.state.state is State.WAITING and entry.state.peer not in present:
                entry.state.late += passed

    def _watch(self) -> None:
        """See what the processes use of the machine."""
        for entry in self._running:
            assert entry.child is not None
            entry.child.look()
            entry.state.holds = entry.child.holds
        held = sum(each.state.holds for each in self._running)
        self.report.peak_memory = max(self.report.peak_memory, held)

    def _on_progress(self, entry: _Entry, message: Mapping[str, Any]) -> None:
        state = entry.state
        if message.get("state") == WAITING:
            entry.waits_since = self._now
            self._change(state, State.WAITING, "")
            return
        if entry.met is None:
            entry.met = self._now
            self._change(state, State.RUNNING, "")
        state.task, state.percent = str(message.get("task", "")), int(message.get("percent", 0))

    def _end(self, entry: _Entry, child: Child) -> None:
        """Take what an ended process has left, and decide what becomes of its job."""
        for pipe in child.pipes:
            self._selector.unregister(pipe)
        child.close()
        state, entry.child = entry.state, None
        state.seconds += self._now - entry.started
        if entry.waits_since is not None:
            state.waited += (self._now if entry.met is None else entry.met) - entry.waits_since
        state.computed += child.computed
        state.delayed += child.delayed
        state.peak_memory = max(state.peak_memory, child.peak_memory)
        state.pid, state.holds = None, 0
        state.report = child.report()
        self._keep_report(state)
        if child.code == 0:
            state.exit_code, state.percent = 0, 100
            self._change(state, State.DONE, "")
            return
        error = (state.report or {}).get("error") or {}
        if not error or child.code == PsicliError.code:
            for line in child.errors:
                self._said(state, logging.ERROR, line)
        signalled = f"its process was ended by {child.killed_by}" if child.killed_by else ""
        last = child.errors[-1] if child.errors else f"its process ended with {child.code}"
        why = str(error.get("message") or signalled or last)
        if entry.dropped:
            self._change(state, State.NOT_RUN, _ANOTHER)
        elif self._stopping:
            # `stop` says why.
            state.state, state.exit_code = State.STARTING, child.code
        else:
            passes = child.code in _PASSING or child.killed_by is not None
            elsewhere = error.get("class") == OtherJobError.__name__ and len(self._at(entry.planned.place)) > 1
            self._failed(entry, child.code, why, passes=passes, elsewhere=elsewhere)

    def _at(self, place: str) -> list[_Entry]:
        return [each for each in self._entries.values() if each.planned.place == place]

    def _failed(self, entry: _Entry, code: int, why: str, *, passes: bool = True, elsewhere: bool = False) -> None:
        """Put a job back into the queue if its failure may pass, or record that it has failed.

        elsewhere: its peer was at the same place with another job of the two parties.
        """
        state = entry.state
        if elsewhere and self._now < (entry.patience_ends or 0.0) - 1.0:
            self._by_the_clock = True
            for each in self._at(entry.planned.place):
                # All of them, so that the clock chooses among all, as on the other side.
                each.not_before = max(each.not_before, self._now + BUSY_WAIT)
            self._change(state, State.QUEUED, f"{state.peer} is at another job")
            return
        if entry.busy_ends is None:
            entry.busy_ends = self._now + self._limits.lock_timeout
        if entry.met is None and code == PeerLostError.code and self._now < (entry.patience_ends or 0.0) - 1.0:
            self._by_the_clock = True
            self._change(state, State.QUEUED, f"{state.peer} has not come yet")
            return
        if entry.met is None and code == BusyError.code and self._now < entry.busy_ends:
            entry.not_before = self._now + BUSY_WAIT
            self._change(state, State.QUEUED, why)
            return
        state.failures += 1
        wait = min(self._limits.retry_wait * 2 ** (state.failures - 1), LONGEST_WAIT)
        if passes and state.failures <= self._limits.retries:
            entry.not_before = self._now + wait
            entry.patience_ends = entry.busy_ends = None
            self._change(state, State.QUEUED, f"tries again in {wait:.0f} s: {why}")
            return
        state.exit_code = code
        self._change(state, State.FAILED, why)

    # What others see

    def _change(self, state: JobState, new: State, why: str) -> None:
        state.state, state.why = new, why
        if state.is_over:
            state.ended = self._now
        for watcher in self._watchers:
            watcher.changed(state, self._states)

    def _wait(self, state: JobState, why: str) -> None:
        """Say why a job stays in the queue; only another kind of reason is news."""
        if _kind(why) != _kind(state.why):
            self._change(state, State.QUEUED, why)

    def _said(self, state: JobState, level: int, line: str) -> None:
        for watcher in self._watchers:
            watcher.said(state, level, line)

    def _log_of(self, state: JobState) -> IO[bytes] | None:
        if self._report_dir is None:
            return None
        try:
            return append_to(self._report_dir / f"{state.name}.log")
        except CannotCreateError as exc:
            self._warn(exc.message)
        return None

    def _warn(self, text: str) -> None:
        logger.warning("%s", text)
        self.report.warnings.append(text)

    def _keep_report(self, state: JobState) -> None:
        if self._report_dir is None or state.report is None:
            return
        try:
            save(self._report_dir / f"{state.name}.json", json.dumps(state.report, indent=2))
        except PsicliError as exc:
            self._warn(exc.message)
