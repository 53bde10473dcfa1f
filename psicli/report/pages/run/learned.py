"""What each party learned from the tasks of a run, in words for people who decide about it.

They say what docs/security.md says, about the tasks that got far enough for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psicli.core.errors import counted
from psicli.report.report import COUNT, Status

Facts = Mapping[str, Any]

# How many tasks a sentence names at most.
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Learned:
    """What the two parties learned, and what neither of them did."""

    own: Sequence[str]
    peers: Sequence[str]
    notes: Sequence[str]


def learned(facts: Facts) -> Learned | None:
    """Return what the parties of a run learned; None if no task got so far that anybody learned anything."""
    # A party states its number before it knows the other one.
    stated = [task for task in facts["tasks"] if task["distinct_items"] is not None]
    answered = [task for task in facts["tasks"] if task["peer_items"] is not None]
    if not stated and not answered:
        return None
    party, peer = facts["party"], facts["peer"]
    unfinished = [task for task in facts["tasks"] if task in (*stated, *answered) and task["status"] != Status.DONE]
    return Learned(
        [*_sentences(party, peer, answered)],
        [*_sentences(peer, party, stated)],
        [*_notes(party, peer, unfinished)],
    )


def _sentences(party: str, other: str, tasks: Sequence[Facts]) -> Iterator[str]:
    """Yield what a party learned from the other one in these tasks."""
    if not tasks:
        yield "Nothing."
        return
    yield f"How many distinct items {other} has{_where(tasks, tasks)}."
    informed = [task for task in tasks if task["broadcast_result"] or task["receiver"] == party]
    for result, what in (
        ("rows", f"Which of its own items {other} also has"),
        (COUNT, f"How many of its own items {other} also has, but not which ones"),
    ):
        if some := [task for task in informed if task["result"] == result]:
            yield f"{what}{_where(some, tasks)}."
    if uninformed := [task for task in tasks if task not in informed]:
        yield f"Nothing about what matched{_where(uninformed, tasks)}."


def _where(some: Sequence[Facts], tasks: Sequence[Facts]) -> str:
    """Return in which of the tasks something holds; nothing where there is one task."""
    if len(tasks) == 1:
        return ""
    if len(some) == len(tasks):
        return f", in each of {len(tasks):,} tasks"
    return f", in {counted(len(some), 'task')}: {_names(some)}"


def _notes(party: str, peer: str, unfinished: Sequence[Facts]) -> Iterator[str]:
    if unfinished:
        yield f"Not everything came to its end. About {_names(unfinished)}, the parties learned this at most."
    yield (
        f"Neither {party} nor {peer} learned the other's items that do not match, its other columns, the order of its "
        "rows, how often a key occurs, or how many rows have no key."
    )
    yield (
        "Both know the terms of the job, such as the names of its tasks. All this holds for parties that follow the "
        "protocol; each chooses its own list freely."
    )


def _names(tasks: Sequence[Facts]) -> str:
    return ", ".join(task["name"] for task in tasks[:_NAMES_SHOWN]) + (", …" if len(tasks) > _NAMES_SHOWN else "")
