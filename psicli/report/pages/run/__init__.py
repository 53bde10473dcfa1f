"""The page of a run, also of one that failed before it began, and of a simulation.

learned     what each party learned, in sentences
tasks       the tasks as tables
times       where the time went
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psicli.core.errors import counted
from psicli.core.records import dataclass
from psicli.report.pages.render import count, moment, render, seconds, size
from psicli.report.pages.run.learned import Learned, learned
from psicli.report.pages.run.tasks import accepted, code_in_words, drift, keys, results, warnings
from psicli.report.pages.run.times import Times, times
from psicli.report.pages.tables import Cell, Column, Table
from psicli.report.report import Status, errors_of

Facts = Mapping[str, Any]
Pairs = Sequence[tuple[str, str]]

# How many bars of one stage the timelines of a page have, so that it stays small.
BARS = 800


@dataclass(frozen=True)
class Problem:
    """An error: its message, line by line, and what to do; the hint is empty if a later error has the same."""

    lines: Sequence[str]
    hint: str


@dataclass(frozen=True)
class Verdict:
    """How something ended: its state (good, warn, bad), a few words, a sentence, main numbers, and what went wrong."""

    state: str
    words: str
    sentence: str
    numbers: Pairs
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Party:
    """What a page says about a run of one party. mark: a prefix of its places in the page."""

    mark: str
    name: str
    peer: str
    verdict: Verdict
    results: Table | None
    whole_percent: bool
    warnings: Pairs
    drift: Table | None
    accepted: str
    learned: Learned | None
    times: Times | None
    machine: Pairs
    nodes: Table | None
    about: Pairs
    keys: Table | None


def run_page(facts: Facts) -> str:
    """Return the page of a run, made from its facts (`psicli.report.report.facts_of`)."""
    return render("run.html.j2", job=facts["job"], parties=[view_of(facts)], missing=None)


def simulation_page(reports: Mapping[str, Facts | None]) -> str:
    """Return the page of a simulation, made from the facts of each party; None for a party that left none."""
    found = {party: {**facts, "party": party} for party, facts in reports.items() if facts is not None}
    parties = [view_of(facts, f"party-{number}") for number, facts in enumerate(found.values(), 1)]
    job = next((facts["job"] for facts in found.values()), None)
    return render("run.html.j2", job=job, parties=parties, missing=[party for party in reports if party not in found])


def view_of(facts: Facts, mark: str = "run", bars: int = BARS) -> Party:
    """Return what a page says about a run. bars: about how many bars of one stage its timeline has."""
    tasks = facts["tasks"]
    return Party(
        mark,
        facts["party"] or "this party",
        facts["peer"] or "the other party",
        _verdict(facts),
        results(facts),
        any(task["matched"] is None and task["matched_percent"] is not None for task in tasks),
        warnings(facts),
        drift(facts),
        accepted(facts),
        learned(facts),
        times(facts, bars),
        [*_machine(facts)] if _began(facts) else [],
        _nodes(facts["nodes"]),
        [*_about(facts)],
        keys(facts),
    )


def problems_of(facts: Facts) -> list[Problem]:
    """Return the errors of a run, that of the run first."""
    return [Problem(message.splitlines(), hint) for message, hint in errors_of(facts)]


def _verdict(facts: Facts) -> Verdict:
    code, warned = facts["exit_code"], len(warnings(facts))
    words = f"Failed: {code_in_words(code)}" if code else f"Done{with_warnings(warned)}"
    if not _began(facts):
        return Verdict("bad", words, "It ended before any task began.", [], problems_of(facts))
    parties = f"{facts['party']} with {facts['peer']}"
    took = f"{'ended after' if code else 'took'} {seconds(facts['seconds'])}"
    sentence = f"{parties}, began {moment(facts['started'])} and {took}."
    state = "bad" if code else "warn" if warned else "good"
    return Verdict(state, words, sentence, [*_numbers(facts["tasks"])], problems_of(facts))


def with_warnings(number: int) -> str:
    """Return how many warnings a good end has, as the rest of a sentence; nothing where it has none."""
    return f", with {counted(number, 'warning')}" if number else ""


def _began(facts: Facts) -> bool:
    """Return whether a run got so far that it has a report; what it was about may be known all the same."""
    return facts["version"] is not None


def _numbers(tasks: Sequence[Facts]) -> Iterator[tuple[str, str]]:
    """Yield the numbers that a reader looks for first."""
    if not tasks:
        return
    rows = [task["matched_rows"] for task in tasks if task["matched_rows"] is not None]
    shares = [task["matched_percent"] for task in tasks if task["matched_percent"] is not None]
    if rows:
        yield "matched rows", count(sum(rows))
    if len(tasks) == 1 and shares:
        yield "of own items matched", f"{shares[0]} %"
    done = sum(task["status"] == Status.DONE for task in tasks)
    yield ("task done" if len(tasks) == 1 else "tasks done"), f"{done:,} of {len(tasks):,}"


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    tasks = facts["tasks"]
    yield "Most memory at any moment", size(facts["peak_memory"])
    yield "Most disk space besides outputs", size(facts["spool_bytes"])
    for label, name in (("Sent", "bytes_sent"), ("Received", "bytes_received")):
        octets = [task[name] for task in tasks if task[name] is not None]
        yield label, size(sum(octets) if octets else None)
    bins = [task["bins"] for task in tasks if task["bins"] is not None]
    yield "Bins", count(sum(bins) if bins else None)
    resumed = [task for task in tasks if task["resumed"]]
    if resumed:
        yield "Resumed", f"{counted(len(resumed), 'task')} went on where an earlier run had ended"


def _nodes(nodes: Sequence[Facts]) -> Table | None:
    columns = [Column("Node"), *(Column(title, True) for title in ("Bins", "Begun again", "Time", "Items per second"))]
    return Table("Nodes of the cluster", columns, [_row_of_a_node(node) for node in nodes]) if nodes else None


def _row_of_a_node(node: Facts) -> list[Cell | str]:
    rate = node["points"] / node["seconds"] if node["seconds"] else None
    return [
        node["node"],
        Cell(count(node["bins"]), node["bins"]),
        Cell(count(node["redone"]), node["redone"]),
        Cell(seconds(node["seconds"]), node["seconds"]),
        Cell(count(None if rate is None else round(rate)), rate),
    ]


# What identifies a run, and what it ran with; those that are not known are left out.
_ABOUT = {
    "run": "Run in the ledger",
    "session_id": "Session",
    "version": "Version of psicli",
    "peer_version": "Version of the other party's psicli",
    "backend": "Arithmetic",
    "peer_certificate_sha256": "Fingerprint of the other party's certificate (SHA-256)",
    "ledger_line": "Last line of the ledger",
    "ledger_head": "Head of the ledger",
}
_MOMENTS = {
    "started": "Began",
    "certificate_expires": "Own certificate is valid until",
    "peer_certificate_expires": "The other party's certificate is valid until",
}


def _about(facts: Facts) -> Iterator[tuple[str, str]]:
    for name, label in _MOMENTS.items():
        # Reports of earlier versions lack some.
        if facts.get(name) is not None:
            yield label, moment(facts[name])
    for name, label in _ABOUT.items():
        if facts.get(name) is not None:
            yield label, str(facts[name])
