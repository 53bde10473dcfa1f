"""The runs of each task one after another, as the ledger records them."""

from __future__ import annotations

from dataclasses import field

from psicli.core.records import dataclass
from psicli.storage.ledger import DONE, Entry, History, RunEntry


@dataclass(frozen=True)
class Night:
    """One run of a task. Times are in UTC, as ISO 8601; what is unknown is None.

    outcome: done, failed or unfinished. code, cause: of a failure. rate: the share of this party's distinct items that
    matched, from 0 to 1; with policy.whole_percent it is known in whole percent, and `matched` is not. seconds: of the
    task [s].
    """

    time: str
    run: str
    outcome: str
    code: int | None = None
    cause: str | None = None
    rows: int | None = None
    distinct_items: int | None = None
    peer_items: int | None = None
    matched: int | None = None
    rate: float | None = None
    seconds: float | None = None
    # The measures that the user accepted outside their usual ranges.
    drift_accepted: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.outcome == DONE


@dataclass(frozen=True)
class Series:
    """All runs of one task with one peer, oldest first, also those that ended before they opened it."""

    job: str
    task: str
    party: str
    peer: str
    nights: list[Night] = field(default_factory=list)


def series_of(history: History, job: str | None = None) -> list[Series]:
    """Return the series of all tasks, or of one job, in the order in which they first ran.

    A run of a job that failed before it opened a task counts for each task that the job opened with this peer before.
    """
    found: dict[tuple[str, str, str, str], Series] = {}
    causes = {run.run: run for run in history.runs}
    for record in history.records:
        if isinstance(record, RunEntry):
            if job not in (None, record.job):
                continue
            owner = record.job, record.party, record.peer
            for (of_job, _, party, peer), series in found.items():
                if (of_job, party, peer) == owner:
                    series.nights.append(_unopened(record))
        elif job in (None, record.opening.job):
            opening = record.opening
            key = opening.job, opening.task, opening.party, opening.peer
            found.setdefault(key, Series(*key)).nights.append(_night(record, causes.get(opening.run)))
    return list(found.values())


def _unopened(run: RunEntry) -> Night:
    return Night(run.time, run.run, run.outcome, run.code, run.failure)


def _night(entry: Entry, run: RunEntry | None) -> Night:
    opening = entry.opening
    rate = None if entry.matched_percent is None else entry.matched_percent / 100
    if entry.matched is not None:
        rate = entry.matched / opening.distinct_items if opening.distinct_items else 0.0
    return Night(
        time=entry.time,
        run=opening.run,
        outcome=entry.outcome,
        code=entry.code,
        cause=None if entry.code is None or run is None else run.failure,
        rows=entry.rows,
        distinct_items=opening.distinct_items,
        peer_items=opening.peer_items,
        matched=entry.matched,
        rate=rate,
        seconds=entry.seconds,
        drift_accepted=tuple(entry.drift_accepted or ()),
    )
