"""Check the tasks with `result: count`, whose receiver learns only how many items match."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.config.checks import Slot, protocol_of, result_of, terms
from psicli.config.document import Document, Loc
from psicli.core.errors import shown

# The limits without which a sender does not answer, each with what it is for, and an example.
_NEEDED = {
    "min_peer_items": (
        "the count of a few items tells which they are; give the fewest that {receiver} may have",
        1000,
    ),
    "max_runs_per_day": ("counts of lists that differ little tell which items match; limit the runs", 2),
}


def check_counts(document: Document, slots: Sequence[Slot], party: str, *, simulated: bool) -> None:
    """Refuse what a count has no use for, and a sender of one without the limits on which its secrecy depends.

    slots: the tasks that run; simulated: whether one user runs both parties, who then need no limits.
    """
    counting = {slot.task: slot.name for slot in slots if result_of(document, slot.task) == "count"}
    for task, name in counting.items():
        _check_broadcast(document, task)
        _check_protocol(document, task, name)
        _check_outputs(document, task)
        receiver, _ = terms(document, task)
        if receiver == party and document.text("policy", "min_output_rows") is not None:
            what = f"cannot be checked, because the result of task {shown(name)} is a count"
            right = "remove the limit, or move the task to another job; min_peer_items and max_match_rate do apply"
            document.blame(("policy", "min_output_rows"), what, right)
    senders = [task for task in counting if terms(document, task)[0] not in (None, party)]
    if senders and not simulated:
        _check_limits(document, senders[0], counting[senders[0]])


def _check_broadcast(document: Document, task: Loc) -> None:
    """Refuse to tell both parties a count: the other one would have to believe it."""
    if not terms(document, task)[1]:
        return
    loc = task if "broadcast_result" in document.table(*task) else ("psi",)
    right = "a count goes to the receiver alone; remove one of both, or set `broadcast_result: false` in this task"
    document.blame((*loc, "broadcast_result"), f"does not go with `result: count`{_where(document, task)}", right)


def _check_protocol(document: Document, task: Loc, name: str) -> None:
    """Refuse the protocol whose receiver sees which of its own tokens match."""
    if protocol_of(document, task) == "rr22":
        loc = task if "protocol" in document.table(*task) else ("psi",)
        right = f"a count needs ecdh; give task {shown(name)} `protocol: ecdh`, or `result: rows`"
        document.blame((*loc, "protocol"), f"rr22 does not go with `result: count`{_where(document, task)}", right)


def _check_outputs(document: Document, task: Loc) -> None:
    """Refuse an output of the receiver, and settings of one."""
    receiver, _ = terms(document, task)
    unused = [(*task, "output_path", receiver)] if receiver in document.table(*task, "output_path") else []
    unused += [(*task, "output", name) for name in document.table(*task, "output")]
    for loc in unused:
        what = f"has no effect with `result: count`{_where(document, task)}, which gives no rows"
        document.blame(loc, what, "remove it, and see the count in the report; or give `result: rows`")


def _check_limits(document: Document, task: Loc, name: str) -> None:
    receiver, _ = terms(document, task)
    for limit, (reason, example) in _NEEDED.items():
        if document.text("policy", limit) is None:
            what = f"is missing, and task {shown(name)} tells {receiver} how many items match"
            right = f"{reason.format(receiver=receiver)}, for example `{limit}: {example}`"
            document.blame(("policy", limit), what, right)


def _where(document: Document, task: Loc) -> str:
    """Return the line of a task's result, for a sentence."""
    loc = task if "result" in document.table(*task) else ("psi",)
    return f" (line {document.line((*loc, 'result'))})"
