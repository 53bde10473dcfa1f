"""Where a task's time goes: seconds by stage, for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import Lock

from psicli.core.trace import span


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
