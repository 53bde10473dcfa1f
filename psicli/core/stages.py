"""How long a task spends in each stage, for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
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


class Stages:
    """The time of a task by stage. A stage's clock runs while at least one thread works on it. Thread-safe."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._guard = Lock()
        # How many threads are in each stage.
        self._threads = dict.fromkeys(Stage, 0)
        # Time so far [ns]; while the clock of a stage runs, its start time is already subtracted.
        self._total = dict.fromkeys(Stage, 0)

    @contextmanager
    def at(self, stage: Stage, step: str, frame: int | None = None) -> Iterator[None]:
        """Add the time of the block to a stage; the trace shows the block as `step`."""
        with span(step, task=self._task, frame=frame):
            with self._guard:
                if not self._threads[stage]:
                    self._total[stage] -= time.perf_counter_ns()
                self._threads[stage] += 1
            try:
                yield
            finally:
                with self._guard:
                    self._threads[stage] -= 1
                    if not self._threads[stage]:
                        self._total[stage] += time.perf_counter_ns()

    def seconds(self) -> dict[str, float]:
        """Return the time spent in every stage so far [s]."""
        with self._guard:
            now = time.perf_counter_ns()
            now_of = {stage: now if threads else 0 for stage, threads in self._threads.items()}
            return {stage.value: (total + now_of[stage]) / 1e9 for stage, total in self._total.items()}
