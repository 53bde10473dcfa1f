"""Where a run's time goes: seconds by stage for its report, and with --trace every step of it, as a Chrome trace.

The seconds are always counted; the trace costs next to nothing until start() is called. Then any thread appends to one
list, which the interpreter keeps whole without a lock. A trace names tasks, frames and bytes, all of which the report
has too: never an item, a key, a path or what matched.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from threading import Lock, current_thread
from typing import Any, NamedTuple

from psicli.files import AtomicFile

# What a trace may hold: 10 million items a side make 40,000, and this many take about 50 MB [events].
MAX_EVENTS = 200_000


# Seconds by stage ----------------------------------------------------------------------------------------------


class Stage(StrEnum):
    """What a task's time goes into; the names are the report's."""

    READING = "reading"
    COMPUTING = "computing"
    WAITING_FOR_PEER = "waiting_for_peer"
    WAITING_FOR_ROOM = "waiting_for_room"
    MATCHING = "matching"
    WRITING = "writing"


class Stages:
    """A task's seconds by stage: the time in which at least one thread was at it. For any thread."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._guard = Lock()
        self._at_it = dict.fromkeys(Stage, 0)
        # [ns]; while somebody is at it, less the time at which that began.
        self._total = dict.fromkeys(Stage, 0)

    @contextmanager
    def at(self, stage: Stage, step: str, frame: int | None = None) -> Iterator[None]:
        """Count the block to a stage; the trace shows it as this step."""
        with span(step, task=self._task, frame=frame):
            with self._guard:
                if not self._at_it[stage]:
                    self._total[stage] -= time.perf_counter_ns()
                self._at_it[stage] += 1
            try:
                yield
            finally:
                with self._guard:
                    self._at_it[stage] -= 1
                    if not self._at_it[stage]:
                        self._total[stage] += time.perf_counter_ns()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every stage so far [s]."""
        with self._guard:
            now = time.perf_counter_ns()
            now_of = {stage: now if at_it else 0 for stage, at_it in self._at_it.items()}
            return {stage.value: (total + now_of[stage]) / 1e9 for stage, total in self._total.items()}


def peak_memory() -> int | None:
    """Return the most memory this process has had at once [bytes]: VmHWM, which files mapped into it count to."""
    try:
        with open("/proc/self/status") as status:
            kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(kilobytes) * 1024


# The trace -----------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    name: str
    began: int
    ended: int
    # For how much of it its thread had a core [ns].
    computed: int
    lane: str
    task: str | None
    frame: int | None


class _Count(NamedTuple):
    name: str
    at: int
    unit: str
    value: int


class _Recorder:
    """The events of one run, in memory until they are saved."""

    def __init__(self) -> None:
        self.full_at: int | None = None
        self._events: list[_Span | _Count] = []

    def append(self, event: _Span | _Count) -> None:
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        elif self.full_at is None:
            self.full_at = time.perf_counter_ns()

    def to_json(self, party: str) -> Iterator[dict[str, Any]]:
        """Yield the events as Chrome's tracing knows them; lanes are threads."""
        process = {"pid": os.getpid()}
        lanes: dict[str, int] = {}
        yield {"ph": "M", "name": "process_name", **process, "args": {"name": party}}
        for event in self._events:
            if isinstance(event, _Count):
                facts: dict[str, object] = {event.unit: event.value}
                yield {"ph": "C", "name": event.name, **process, "ts": event.at / 1000, "args": facts}
                continue
            new = event.lane not in lanes
            thread = {**process, "tid": lanes.setdefault(event.lane, len(lanes) + 1)}
            if new:
                yield {"ph": "M", "name": "thread_name", **thread, "args": {"name": event.lane}}
            facts = {name: fact for name, fact in (("task", event.task), ("frame", event.frame)) if fact is not None}
            times = {"ts": event.began / 1000, "dur": (event.ended - event.began) / 1000, "tdur": event.computed / 1000}
            yield {"ph": "X", "name": event.name, "cat": "psicli", **thread, **times, "args": facts}
        if self.full_at is not None:
            full = f"the trace is full: {MAX_EVENTS} events"
            yield {"ph": "i", "s": "g", "name": full, **process, "tid": 1, "ts": self.full_at / 1000}


_recorder: _Recorder | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


def start() -> None:
    """Record from now on what happens in this process."""
    global _recorder
    _recorder = _Recorder()


def save(path: Path, party: str, facts: Mapping[str, str]) -> None:
    """Stop recording and write the trace, with these facts about the run.

    Raises CannotCreateError or StorageError. Times are of the machine's clock, so traces of two parties on one machine
    fit together.
    """
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is None:
        return
    about = {**facts, "full": str(recorder.full_at is not None).lower()}
    with AtomicFile(path) as target:
        target.file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)}, "traceEvents": ['.encode())
        for number, event in enumerate(recorder.to_json(party)):
            target.file.write(f"{',' if number else ''}\n{json.dumps(event)}".encode())
        target.file.write(b"\n]}\n")
        target.publish()


def span(name: str, *, task: str | None = None, frame: int | None = None) -> AbstractContextManager[None]:
    """Show the block in the trace."""
    return _NOTHING if _recorder is None else _spanned(_recorder, name, task, frame)


@contextmanager
def _spanned(recorder: _Recorder, name: str, task: str | None, frame: int | None) -> Iterator[None]:
    began, computed = time.perf_counter_ns(), time.thread_time_ns()
    try:
        yield
    finally:
        computed = time.thread_time_ns() - computed
        recorder.append(_Span(name, began, time.perf_counter_ns(), computed, current_thread().name, task, frame))


def count(name: str, unit: str, value: int) -> None:
    """Show in the trace how large a number is from now on."""
    if _recorder is not None:
        _recorder.append(_Count(name, time.perf_counter_ns(), unit, value))
