"""The tasks of a run as tables: what they found, and what one needs to find them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psicli.core.errors import EXIT_CODES, counted
from psicli.report.pages.render import NOTHING, count, percent, seconds
from psicli.report.pages.tables import Cell, Column, Table
from psicli.report.report import COUNT, Status

Facts = Mapping[str, Any]

_STATES = {Status.DONE: "good", Status.FAILED: "bad", Status.NOT_STARTED: "quiet", Status.RUNNING: "quiet"}


def results(facts: Facts) -> Table | None:
    """Return the table of what the tasks of a run found; None if the run has no tasks."""
    tasks, peer = facts["tasks"], facts["peer"]
    if not tasks:
        return None
    numbers = ("Matched rows", "Of own items", "Own rows", "Own items", f"Items of {peer}", "Time")
    columns = [Column("Task"), Column("Status"), *(Column(title, True) for title in numbers), Column("Output")]
    return Table("Tasks", columns, [_row(task) for task in tasks], _total(tasks) if len(tasks) > 1 else None)


def _row(task: Facts) -> list[Cell | str]:
    return [
        task["name"],
        _status(task),
        _matched(task),
        _share(task),
        Cell(count(task["rows"]), task["rows"]),
        Cell(count(task["distinct_items"]), task["distinct_items"]),
        Cell(count(task["peer_items"]), task["peer_items"]),
        Cell(seconds(task["seconds"]), task["seconds"]),
        _output(task),
    ]


def _total(tasks: Sequence[Facts]) -> list[Cell | str]:
    known = [task["matched_rows"] for task in tasks if task["matched_rows"] is not None]
    done = sum(task["status"] == Status.DONE for task in tasks)
    # No sum of the others: lists of several tasks are often the same.
    return [
        "Total",
        f"{done:,} of {len(tasks):,} done",
        Cell(count(sum(known)) if known else NOTHING, sum(known)),
        *[""] * 6,
    ]


def _status(task: Facts) -> Cell:
    error = task["error"]
    return Cell(
        task["status"], state=_STATES.get(task["status"], "quiet"), below=code_in_words(error["code"]) if error else ""
    )


def code_in_words(code: int) -> str:
    """Return what an exit code stands for, with the code."""
    known = EXIT_CODES.get(code)
    return f"{known[0]}, {code}" if known else str(code)


def _matched(task: Facts) -> Cell:
    if task["matched_rows"] is not None:
        return Cell(count(task["matched_rows"]), task["matched_rows"])
    if task["result"] == COUNT and task["matched"] is not None:
        return Cell(count(task["matched"]), task["matched"], below="items, not rows")
    if task["status"] == Status.DONE and task["matched_percent"] is None:
        return Cell(NOTHING, below=f"only {task['receiver']} learns it")
    return Cell(NOTHING)


def _share(task: Facts) -> Cell:
    """Return the share of the distinct items; never more exact than the report is."""
    whole = task["matched_percent"]
    if task["matched"] is not None and task["distinct_items"]:
        part = task["matched"] / task["distinct_items"]
        return Cell(percent(part), part, share=part)
    return Cell(NOTHING) if whole is None else Cell(f"{whole} %", whole / 100, share=whole / 100)


def _output(task: Facts) -> Cell:
    if task["output"] is not None:
        return Cell("standard output" if task["output"] == "-" else task["output"], below=_holds(task))
    return Cell(NOTHING)


def _holds(task: Facts) -> str:
    """Return which rows an output holds, if these are not the rows that matched."""
    if task["output_holds"] in (None, "matched"):
        return ""
    kind = "unmatched rows" if task["output_holds"] == "unmatched" else "rows, with a flag"
    return f"all {kind}" if task["output_rows"] is None else f"{task['output_rows']:,} {kind}"


def drift(facts: Facts) -> Table | None:
    """Return what is outside its usual range; None if nothing is."""
    rows = [
        [task["name"], *_drifted(each, task["matched"] is None)] for task in facts["tasks"] for each in task["drift"]
    ]
    columns = [Column("Task"), Column("What"), *(Column(title, True) for title in ("This run", "Usual", "From", "To"))]
    return Table("Outside the usual range", columns, rows) if rows else None


def accepted(facts: Facts) -> str:
    """Return what outside its usual range the user of this party accepted; empty if nothing."""
    # Reports of earlier versions do not say it.
    tasks = [(task["name"], task.get("drift_accepted")) for task in facts["tasks"]]
    named = [f"{', '.join(str(each).replace('_', ' ') for each in found)} of {name}" for name, found in tasks if found]
    return f"{facts['party']} accepted with --accept-drift: {'; '.join(named)}." if named else ""


def _drifted(found: Facts, whole: bool) -> Iterator[Cell]:
    """Yield the cells of a measure. whole: whether a rate is known in whole percent only, if at all."""
    yield Cell(str(found["measure"]).replace("_", " "))
    for name in ("value", "usual", "low", "high"):
        yield Cell(_measured(found["measure"], found[name], whole), found[name])


def _measured(measure: str, value: float | None, whole: bool) -> str:
    if value is None:
        return NOTHING
    match measure:
        case "seconds":
            return seconds(value)
        case "rate":
            return f"{100 * value:.0f} %" if whole else percent(value)
    return count(round(value))


def warnings(facts: Facts) -> list[tuple[str, str]]:
    """Return the warnings of a run, each with the task that it is about; empty for those about the whole run."""
    of_tasks = [
        (task["name"], each) for task in facts["tasks"] for each in (*task["warnings"], task["warning"]) if each
    ]
    return [*(("", each) for each in facts["warnings"]), *of_tasks]


def keys(facts: Facts) -> Table | None:
    """Return what the tasks compared and how, and what identifies their results; None if no task got so far."""
    tasks = [task for task in facts["tasks"] if task["key_columns"] or task["task_sid"]]
    if not tasks:
        return None
    columns = [Column("Task"), Column("Key columns"), Column("Protocol"), Column("Rows without a key", True)]
    columns += [Column("Peer can ask about", True), Column("Id of the task"), Column("SHA-256 of the output")]
    return Table("Keys, ids and digests", columns, [_identity(task) for task in tasks])


def _identity(task: Facts) -> list[Cell | str]:
    unfit = sum(task["unfit_rows"] or ())
    return [
        task["name"],
        ", ".join(task["key_columns"] or ()) or NOTHING,
        task["protocol"],
        Cell(
            count(task["matchless_rows"]),
            task["matchless_rows"],
            below=f"{counted(unfit, 'value')} did not fit the form" if unfit else "",
        ),
        Cell(count(task["peer_questions"]), task["peer_questions"]),
        Cell(task["task_sid"] or NOTHING, code=True),
        Cell(task["output_sha256"] or NOTHING, code=True),
    ]
