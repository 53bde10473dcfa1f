"""When and how long a task is in each stage, for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from operator import itemgetter
from threading import Lock

from psicli.core.trace import span


class Stage(StrEnum):
    """A stage of a task, as the report names it."""

    READING = "reading"
    COMPUTING = "computing"
    WAITING_FOR_PEER = "waiting_for_peer"
    WAITING_FOR_ROOM = "waiting_for_room"
    MATCHING = "matching"
    WRITING = "writing"


# The most intervals of each stage that a timeline holds.
MAX_INTERVALS = 12
# Shorter breaks of a stage do not show in a timeline: a share of the time that it spans.
INVISIBLE = 1 / 500


class _Clock:
    """The clock of one stage, which runs while at least one thread is in it. Times are in nanoseconds."""

    def __init__(self) -> None:
        self.threads = 0
        self._began = 0
        self._total = 0
        # When it ran, without its shortest breaks.
        self._ran: list[tuple[int, int]] = []

    def enter(self) -> None:
        if not self.threads:
            self._began = time.monotonic_ns()
        self.threads += 1

    def leave(self) -> None:
        self.threads -= 1
        if not self.threads:
            now = time.monotonic_ns()
            self._total += now - self._began
            self._ran.append((self._began, now))
            if len(self._ran) > MAX_INTERVALS:
                _skip_break(self._ran, min(range(MAX_INTERVALS), key=lambda each: _break(self._ran, each)))

    def total(self, now: int) -> int:
        return self._total + (now - self._began if self.threads else 0)

    def ran(self, now: int, least: float) -> list[tuple[int, int]]:
        """Return when it ran, without breaks that are shorter than `least`."""
        found = [*self._ran, (self._began, now)] if self.threads else self._ran[:]
        for each in reversed(range(len(found) - 1)):
            if _break(found, each) < least:
                _skip_break(found, each)
        return found


def _break(ran: list[tuple[int, int]], number: int) -> int:
    return ran[number + 1][0] - ran[number][1]


def _skip_break(ran: list[tuple[int, int]], number: int) -> None:
    ran[number : number + 2] = [(ran[number][0], ran[number + 1][1])]


class Stages:
    """The time of a task by stage. Thread-safe."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._guard = Lock()
        self._clocks = {stage: _Clock() for stage in Stage}

    @contextmanager
    def at(self, stage: Stage, step: str, frame: int | None = None) -> Iterator[None]:
        """Add the time of the block to a stage; the trace shows the block as `step`."""
        clock = self._clocks[stage]
        with span(step, task=self._task, frame=frame):
            with self._guard:
                clock.enter()
            try:
                yield
            finally:
                with self._guard:
                    clock.leave()

    def seconds(self) -> dict[str, float]:
        """Return the time spent in every stage so far [s]."""
        with self._guard:
            now = time.monotonic_ns()
            return {stage.value: clock.total(now) / 1e9 for stage, clock in self._clocks.items()}

    def timeline(self, start: float) -> list[tuple[str, float, float]]:
        """Return when each stage ran so far: its name, its begin and its end since `start` [s], in order of begin.

        start: a moment of time.monotonic() [s]. The shortest breaks of a stage are left out, so that it has at most
        about MAX_INTERVALS intervals, however long the run is; `seconds` is exact.
        """
        with self._guard:
            now = time.monotonic_ns()
            least = (now - start * 1e9) * INVISIBLE
            ran = [(stage.value, *each) for stage, clock in self._clocks.items() for each in clock.ran(now, least)]
        return [(name, begin / 1e9 - start, end / 1e9 - start) for name, begin, end in sorted(ran, key=itemgetter(1))]
