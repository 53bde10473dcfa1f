"""The report of a run as people read it: the matched rows first, details on request.

It is made from the object that `--json` prints, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psicli.core.errors import counted, in_units, printable
from psicli.report.layout import PLAIN, Screen, table, table_or_paragraphs
from psicli.report.report import COUNT, Status, errors_of

Facts = Mapping[str, Any]

_HEADER = ("task", "matched rows", "own rows", "status", "output")
_NUMBERS = ("matched rows", "own rows")
_NODE_HEADER = ("node", "bins", "redone", "seconds", "items/s")
_COLOURS = {Status.DONE: "green", Status.FAILED: "red", Status.NOT_STARTED: "yellow"}
# The width of the labels of details [columns].
_LABEL = 10


def to_text(
    facts: Facts, screen: Screen = PLAIN, *, details: bool = False, warnings: bool = True, error: bool = True
) -> str:
    """Return the report as lines of text.

    warnings, error: whether to include the warnings about the run, and the errors with their hints; a caller that has
    shown them in the same place leaves them out.
    """
    if facts["job"] is None:
        failed = screen.paint(f"failed before the start, exit code {facts['exit_code']}", "red")
        sections = [[f"{facts['party']}: {failed}" if facts["party"] else failed]]
    else:
        sections = [_head(facts, screen), _task_table(facts["tasks"], screen), _node_table(facts["nodes"], screen)]
    if details:
        sections += [[*_details(task, screen)] for task in facts["tasks"]] + [[*_about_the_process(facts, screen)]]
    sections.append([*_remarks(facts, screen, warnings, error)])
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(facts: Facts, screen: Screen) -> list[str]:
    code = facts["exit_code"]
    seconds = f"{facts['seconds']:.1f} s"
    verdict = f"failed after {seconds}, exit code {code}" if code else f"done in {seconds}"
    parties = f"{facts['job']}: {facts['party']} with {facts['peer']},"
    colour = "red" if code else "green"
    if screen.width is None or len(parties) + 1 + len(verdict) <= screen.width:
        return [f"{parties} {screen.paint(verdict, colour)}"]
    # A verdict that does not fit has lines of its own.
    below = screen.wrap(f"  {verdict}", indent=0).splitlines()
    return [*screen.wrap(parties).splitlines(), *(screen.paint(line, colour) for line in below)]


def _task_table(tasks: Sequence[Facts], screen: Screen) -> list[str]:
    rows = [_HEADER, *map(_row, tasks), *([_total(tasks)] if len(tasks) > 1 else [])]
    # On a narrow screen, paths stay whole in lines of their own.
    narrow, below = [row[:-1] for row in rows], ["", *(row[-1] for row in rows[1:])]
    blocks = table_or_paragraphs(rows, narrow, below, screen, right=_NUMBERS)
    column = blocks[0][0].index("status")
    for task, lines in zip(tasks, blocks[1:], strict=False):
        lines[0] = screen.paint_at(lines[0], column, task["status"], _COLOURS.get(task["status"]))
    return [line for lines in blocks for line in lines]


def _row(task: Facts) -> tuple[str, ...]:
    return task["name"], _matched(task), _count(task["rows"]), task["status"], _output(task)


def _matched(task: Facts) -> str:
    """Return how many rows matched, or else the share of the items in whole percent."""
    rounded = task["matched_rows"] is None and task["matched_percent"] is not None
    return f"{task['matched_percent']} %" if rounded else _count(task["matched_rows"])


def _total(tasks: Sequence[Facts]) -> tuple[str, ...]:
    matched = [task["matched_rows"] for task in tasks if task["matched_rows"] is not None]
    done = sum(task["status"] == Status.DONE for task in tasks)
    # No sum of own rows: it would hold those of tasks without a result here, and look like a rate beside the matches.
    return "total", _count(sum(matched) if matched else None), "", f"{done} of {len(tasks)} done", ""


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _output(task: Facts) -> str:
    if task["output"] is not None:
        return "standard output" if task["output"] == "-" else printable(task["output"])
    if task["status"] != Status.DONE:
        return ""
    if task["result"] == COUNT:
        if task["matched"] is None and task["matched_percent"] is None:
            return f"none ({task['receiver']} learns how many match)"
        share = f"{task['matched_percent']} %" if task["matched"] is None else f"{task['matched']:,}"
        return f"{share} of {counted(task['distinct_items'], 'item')} match; which ones stays hidden"
    return f"none ({task['receiver']} receives the result)"


def _what_was_written(task: Facts) -> str:
    """Return which rows an output holds, if these are not the rows that matched."""
    kind = "unmatched rows" if task["output_holds"] == "unmatched" else "rows"
    if task["matched_rows"] is None:
        return f"{task['matched_percent']} % of the distinct items matched; all {kind} written"
    written = f"all {task['output_rows']:,}" if task["output_holds"] == "all" else f"{task['output_rows']:,}"
    return f"{task['matched_rows']:,} of {counted(task['rows'], 'row')} matched; {written} {kind} written"


def _node_table(nodes: Sequence[Facts], screen: Screen) -> list[str]:
    rows = [_NODE_HEADER, *map(_row_of_a_node, nodes)] if nodes else []
    return [line for lines in table(rows, screen, right=range(1, len(_NODE_HEADER))) for line in lines]


def _row_of_a_node(node: Facts) -> tuple[str, ...]:
    rate = f"{node['points'] / node['seconds']:,.0f}" if node["seconds"] else "-"
    return node["node"], f"{node['bins']:,}", f"{node['redone']:,}", f"{node['seconds']:.1f}", rate


def _details(task: Facts, screen: Screen) -> Iterator[str]:
    """Yield the detail lines of one task: those that are known, under its name."""
    lines = [(label, text) for label, text in _facts_of_a_task(task) if text]
    if lines:
        yield task["name"]
    for label, text in lines:
        yield screen.wrap(f"  {label:{_LABEL}}{text}", indent=_LABEL)


def _facts_of_a_task(task: Facts) -> Iterator[tuple[str, str]]:
    if task["key_columns"]:
        yield "keys", ", ".join(task["key_columns"])
    if task["rows"] is not None:
        counts = counted(task["distinct_items"], "distinct item"), counted(task["matchless_rows"], "row")
        yield "read", f"{counted(task['rows'], 'row')}, {counts[0]}, {counts[1]} without a key"
    if task["peer_items"] is not None:
        more = task["peer_questions"] != task["peer_items"]
        asks = f", can ask about {task['peer_questions']:,}" if more else ""
        yield "peer", f"{counted(task['peer_items'], 'distinct item')}{asks}"
    if task["matched"] is not None:
        yield "matched", counted(task["matched"], "distinct item")
    elif task["matched_percent"] is not None:
        yield "matched", f"{task['matched_percent']} % of the distinct items"
    if task["bins"] is not None:
        yield "protocol", task["protocol"]
        yield "bins", f"{task['bins']:,}"
    if task["resumed"] is not None:
        yield "resumed", f"an earlier run had done {100 * task['resumed']:.0f} %"
    if task["seconds"] is not None:
        sent, received = task["bytes_sent"] or 0, task["bytes_received"] or 0
        yield "took", f"{task['seconds']:.2f} s, {sent:,} bytes sent, {received:,} bytes received"
    if task["stages"] is not None:
        yield "stages", ", ".join(f"{name.replace('_', ' ')} {took:.2f} s" for name, took in task["stages"].items())


def _about_the_process(facts: Facts, screen: Screen) -> Iterator[str]:
    if facts["job"] is not None:
        space = [("memory", facts["peak_memory"]), ("disk space", facts["spool_bytes"])]
        used = [f"{in_units(size)} of {what}" for what, size in space if size]
        yield screen.wrap(", ".join([f"psicli {facts['version']}", f"{facts['backend']} backend", *used]))
        if facts["ledger_head"] is not None:
            yield screen.wrap(f"ledger: line {facts['ledger_line']}, head {facts['ledger_head']}")


def _remarks(facts: Facts, screen: Screen, warnings: bool, error: bool) -> Iterator[str]:
    """Yield what outputs hold, the warnings, and the errors with their hints.

    The log never shows the one warning of a broken end.
    """
    for task in facts["tasks"]:
        if task["output_holds"] not in (None, "matched"):
            yield screen.wrap(f"{task['name']}: {_what_was_written(task)}")
    logged = [*facts["warnings"], *(f"{task['name']}: {each}" for task in facts["tasks"] for each in task["warnings"])]
    of_tasks = [f"{task['name']}: {task['warning']}" for task in facts["tasks"] if task["warning"]]
    for warning in [*(logged if warnings else []), *of_tasks]:
        yield screen.paint(screen.wrap(f"warning: {warning}"), "yellow")
    for message, hint in errors_of(facts) if error else ():
        yield screen.paint(screen.wrap(f"error: {message}"), "red")
        if hint:
            yield screen.wrap(f"hint: {hint}")
