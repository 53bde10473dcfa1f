"""Past runs, put in order for pages: each job with its runs, its tasks, and the runs that did not happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime, timedelta

from psicli.core.errors import EXIT_CODES
from psicli.core.records import dataclass
from psicli.report.history.bands import Judged, Measure, judged
from psicli.report.history.gaps import Gap, gaps_between, usual_interval
from psicli.report.history.series import Night, Series, series_of
from psicli.storage.ledger import DONE, FAILED, History

# How many runs of a task are judged, the newest: each takes 0.3 ms, and a task may run every few minutes.
_MOST_JUDGED = 2000


@dataclass(frozen=True)
class PastRun:
    """One run of a job: when it began, its id, and how it ended."""

    time: datetime
    run: str
    outcome: str
    code: int | None = None
    cause: str | None = None

    @property
    def why(self) -> str:
        """Why it failed, in words; else empty."""
        if self.outcome != FAILED:
            return ""
        kind = self.cause or EXIT_CODES.get(self.code or 0, ("", ""))[0] if self.code else self.cause
        return f"{kind or 'failed'} ({self.code})" if self.code else kind or "unknown"


@dataclass(frozen=True)
class PastNight:
    """One run of a task, with the measures that are judged, and whether runs before it did not happen."""

    night: Night
    time: datetime
    measures: dict[Measure, Judged]
    after_gap: bool = False

    @property
    def outside(self) -> list[Measure]:
        return [measure for measure, each in self.measures.items() if each.outside]


@dataclass(frozen=True)
class PastTask:
    """A task and its runs, oldest first."""

    name: str
    nights: list[PastNight]

    @property
    def last_result(self) -> PastNight | None:
        return next((each for each in reversed(self.nights) if each.night.is_done), None)

    def knows(self, name: str) -> bool:
        """Whether any run has a value for a field of Night."""
        return any(getattr(each.night, name) is not None for each in self.nights)


@dataclass(frozen=True)
class PastJob:
    """A job with one peer. interval: the usual time between its runs; None if there is none."""

    name: str
    party: str
    peer: str
    runs: list[PastRun]
    tasks: list[PastTask]
    interval: timedelta | None = None
    gaps: list[Gap] = field(default_factory=list)

    @property
    def last(self) -> PastRun:
        return self.runs[-1]

    @property
    def failed(self) -> list[PastRun]:
        return [run for run in self.runs if run.outcome == FAILED]

    @property
    def missed(self) -> int:
        return sum(gap.runs for gap in self.gaps)

    @property
    def is_late(self) -> bool:
        """Whether a run should have begun since the last one."""
        return any(gap.is_open for gap in self.gaps)


def jobs_of(history: History, now: datetime, since: datetime | None = None, job: str | None = None) -> list[PastJob]:
    """Return the jobs that ran, or one job, in the order in which they first ran.

    since: leave out older runs, which the usual ranges still take into account.
    """
    series = series_of(history, job)
    owners = dict.fromkeys((each.job, each.party, each.peer) for each in series)
    owners |= dict.fromkeys((run.job, run.party, run.peer) for run in history.runs if job in (None, run.job))
    found = [_job(owner, history, [each for each in series if _owner(each) == owner], now, since) for owner in owners]
    return sorted((each for each in found if each.runs), key=lambda each: each.runs[0].time)


def _owner(series: Series) -> tuple[str, str, str]:
    return series.job, series.party, series.peer


def _job(
    owner: tuple[str, str, str], history: History, series: Sequence[Series], now: datetime, since: datetime | None
) -> PastJob:
    runs: dict[str, PastRun] = {}
    for run in history.runs:
        if (run.job, run.party, run.peer) == owner:
            runs[run.run] = PastRun(moment(run.time), run.run, run.outcome, run.code, run.failure)
    for night in (night for each in series for night in each.nights):
        # Lines of older versions name no run.
        runs.setdefault(
            night.run or night.time, PastRun(moment(night.time), night.run, night.outcome, night.code, night.cause)
        )
    ordered = sorted(runs.values(), key=lambda run: run.time)
    interval = usual_interval([run.time for run in ordered if run.outcome == DONE])
    gaps = gaps_between([run.time for run in ordered], interval, now) if interval else []
    within = [run for run in ordered if since is None or run.time >= since]
    gaps = [gap for gap in gaps if since is None or gap.last >= since]
    tasks = [_task(each, gaps, since) for each in series]
    return PastJob(*owner, within, [task for task in tasks if task.nights], interval, gaps)


def _task(series: Series, gaps: Sequence[Gap], since: datetime | None) -> PastTask:
    nights: list[PastNight] = []
    before: datetime | None = None
    older = max(len(series.nights) - _MOST_JUDGED, 0)
    verdicts = [*({} for _ in range(older)), *judged(series.nights[older:])]
    for night, measures in zip(series.nights, verdicts, strict=True):
        time = moment(night.time)
        if since is None or time >= since:
            after_gap = before is not None and any(before < gap.first < time for gap in gaps)
            nights.append(PastNight(night, time, measures, after_gap))
            before = time
    return PastTask(series.task, nights)


def moment(time: str) -> datetime:
    """Return a time of the ledger; `parsed` has checked it."""
    return datetime.fromisoformat(time)
