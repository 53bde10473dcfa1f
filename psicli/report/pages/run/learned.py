"""What each party learned from the tasks of a run, in words for people who decide about it.

They say what docs/security.md says, about the tasks that got far enough for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psicli.core.errors import PolicyError, counted
from psicli.core.records import dataclass
from psicli.report.report import COUNT, RR22, Status

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
    """Return what the parties of a run learned; None if no task got so far that its input was read."""
    tasks, party, peer = facts["tasks"], facts["party"], facts["peer"]
    answered = [task for task in tasks if task["peer_items"] is not None]
    # A party states its number before it knows the other one.
    stated = [task for task in tasks if task["distinct_items"] is not None and task not in answered]
    if not stated and not answered:
        return None
    refused = [task for task in stated if _was_refused(task, party)]
    perhaps = [task for task in stated if task not in refused]
    unfinished = [task for task in tasks if task in (*perhaps, *answered) and task["status"] != Status.DONE]
    return Learned(
        [*_sentences(party, peer, answered, [], len(tasks))],
        [*_sentences(peer, party, answered, perhaps, len(tasks))],
        [*_notes(party, peer, refused, unfinished, answered, len(tasks))],
    )


def _was_refused(task: Facts, party: str) -> bool:
    """Return whether this party refused a task before it told the other one anything about its input.

    The limits on what a party knows alone come before its number leaves. An error that ended the run may be about
    another task; then nobody knows how far this one got.
    """
    error = task["error"]
    if error is None or error["code"] != PolicyError.code or error.get("party") != party:
        return False
    return str(error["message"]).startswith(f"task {task['name']}: ")


def _sentences(party: str, other: str, tasks: Sequence[Facts], perhaps: Sequence[Facts], whole: int) -> Iterator[str]:
    """Yield what a party learned from the other one in these tasks, and what it may have learned in others.

    whole: how many tasks the run has.
    """
    if tasks:
        yield from _known(party, other, tasks, whole)
    if perhaps:
        yield f"It may have learned how many distinct items {other} has{_where(perhaps, whole)}."
    if not tasks:
        yield "Nothing about what matched." if perhaps else "Nothing."


def _known(party: str, other: str, tasks: Sequence[Facts], whole: int) -> Iterator[str]:
    yield f"How many distinct items {other} has{_where(tasks, whole)}."
    informed = [task for task in tasks if task["broadcast_result"] or task["receiver"] == party]
    for result, what in (
        ("rows", f"Which of its own items {other} also has"),
        (COUNT, f"How many of its own items {other} also has, but not which ones"),
    ):
        if some := [task for task in informed if task["result"] == result]:
            yield f"{what}{_where(some, whole)}."
    if uninformed := [task for task in tasks if task not in informed]:
        yield f"Nothing about what matched{_where(uninformed, whole)}."


def _where(some: Sequence[Facts], whole: int) -> str:
    """Return in which of the tasks of a run something holds; nothing where there is one task."""
    if whole == 1:
        return ""
    if len(some) == whole:
        return f", in each of {whole:,} tasks"
    return f", in {counted(len(some), 'task')}: {_names(some)}"


def _notes(
    party: str, peer: str, refused: Sequence[Facts], unfinished: Sequence[Facts], used: Sequence[Facts], whole: int
) -> Iterator[str]:
    if refused:
        which = "the task" if whole == 1 else f"{counted(len(refused), 'task')} ({_names(refused)})"
        yield f"{party} refused {which} before it told {peer} how many distinct items it has."
    if unfinished:
        yield f"Not everything came to its end. About {_names(unfinished)}, the parties learned this at most."
    yield (
        f"Neither {party} nor {peer} learned the other's items that do not match, its other columns, the order of its "
        "rows, how often a key occurs, or how many rows have no key."
    )
    if younger := [task for task in used if task["protocol"] == RR22]:
        which = "The task" if whole == 1 else f"{counted(len(younger), 'task')} ({_names(younger)})"
        yield f"{which} used the protocol rr22, which is younger than ecdh and assumes more."
    yield (
        "Both know the terms of the job, such as the names of its tasks. All this holds for parties that follow the "
        "protocol; each chooses its own list freely."
    )


def _names(tasks: Sequence[Facts]) -> str:
    return ", ".join(task["name"] for task in tasks[:_NAMES_SHOWN]) + (", …" if len(tasks) > _NAMES_SHOWN else "")
