"""The page of past runs: how each job ended, what matched, and what is unusual, run by run over real time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup

from psicli.core.errors import counted
from psicli.core.records import dataclass
from psicli.report.history.bands import Judged, Measure
from psicli.report.history.jobs import PastJob, PastNight, PastRun, PastTask
from psicli.report.pages.past.curves import Curve, Point, Span, backdrop, curve, strip
from psicli.report.pages.render import NOTHING, count, percent, render, seconds
from psicli.report.pages.tables import Cell, Column
from psicli.storage.ledger import DONE, FAILED

# The size of a page is bounded: so many points of all lines together, but at least these for each; so many rows of all
# tables of runs. With more tasks, there are two pictures of each and no table.
_POINTS, _LEAST_POINTS = 16_000, 30
_ROWS = 1_200
_TASKS = 30
# How many warnings of the last run of a job are shown, and how many of its runs that were unusual.
_WARNINGS, _UNUSUAL = 10, 20

# A picture of fewer numbers would show nothing but its edges.
_LEAST_DRAWN = 3

# The states of how a run ended.
_STATES = {DONE: "good", FAILED: "bad"}
# What is known of a run that has no end in the ledger.
RUNNING = "still running, or killed"


@dataclass(frozen=True)
class _Number:
    """A number of each run: the field of Night, its name, and how it is written."""

    field: str
    title: str
    text: Callable[[Any], str]

    @property
    def measure(self) -> Measure | None:
        return Measure(self.field) if self.field in list(Measure) else None


_NUMBERS = (
    _Number("matched", "matched keys", count),
    _Number("rate", "match rate", percent),
    _Number("rows", "own rows", count),
    _Number("distinct_items", "own distinct keys", count),
    _Number("peer_items", "the peer's distinct keys", count),
    _Number("seconds", "seconds", seconds),
)


def history_page(
    jobs: Sequence[PastJob],
    now: datetime,
    reports: Callable[[str], dict[str, Any] | None] = lambda _: None,
    links: Callable[[str], str | None] = lambda _: None,
) -> str:
    """Return the page. jobs: at least one; reports: the kept report of a run; links: where the page of a run is."""
    tasks = sum(len(job.tasks) for job in jobs) or 1
    most = max(_POINTS // (12 * tasks), _LEAST_POINTS)
    rows = 0 if tasks > _TASKS else _ROWS // tasks
    several = len(jobs) > 1
    title, state = verdict(jobs)
    return render(
        "past/history.html.j2",
        styles=("past/past.css.j2",),
        title=title,
        state=state,
        name="all jobs" if several else jobs[0].name,
        first=_day(min(job.runs[0].time for job in jobs)),
        last=_day(max(job.last.time for job in jobs)),
        made=_minute(now),
        is_brief=not rows,
        numbers=_totals(jobs),
        columns=_SUMMARY,
        cause_columns=_cause_columns,
        unusual_columns=[Column("run"), Column("task"), Column("outside the usual range")],
        summary=[row for number, job in enumerate(jobs, 1) for row in _summary(job, f"job-{number}", several)],
        jobs=[_job(job, f"job-{number}", now, most, rows, reports, links) for number, job in enumerate(jobs, 1)],
    )


def verdict(jobs: Sequence[PastJob]) -> tuple[str, str]:
    """Return a sentence about the last runs, and its state."""
    one = jobs[0].name if len(jobs) == 1 else ""

    def some(number: int) -> str:
        return one or f"{number} of {counted(len(jobs), 'job')}"

    failed = sum(job.last.outcome == FAILED for job in jobs)
    open_ended = sum(job.last.outcome not in (DONE, FAILED) for job in jobs)
    late = sum(job.is_late for job in jobs)
    strange = sum(bool(task.nights[-1].outside) for job in jobs for task in job.tasks)
    parts = []
    if failed:
        parts.append(f"the last run of {some(failed)} failed")
    if late:
        parts.append(f"{some(late)} did not run when it should have")
    if open_ended:
        parts.append(f"the last run of {some(open_ended)} is still running, or was killed")
    if strange:
        parts.append(f"{counted(strange, 'task')} outside the usual range")
    if not parts:
        parts.append(f"the last run of {one or 'every job'} is done")
    text = "; ".join(parts)
    state = "bad" if failed or late else "warn" if open_ended or strange else "good"
    # The name of a job keeps its letters.
    return re.sub("^the ", "The ", text), state


def _totals(jobs: Sequence[PastJob]) -> list[tuple[str, str]]:
    runs = sum(len(job.runs) for job in jobs)
    failed = sum(len(job.failed) for job in jobs)
    tasks = sum(len(job.tasks) for job in jobs)
    counts = [("job", len(jobs)), ("task", tasks), ("run", runs)]
    totals = [(noun if number == 1 else f"{noun}s", number) for noun, number in counts] + [("failed", failed)]
    totals.append(("did not run", sum(job.missed for job in jobs)))
    totals.append(("unusual", sum(bool(each.outside) for job in jobs for task in job.tasks for each in task.nights)))
    return [(label, count(number)) for label, number in totals]


_SUMMARY = [
    Column("task"),
    Column("last run"),
    Column("runs", number=True),
    Column("failed", number=True),
    Column("did not run", number=True),
    Column("matched", number=True),
    Column("rate", number=True),
    Column("usual rate", number=True),
    Column("outside the usual range"),
]


def _summary(job: PastJob, anchor: str, several: bool) -> list[list[str | Cell]]:
    """Return a row for each task; for a job that never opened one, a row for itself."""
    below = f"{job.name}, {job.party} with {job.peer}" if several else ""
    if not job.tasks:
        name = Cell(job.name, below="no task was opened", href=anchor)
        return [[name, _ended(job.last), *_counts(job.runs, len(job.failed), job.missed), *[NOTHING] * 4]]
    rows: list[list[str | Cell]] = []
    for number, task in enumerate(job.tasks, 1):
        last, result = task.nights[-1], task.last_result
        failed = sum(each.night.outcome == FAILED for each in task.nights)
        night = result.night if result else None
        rate = result.measures.get(Measure.RATE) if result else None
        before = "" if last is result else "last good run"
        rows.append(
            [
                Cell(task.name, below=below, href=f"{anchor}-{number}"),
                _ended(_as_run(last)),
                *_counts(task.nights, failed, job.missed),
                _number(night.matched if night else None, count, before),
                _rate(night, before) if night else NOTHING,
                _range(rate, percent) if rate else NOTHING,
                _outside(last) if last.outside else NOTHING,
            ]
        )
    return rows


def _as_run(each: PastNight) -> PastRun:
    return PastRun(each.time, each.night.run, each.night.outcome, each.night.code, each.night.cause)


def _ended(run: PastRun) -> Cell:
    below = ", ".join(filter(None, (_why(run), _minute(run.time))))
    return Cell(run.outcome, value=None, state=_STATES.get(run.outcome, "warn"), below=below)


def _why(run: PastRun) -> str:
    """Return why a run has no result; empty if it has one."""
    return run.why if run.outcome in (DONE, FAILED) else RUNNING


def _counts(runs: Sequence[object], failed: int, missed: int) -> list[Cell]:
    return [Cell(count(number), value=number) for number in (len(runs), failed, missed)]


def _number(value: float | None, text: Callable[[Any], str], below: str) -> str | Cell:
    return NOTHING if value is None else Cell(text(value), value=value, below=below)


def _rate(night: Any, below: str) -> str | Cell:
    """Return a rate; one that is known in whole percent is written so."""
    if night.rate is None:
        return NOTHING
    return Cell(rate_in_words(night), value=round(night.rate, 4), share=night.rate, below=below)


def rate_in_words(night: Any) -> str:
    """Return the rate of a run; one that is known in whole percent is written so."""
    if night.rate is None:
        return NOTHING
    return f"{100 * night.rate:.0f} %" if night.matched is None else percent(night.rate)


def _range(each: Judged, text: Callable[[Any], str]) -> Cell:
    low, high = text(_whole(each.band.low, text)), text(_whole(each.band.high, text))
    return Cell(f"{low} to {high}", value=round(each.band.usual, 4))


def _whole(value: float, text: Callable[[Any], str]) -> float:
    """Return a number as its text can show it: counts are whole."""
    return round(value) if text is count else value


def _outside(each: PastNight) -> Cell:
    texts = _what_is_outside(each)
    return Cell(counted(len(texts), "number"), state="warn", below="; ".join(texts))


def _what_is_outside(each: PastNight) -> list[str]:
    texts = []
    for number in _NUMBERS:
        if number.measure in each.outside:
            assert number.measure is not None
            judged = each.measures[number.measure]
            texts.append(f"{number.title} {_text(number, each)}, usually {_range(judged, number.text).text}")
    return texts


def _plain(number: _Number, each: PastNight) -> str:
    """Return a number in the same unit as those of the other nights, since a table is sorted by it."""
    if number.measure is Measure.SECONDS:
        return NOTHING if each.night.seconds is None else f"{each.night.seconds:,.1f}"
    return _text(number, each)


def _text(number: _Number, each: PastNight) -> str:
    return rate_in_words(each.night) if number.field == "rate" else number.text(getattr(each.night, number.field))


def _job(
    job: PastJob,
    anchor: str,
    now: datetime,
    most: int,
    rows: int,
    reports: Callable[[str], dict[str, Any] | None],
    links: Callable[[str], str | None],
) -> dict[str, Any]:
    span = _span(job, now)
    half = (job.interval or timedelta()) / 2
    gaps = [(gap.first - half, gap.last + half) for gap in job.gaps]
    under = backdrop(span, gaps, [run.time for run in job.failed])
    return {
        "anchor": anchor,
        "name": job.name,
        "who": f"{job.party} with {job.peer}" if job.party else f"with {job.peer}",
        "facts": _facts(job),
        "warnings": _warnings(reports(job.last.run) if job.last.run else None),
        "causes": _causes(job, span),
        "unusual": _unusual(job),
        "under": Markup('<g id="{}-under">{}</g>').format(anchor, under),
        "gaps": [_gap(each.first, each.last, each.runs, each.is_open) for each in reversed(job.gaps)],
        "first": _day(span.begin),
        "last": _day(span.end),
        "tasks": [
            _task(task, f"{anchor}-{number}", job, span, f"{anchor}-under", most, rows, links)
            for number, task in enumerate(job.tasks, 1)
        ],
    }


def _span(job: PastJob, now: datetime) -> Span:
    """Return the time that the pictures show; they do not show all of the time since a job was given up."""
    begin, last = job.runs[0].time, job.last.time
    patience = max((last - begin) / 10, 2 * (job.interval or timedelta()))
    return Span(begin, max(min(now, last + patience), last))


def _facts(job: PastJob) -> list[tuple[str, str | None]]:
    interval = None if job.interval is None else f"every {_interval(job.interval)}"
    why = _why(job.last)
    ended = f"{job.last.outcome}, {why}" if why else job.last.outcome
    return [
        ("last run", f"{_minute(job.last.time)}: {ended}"),
        ("runs", f"{len(job.runs):,} since {_minute(job.runs[0].time)}"),
        ("usually", interval or "no regular times"),
        ("failed", f"{len(job.failed):,}"),
        ("did not run", None if job.interval is None else f"{job.missed:,}"),
    ]


def _interval(interval: timedelta) -> str:
    hours = interval.total_seconds() / 3600
    if hours >= 36:
        return f"{hours / 24:.3g} days"
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.3g} min"


def _warnings(facts: dict[str, Any] | None) -> list[str]:
    """Return the warnings of a kept report: those of the run, then those of its tasks."""
    if facts is None:
        return []
    found = [*(facts.get("warnings") or ())]
    for task in facts.get("tasks") or ():
        texts = [task.get("warning"), *(task.get("warnings") or ())]
        found += [f"{task.get('name')}: {text}" for text in texts if text]
    more = len(found) - _WARNINGS
    return [*map(str, found[:_WARNINGS]), *([f"… and {counted(more, 'more warning')}"] if more > 0 else [])]


def _causes(job: PastJob, span: Span) -> list[list[str | Cell]]:
    """Return a row for each cause of failure, the most frequent first."""
    causes: dict[str, list[PastRun]] = {}
    for run in job.failed:
        causes.setdefault(run.why, []).append(run)
    rows: list[list[str | Cell]] = []
    for cause, runs in sorted(causes.items(), key=lambda each: -len(each[1])):
        first, last = _minute(runs[0].time), _minute(runs[-1].time)
        text = f"{cause}: {counted(len(runs), 'run')}, the first {first}, the last {last}"
        marks = strip(span, [run.time for run in runs], "fault", text)
        rows.append([cause, Cell(count(len(runs)), value=len(runs)), first, last, marks])
    return rows


def _unusual(job: PastJob) -> list[list[str | Cell]]:
    """Return a row for each run of a task that was outside its usual range, the newest first."""
    found = [(each, task.name) for task in job.tasks for each in task.nights if each.outside]
    found.sort(key=lambda each: each[0].time, reverse=True)
    return [[_minute(each.time), name, "; ".join(_what_is_outside(each))] for each, name in found[:_UNUSUAL]]


def _cause_columns(first: str, last: str) -> list[Column]:
    return [Column("cause"), Column("runs", number=True), Column("first"), Column("last"), Column(f"{first} to {last}")]


def _gap(first: datetime, last: datetime, runs: int, is_open: bool) -> str:
    if is_open:
        return f"since {_minute(first)}: {counted(runs, 'run')}"
    return _minute(first) if runs == 1 else f"{_minute(first)} to {_minute(last)}: {counted(runs, 'run')}"


def _task(
    task: PastTask,
    anchor: str,
    job: PastJob,
    span: Span,
    under: str,
    most: int,
    rows: int,
    links: Callable[[str], str | None],
) -> dict[str, Any]:
    numbers = [number for number in _NUMBERS if task.knows(number.field) and _tells(number, task)]
    drawn = numbers if rows else [number for number in numbers if number.field in ("rate", "distinct_items")]
    few = {number: values for number in drawn if len(values := _values(task, number)) < _LEAST_DRAWN}
    found = [(number, _curve(task, number, job, span, under, most)) for number in drawn if number not in few]
    shown = task.nights[-rows:] if rows else []
    return {
        "anchor": anchor,
        "name": task.name,
        "learns": task.knows("rate"),
        "pictures": [
            {"title": number.title, "drawn": drawn, **_labels(number, drawn), **_last(task, number)}
            for number, drawn in found
            if drawn is not None
        ],
        "few": [(number.title, ", then ".join(values)) for number, values in few.items() if values],
        "numbers": [number.title for number in numbers],
        "nights": [_night(each, numbers, links) for each in reversed(shown)],
        "left_out": len(task.nights) - len(shown),
    }


def _tells(number: _Number, task: PastTask) -> bool:
    """Return whether a number of a task tells more than the others: rows do where a key is missing, or there twice."""
    if number.measure is not Measure.ROWS:
        return True
    nights = [each for each in task.nights if each.night.rows is not None]
    return any(each.night.rows != each.night.distinct_items or Measure.ROWS in each.outside for each in nights)


def _values(task: PastTask, number: _Number) -> list[str]:
    known = [each for each in task.nights if each.night.is_done and getattr(each.night, number.field) is not None]
    return [_text(number, each) for each in known]


def _curve(task: PastTask, number: _Number, job: PastJob, span: Span, under: str, most: int) -> Curve | None:
    points = []
    for each in task.nights:
        judged = each.measures.get(number.measure) if number.measure else None
        value = getattr(each.night, number.field) if each.night.is_done else None
        band = (judged.band.low, judged.band.high) if judged else None
        points.append(Point(each.time, value, band, bool(judged and judged.outside), each.after_gap))
    return curve(span, points, under, f"{number.title} of {task.name}", _in_words(task, number, job, points), most)


def _in_words(task: PastTask, number: _Number, job: PastJob, points: Sequence[Point]) -> str:
    known = [(point.value, each) for point, each in zip(points, task.nights, strict=True) if point.value is not None]
    if not known:
        return ""
    low, high = (pick(known, key=lambda each: each[0])[1] for pick in (min, max))
    last = known[-1][1]
    parts = [
        f"{counted(len(known), 'run')} from {_day(task.nights[0].time)} to {_day(task.nights[-1].time)}",
        f"between {_text(number, low)} and {_text(number, high)}, last {_text(number, last)}",
    ]
    judged = last.measures.get(number.measure) if number.measure else None
    if judged is not None:
        parts.append(f"usually {_range(judged, number.text).text}")
    outside = [each for point, (_, each) in zip([p for p in points if p.value is not None], known, strict=True)
               if point.outside]  # fmt: skip
    if outside:
        days = ", ".join(_day(each.time) for each in outside[-5:])
        parts.append(f"{len(outside)} outside the usual range{', the last' if outside[5:] else ''}: {days}")
    if job.failed:
        parts.append(f"{counted(len(job.failed), 'run')} failed")
    if job.missed:
        parts.append(f"{counted(job.missed, 'run')} did not happen")
    return "; ".join(parts) + "."


def _labels(number: _Number, drawn: Curve) -> dict[str, str]:
    return {"top": number.text(_whole(drawn.top, number.text)), "low": number.text(_whole(drawn.low, number.text))}


def _last(task: PastTask, number: _Number) -> dict[str, str | None]:
    """Return the last number of a picture, and its usual range."""
    last = task.last_result
    assert last is not None
    judged = last.measures.get(number.measure) if number.measure else None
    return {"last": _text(number, last), "usual": None if judged is None else _range(judged, number.text).text}


def _night(each: PastNight, numbers: Sequence[_Number], links: Callable[[str], str | None]) -> dict[str, Any]:
    why = _why(_as_run(each))
    titles = {number.measure: number.title for number in _NUMBERS}
    return {
        "time": f"{each.time.astimezone(UTC):%Y-%m-%d %H:%M}",
        "href": links(each.night.run) if each.night.run else None,
        "ended": f"{each.night.outcome}: {why}" if why else each.night.outcome,
        "numbers": [_plain(number, each) for number in numbers],
        "outside": ", ".join(titles[measure] for measure in each.outside),
    }


def _day(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d}"


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
