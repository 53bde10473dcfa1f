"""Where the time of a run went: a lane a task, and sentences about the waiting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from psicli.core.records import dataclass
from psicli.core.stages import Stage
from psicli.report.pages.charts import Span, axis, lane, merged
from psicli.report.pages.render import count, percent, seconds, size
from psicli.report.pages.tables import Cell, Column, Table

Facts = Mapping[str, Any]

# The colour of each stage, and whether it is in the flat row of a lane, where the waiting is.
_LOOKS = {
    Stage.READING: ("c1", 0),
    Stage.COMPUTING: ("c2", 0),
    Stage.MATCHING: ("c5", 0),
    Stage.WRITING: ("c6", 0),
    Stage.WAITING_FOR_PEER: ("c3", 1),
    Stage.WAITING_FOR_ROOM: ("c4", 1),
}
# How many bars of one stage a lane has at least and at most.
_LEAST_BARS, _MOST_BARS = 4, 120
# Waiting below this share of the time, or below so many seconds, is not worth a thought.
_LITTLE, _SHORT = 0.05, 0.5


@dataclass(frozen=True)
class Lane:
    """A task in the timeline."""

    name: str
    picture: Markup


@dataclass(frozen=True)
class Times:
    """The timeline of a run, with its legend, the sentences about it, and the seconds of each stage as a table."""

    lanes: Sequence[Lane]
    axis: Markup
    legend: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    table: Table


def times(facts: Facts, bars: int) -> Times | None:
    """Return where the time of a run went; None if no task got so far.

    bars: how many bars of one stage all lanes together have, about.
    """
    tasks = [task for task in facts["tasks"] if task["stages"] is not None]
    if not tasks:
        return None
    drawn = [task for task in tasks if task["timeline"]]
    whole = max([facts["seconds"], *(end for task in drawn for _, _, end in task["timeline"])])
    most = min(max(bars // max(len(drawn), 1), _LEAST_BARS), _MOST_BARS)
    used = [stage for stage in _LOOKS if any(task["stages"].get(stage) for task in tasks)]
    return Times(
        [Lane(task["name"], lane([*_spans(task)], whole, _in_words(task), most)) for task in drawn],
        axis(whole),
        [(_LOOKS[stage][0], _title(stage)) for stage in used],
        [*_sentences(facts["peer"], tasks, drawn)],
        _table(tasks),
    )


def _spans(task: Facts) -> Iterator[Span]:
    known = [each for each in task["timeline"] if each[0] in _LOOKS]
    for stage, (kind, row) in _LOOKS.items():
        label = f"{_title(stage)}: {seconds(task['stages'].get(stage))}"
        yield from (Span(kind, label, begin, end, row) for name, begin, end in known if name == stage)


def _in_words(task: Facts) -> str:
    """Return what a lane shows."""
    begin, end = min(each[1] for each in task["timeline"]), max(each[2] for each in task["timeline"])
    parts = [f"{_title(stage)} {seconds(task['stages'][stage])}" for stage in _LOOKS if task["stages"].get(stage)]
    return f"{task['name']}: from {seconds(begin)} to {seconds(end)} after the start. {', '.join(parts)}."


def _title(stage: Stage) -> str:
    return stage.value.replace("_", " ")


def _sentences(peer: str, tasks: Sequence[Facts], drawn: Sequence[Facts]) -> Iterator[str]:
    if drawn:
        first = min(each[1] for task in drawn for each in task["timeline"])
        yield (
            f"The first task began {seconds(first)} after the start. Until then, psicli checked files and settings, "
            f"and waited for {peer} to come."
        )
    spent = sum(task["seconds"] or 0.0 for task in tasks)
    causes = (
        (
            Stage.WAITING_FOR_PEER,
            f"had nothing to compute, because nothing had arrived: {peer}, or the network from there, was slower",
        ),
        (
            Stage.WAITING_FOR_ROOM,
            f"could not go on, because sending was blocked: the network to {peer}, or {peer} itself, did not take "
            "data fast enough",
        ),
    )
    little = True
    for stage, what in causes:
        waited = _spent_in(tasks, drawn, stage)
        if waited > max(_LITTLE * spent, _SHORT):
            little = False
            yield f"For {seconds(waited)}, {'tasks' if len(tasks) > 1 else 'the task'} {what}."
    if little:
        yield f"Nobody was waited for: hardly any time was lost to {peer} or to the network once the tasks ran."


def _spent_in(tasks: Sequence[Facts], drawn: Sequence[Facts], stage: Stage) -> float:
    """Return how long at least one task was in a stage, as far as that is known [s].

    Tasks may be in it at the same time, and a timeline leaves short breaks out: the truth is below both numbers.
    """
    added = float(sum(task["stages"].get(stage, 0.0) for task in tasks))
    if len(drawn) < len(tasks):
        return added
    bars = sorted((begin, end) for task in drawn for name, begin, end in task["timeline"] if name == stage)
    return min(added, sum(end - begin for begin, end in merged(bars, len(bars), 0.0)))


def _table(tasks: Sequence[Facts]) -> Table:
    columns = [Column("Task"), *(Column(_title(stage).capitalize(), True) for stage in Stage)]
    columns += [Column("Bins", True), Column("Resumed", True), Column("Sent", True), Column("Received", True)]
    return Table("Stages, bins and bytes of each task", columns, [_row(task) for task in tasks])


def _row(task: Facts) -> list[Cell | str]:
    spent = [task["stages"].get(stage) for stage in Stage]
    return [
        task["name"],
        *(Cell(seconds(each), each) for each in spent),
        Cell(count(task["bins"]), task["bins"]),
        Cell(percent(task["resumed"]), task["resumed"]),
        Cell(size(task["bytes_sent"]), task["bytes_sent"]),
        Cell(size(task["bytes_received"]), task["bytes_received"]),
    ]
