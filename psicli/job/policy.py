"""The rules of this party's policy: checks of counts, inputs and backends, and the duration of a run.

psicli checks sizes and runs before it sends any point, and the limits on the result before it sends anything that
depends on a match.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from psicli import curve
from psicli.config import Job, PolicySettings
from psicli.core import signals
from psicli.core.errors import (
    InterruptedBySignal,
    MatchRateError,
    OutputRowsError,
    OwnSizeError,
    PeerSizeError,
    PsicliError,
    StrictError,
    TooManyRunsError,
    TooSmallDifferenceError,
    counted,
)
from psicli.core.records import dataclass
from psicli.items.sketches import Difference, Sketch, Sketches
from psicli.report.console import duration
from psicli.report.report import RR22, whole_percent, without_numbers
from psicli.session.agreement import Deadline

logger = logging.getLogger(__name__)

# Without a limit, psicli warns of an input that differs from an earlier one in fewer items.
DIFFERENCE_TO_WARN_OF = 10


@dataclass(frozen=True)
class Policy:
    """The limits of this party for one task. Every check raises a PolicyError that names the limit and the number."""

    limits: PolicySettings
    task: str

    def check_items(self, items: int) -> None:
        """Check how many distinct items this party has [items]."""
        least = self.limits.min_items
        if least is not None and items < least:
            raise OwnSizeError(task=self.task, items=counted(items, "distinct item"), limit=least)

    def check_peer_items(self, items: int, questions: int, *, store: bool = False) -> None:
        """Check how many distinct items the peer has, and how many it can ask about [items].

        questions: its items including padding; or, with a store, the positions of those that it fills with rr22.
        """
        least, most = self.limits.min_peer_items, self.limits.max_peer_items
        facts = {"task": self.task, "items": counted(items, "distinct item")}
        if least is not None and items < least:
            raise PeerSizeError(**facts, padding="", than="fewer", name="min_peer_items", limit=least)
        if most is not None and questions > most:
            spare = "(rr22: a tenth more and 256 for each bin, the spare positions of its store)"
            more = spare if store else "including padding"
            padding = "" if questions == items else f" and can ask about {questions:,} {more}"
            raise PeerSizeError(**facts, padding=padding, than="more", name="max_peer_items", limit=most)

    def check_runs(self, runs: int) -> None:
        """Check how many runs there were in the 24 hours before this one."""
        most = self.limits.max_runs_per_day
        if most is not None and runs >= most:
            raise TooManyRunsError(task=self.task, runs=counted(runs, "run"), limit=most)

    def check_difference(self, difference: Difference) -> None:
        """Check in how many items the input differs from an earlier one."""
        limit = self.limits.min_difference
        if limit is not None and difference.items < limit:
            raise TooSmallDifferenceError(task=self.task, difference=str(difference), limit=limit)

    def check_match_rate(self, matched: int, own: int) -> None:
        """Check what share of this party's distinct items matched [items]."""
        most = self.limits.max_match_rate
        if most is not None and own and matched / own > most:
            found = f"{whole_percent(matched, own)} %" if self.limits.whole_percent else f"{matched:,}"
            raise MatchRateError(task=self.task, matched=found, own=counted(own, "distinct item"), limit=most)

    def check_output_rows(self, rows: int) -> None:
        """Check how many rows matched, whichever rows the output holds [rows]."""
        least = self.limits.min_output_rows
        if least is not None and rows < least:
            found = "fewer rows matched" if self.limits.whole_percent else f"{counted(rows, 'row')} matched, fewer"
            raise OutputRowsError(task=self.task, found=found, limit=least)

    def told(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what this party wants to be told of the result of the task."""
        return without_numbers(result) if self.limits.whole_percent else result


@dataclass(frozen=True)
class Duration:
    """How long one run may take, and must; it starts now."""

    limits: PolicySettings
    started: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> Deadline:
        most = self.limits.max_duration
        return Deadline() if most is None else Deadline(self.started + most, duration(most))

    @property
    def excess(self) -> str | None:
        """What is wrong if the run has taken longer than the duration that should hide how long it takes."""
        least = self.limits.min_duration
        taken = time.monotonic() - self.started
        if least is None or taken <= least:
            return None
        return (
            f"the run took {duration(taken)}, longer than policy.min_duration, which is {duration(least)}, so its "
            "duration may show how much matched"
        )

    def sit_out(self) -> None:
        """Wait until the run has taken as long as it must; a signal ends the wait, and the run keeps its result."""
        left = self.started + (self.limits.min_duration or 0) - time.monotonic()
        if left > 0:
            logger.info("waiting for %s, so that the run lasts policy.min_duration", duration(left))
            try:
                signals.pause(left)
            except InterruptedBySignal as exc:
                logger.info("%s before policy.min_duration was over", exc.message)


def check_kernels(job: Job) -> str:
    """Check the backends that the tasks use against the policy, then their answers; return their names.

    Raises StrictError if the policy is strict and a backend is not a native one, and SelfCheckError.
    """
    name, used = curve.backend(), [curve.self_test]
    if any(task.protocol == RR22 for task in job.tasks):
        # Imported late: only such a run needs it.
        from psicli import ole

        used.append(ole.self_test)
        if ole.backend() != name:
            name += f" (rr22: {ole.backend()})"
    if job.policy.strict and curve.reference.NAME in name:
        raise StrictError(backend=name)
    for self_test in used:
        self_test()
    return name


class Comparison:
    """Compares the input of a task with those that the same peer has met before, as policy.min_difference says.

    Without a limit it only warns, also if it fails. warn: called with a sentence.
    """

    def __init__(self, sketches: Sketches, policy: Policy, job: str, warn: Callable[[str], None]) -> None:
        self._sketches, self._policy, self._job, self._warn = sketches, policy, job, warn
        self._limit = policy.limits.min_difference
        self._sketch: Sketch | None = None

    def begin(self) -> Sketch | None:
        """Return the sketch that all distinct items of the input must be added to, or None if nothing is compared."""
        if self._limit == 0:
            return None
        with self._tolerant():
            self._sketch = self._sketches.begin()
        return self._sketch

    def check(self) -> None:
        """Compare the input; raises TooSmallDifferenceError."""
        found = None
        with self._tolerant():
            found = None if self._sketch is None else self._sketches.closest(self._sketch)
        if found is not None:
            self._policy.check_difference(found)
            if self._limit is None and found.items < DIFFERENCE_TO_WARN_OF:
                self._warn(f"{found}: whoever sees both results learns about these items (policy.min_difference)")

    def keep(self) -> None:
        """Keep the sketch of the input for later runs: its points may leave from now on."""
        with self._tolerant():
            if self._sketch is not None:
                self._sketches.keep(self._sketch, self._job, self._policy.task)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except PsicliError as exc:
            if self._limit is not None:
                raise
            self._warn(f"psicli cannot compare this input with earlier ones: {exc.message}")
