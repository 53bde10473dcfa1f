"""The history of tasks: a table with a line for each, and all its numbers as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from psicli.core.errors import shown as shown_text
from psicli.report.history.bands import Measure
from psicli.report.history.jobs import PastJob, PastNight, PastTask
from psicli.report.history.text.spark import spark
from psicli.report.history.text.words import found_and_usual, shown
from psicli.report.layout import PLAIN, Screen, in_words, table_or_paragraphs

_COUNTS = ("own", "peer's", "time")
_HEADER = ("job", "task", "peer", "runs", "last run (UTC)", "ended", "matched", "trend", *_COUNTS, "unusual")
_NARROW = ("task", "last run (UTC)", "matched", "trend")
_NUMBERS = ("runs", "matched", *_COUNTS)
# How many runs a trend shows, and on a narrow screen.
_TREND, _NARROW_TREND = 30, 14
# The measures that a trend shows: the first that is known.
_OF_TREND = ("rate", "distinct_items", "rows")
_BAND = ("low", "usual", "high", "distance")
_VALUES = ("rows", "distinct_items", "peer_items", "matched", "rate", "seconds")
# What makes a spreadsheet take a text for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_text(jobs: Sequence[PastJob], screen: Screen = PLAIN, *, ascii_only: bool = False) -> str:
    """Return a table with a line for each task. ascii_only: for a terminal that cannot show blocks."""
    tasks = [(job, task) for job in jobs for task in job.tasks]
    rows = [_HEADER, *(_row(job, task, ascii_only) for job, task in tasks)]
    narrow, below = [_NARROW], [""]
    for row, (_, task) in zip(rows[1:], tasks, strict=True):
        job, name, peer, runs, last, ended, matched, _, *counts, unusual = row
        narrow.append((name, last, matched, _trend(task, _NARROW_TREND, ascii_only)))
        own, peers, seconds = counts
        known = f"own {own}" if own else "", f"peer's {peers}" if peers else "", seconds
        parts = f"{job} with {peer}: {runs} runs, {ended}", *filter(None, known)
        below.append(", ".join(parts) + (f"; unusual: {unusual}" if unusual else ""))
    blocks = table_or_paragraphs(rows, narrow, below, screen, right=_NUMBERS)
    for (_, task), lines in zip(tasks, blocks[1:], strict=True):
        ended = _ended(task.nights[-1])
        if ended in lines[0] and not task.nights[-1].night.is_done:
            lines[0] = screen.paint_at(lines[0], lines[0].index(ended), ended, "red")
    return "\n".join(line for lines in blocks for line in lines)


def _row(job: PastJob, task: PastTask, ascii_only: bool) -> tuple[str, ...]:
    last, result = task.nights[-1], task.last_result
    night = None if result is None else result.night
    unusual = "" if last is not result else _unusual(last, job.peer)
    names = (each if each.isprintable() else shown_text(each) for each in (job.name, task.name, job.peer))
    counts = ("", "", "") if night is None else (_count(night.distinct_items), _count(night.peer_items), "")
    if night is not None and night.seconds is not None:
        counts = (*counts[:2], shown(Measure.SECONDS, night.seconds))
    ended = in_words(last.night.time).removesuffix(" UTC")[:16], _ended(last)
    trend = _trend(task, _TREND, ascii_only)
    return *names, f"{len(task.nights):,}", *ended, _matched(result), trend, *counts, unusual


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _matched(result: PastNight | None) -> str:
    if result is None or result.night.rate is None:
        return ""
    percent = shown(Measure.RATE, result.night.rate, whole=True)
    return percent if result.night.matched is None else f"{result.night.matched:,} ({percent})"


def _trend(task: PastTask, runs: int, ascii_only: bool) -> str:
    measure = next((each for each in _OF_TREND if task.knows(each)), _OF_TREND[0])
    return spark(task.nights[-runs:], measure, ascii_only=ascii_only)


def _ended(last: PastNight) -> str:
    night = last.night
    return f"{night.cause or night.outcome} ({night.code})" if night.code else night.outcome


def _unusual(last: PastNight, peer: str) -> str:
    whole = last.night.matched is None
    found = []
    for each in last.outside:
        text = found_and_usual(each, last.measures[each], peer, whole=whole)
        found.append(f"{text} (accepted)" if each in last.night.drift_accepted else text)
    return "; ".join(found)


def to_json(jobs: Sequence[PastJob]) -> dict[str, Any]:
    """Return every run of every task with its values, its usual ranges and its distances from them."""
    return {"tasks": [_task(job, task) for job in jobs for task in job.tasks]}


def _task(job: PastJob, task: PastTask) -> dict[str, Any]:
    runs = [{**asdict(each.night), "usual": _bands(each)} for each in task.nights]
    return {"job": job.name, "task": task.name, "party": job.party, "peer": job.peer, "runs": runs}


def _bands(past: PastNight) -> dict[str, dict[str, Any]]:
    found = {}
    for measure, judged in past.measures.items():
        numbers = {name: getattr(judged.band, name) for name in _BAND[:3]}
        digits = 2 if past.night.matched is None and measure is Measure.RATE else 6
        rounded = {name: round(number, digits) for name, number in numbers.items()}
        found[measure.value] = {**rounded, "distance": round(judged.distance, 3), "outside": judged.outside}
    return found


def to_csv(jobs: Sequence[PastJob]) -> str:
    """Return a line for each run of each task; a text that a spreadsheet would take for a formula begins with '."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("job", "task", "party", "peer", "time", "run", "outcome", "code", "cause", "drift_accepted", *_VALUES)
    writer.writerow([*names, *(f"{measure}_{name}" for measure in Measure for name in _BAND)])
    for job in jobs:
        for task in job.tasks:
            writer.writerows([*map(_cell, line)] for line in _lines(job, task))
    return text.getvalue().removesuffix("\n")


def _lines(job: PastJob, task: PastTask) -> Iterator[list[Any]]:
    for past in task.nights:
        night, bands = past.night, _bands(past)
        about = [
            job.name,
            task.name,
            job.party,
            job.peer,
            night.time,
            night.run,
            night.outcome,
            night.code,
            night.cause,
        ]
        values = [getattr(night, name) for name in _VALUES]
        usual = [bands.get(measure.value, {}).get(name) for measure in Measure for name in _BAND]
        yield [*about, ",".join(night.drift_accepted), *values, *usual]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").removesuffix(".")
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
