"""Record the steps of a run for --trace.

Recording costs almost nothing until start() is called. After that, every thread appends to one list, which is safe
without a lock in CPython. A trace holds names of tasks and nodes, frame numbers and byte counts, which the report holds
too: never an item, a key, a path or what matched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import current_thread
from typing import Any, NamedTuple

# The most events a trace can hold. 10 million items on each side make 40,000 events; this many use about 50 MB.
MAX_EVENTS = 200_000


class _Span(NamedTuple):
    name: str
    began: int
    ended: int
    # How long its thread ran on a core, if that is known [ns].
    computed: int | None
    lane: str
    task: str | None
    frame: int | None


class _Count(NamedTuple):
    name: str
    at: int
    unit: str
    value: int


class Recorder:
    """The events of one run, kept in memory until they are saved."""

    def __init__(self) -> None:
        self.full_at: int | None = None
        self._events: list[_Span | _Count] = []

    def append(self, event: _Span | _Count) -> None:
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        elif self.full_at is None:
            self.full_at = time.perf_counter_ns()

    def to_json(self, party: str) -> Iterator[dict[str, Any]]:
        """Yield the events in Chrome's trace format, with one lane for each thread, and for each lane of `add`."""
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
            times = {"ts": event.began / 1000, "dur": (event.ended - event.began) / 1000}
            if event.computed is not None:
                times["tdur"] = event.computed / 1000
            yield {"ph": "X", "name": event.name, "cat": "psicli", **thread, **times, "args": facts}
        if self.full_at is not None:
            full = f"the trace is full: {MAX_EVENTS} events"
            yield {"ph": "i", "s": "g", "name": full, **process, "tid": 1, "ts": self.full_at / 1000}


_recorder: Recorder | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


def start() -> None:
    """Start to record the steps of this process."""
    global _recorder
    _recorder = Recorder()


def stop() -> Recorder | None:
    """Stop recording; return what was recorded, or None if recording was never started."""
    global _recorder
    recorder, _recorder = _recorder, None
    return recorder


def span(name: str, *, task: str | None = None, frame: int | None = None) -> AbstractContextManager[None]:
    """Record the block as a step of the trace."""
    return _NOTHING if _recorder is None else _spanned(_recorder, name, task, frame)


@contextmanager
def _spanned(recorder: Recorder, name: str, task: str | None, frame: int | None) -> Iterator[None]:
    began, computed = time.perf_counter_ns(), time.thread_time_ns()
    try:
        yield
    finally:
        computed = time.thread_time_ns() - computed
        recorder.append(_Span(name, began, time.perf_counter_ns(), computed, current_thread().name, task, frame))


def add(
    name: str, lane: str, began_ns: int, ended_ns: int, *, task: str | None = None, frame: int | None = None
) -> None:
    """Record a step that took place elsewhere, by this process's `perf_counter_ns`; no two of a lane may overlap."""
    if _recorder is not None:
        _recorder.append(_Span(name, began_ns, ended_ns, None, lane, task, frame))


def count(name: str, unit: str, value: int) -> None:
    """Record the new value of a counter in the trace."""
    if _recorder is not None:
        _recorder.append(_Count(name, time.perf_counter_ns(), unit, value))
