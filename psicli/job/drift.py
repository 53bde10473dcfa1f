"""How far a run is from the earlier runs of its task, and what policy.max_drift says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from psicli.config import Job
from psicli.core.errors import DriftError, PsicliError, counted
from psicli.core.records import dataclass
from psicli.report.history.bands import WINDOW, Judged, Measure, judge
from psicli.report.history.series import Night, series_of
from psicli.report.history.text.words import found_and_usual, rounded_facts
from psicli.report.report import TaskReport, whole_percent
from psicli.storage.ledger import History, Ledger, Wanted

# What policy.max_drift may refuse, and a user may accept.
ACCEPTABLE = (Measure.ROWS, Measure.DISTINCT_ITEMS, Measure.PEER_ITEMS, Measure.RATE)
# How many earlier runs of a task are read: those of a window, and some that have failed or were outside.
_RUNS = WINDOW + 28


@dataclass(frozen=True)
class Past:
    """The earlier runs of a job's tasks; read once, when the first task needs them. A simulation has none.

    accept: the measures that the user accepts outside their usual ranges in this run.
    """

    job: Job
    ledger: Ledger
    accept: frozenset[Measure] = frozenset()

    @cached_property
    def _nights(self) -> Mapping[str, Sequence[Night]]:
        if self.job.simulated:
            return {}
        job = self.job
        wanted = Wanted(job.name, job.party, job.peer, [task.name for task in job.tasks], _RUNS)
        # Lines of older versions do not name the party.
        nights: dict[str, list[Night]] = {}
        for each in series_of(History(self.ledger.last_tasks(wanted))):
            nights.setdefault(each.task, []).extend(each.nights)
        return nights

    def nights(self, task: str) -> Sequence[Night]:
        """Return the earlier runs of a task with the same peer, oldest first."""
        return self._nights.get(task, ())


class Drift:
    """Compares one task with its earlier runs; each check adds what is outside to the report and warns of it.

    With policy.max_drift, a check raises DriftError for what is further away than that, unless the user accepts it.
    warn: called with a sentence.
    """

    def __init__(self, past: Past, entry: TaskReport, warn: Callable[[str], None]) -> None:
        self._past, self._entry, self._warn = past, entry, warn
        self._policy, self._peer = past.job.policy, past.job.peer

    def check_own(self) -> None:
        """Compare the rows and the distinct items of the input."""
        self._check(rows=self._entry.rows, distinct_items=self._entry.distinct_items)

    def check_peer(self, items: int) -> None:
        """Compare the number of the peer's distinct items [items]."""
        self._check(peer_items=items)

    def check_rate(self, matched: int) -> None:
        """Compare how much of the input matched [items]."""
        own = self._entry.distinct_items or 0
        rate = matched / own if own else 0.0
        if self._policy.whole_percent:
            # Nothing that anybody sees may depend on more than this.
            rate = whole_percent(matched, own) / 100
        self._check(rate=rate, items=own)

    def check_seconds(self) -> None:
        """Compare how long the task took; this only warns."""
        # A resumed task did only a part of its work, and the time in which its peer was away is no part of it.
        if self._entry.seconds is not None and self._entry.resumed is None:
            self._check(may_fail=False, seconds=self._entry.seconds)

    def _check(self, *, may_fail: bool = True, items: int | None = None, **values: float | None) -> None:
        found = self._judged(items, values)
        refused = {}
        limit = self._policy.max_drift
        for measure, each in found.items():
            if not each.outside:
                continue
            self._entry.drift.append(rounded_facts(measure, each, whole=self._policy.whole_percent))
            if measure in self._past.accept:
                self._entry.drift_accepted.append(measure.value)
            elif may_fail and limit is not None and each.distance > limit:
                refused[measure] = each
                continue
            self._warn(self._words(measure, each))
        if refused:
            raise self._refusal(refused)

    def _refusal(self, refused: Mapping[Measure, Judged]) -> DriftError:
        """Return the error that names everything refused, and the option that accepts it."""
        found = [
            f"{self._words(measure, each)}, a distance of {each.distance:.1f}" for measure, each in refused.items()
        ]
        return DriftError(
            task=self._entry.name,
            found="; ".join(found),
            limit=self._policy.max_drift,
            # What this run accepts already is needed again.
            measures=",".join(each for each in ACCEPTABLE if each in refused or each in self._past.accept),
        )

    def _judged(self, items: int | None, values: Mapping[str, float | None]) -> dict[Measure, Judged]:
        known = {name: value for name, value in values.items() if value is not None}
        try:
            nights = self._past.nights(self._entry.name)
        except PsicliError as exc:
            if self._policy.max_drift is not None:
                raise
            self._warn(f"psicli cannot compare this run with earlier ones: {exc.message}")
            return {}
        return judge(nights, None, items, rounded=self._policy.whole_percent, **known)

    def _words(self, measure: Measure, judged: Judged) -> str:
        text = found_and_usual(measure, judged, self._peer, whole=self._policy.whole_percent)
        return f"{text} (last {counted(judged.band.runs, 'run')})"
