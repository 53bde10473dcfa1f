"""Check the tasks with `result: count`, whose receiver learns only how many items match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    _check_terms(document, counting)
    for task, name in counting.items():
        _check_outputs(document, task)
        receiver, _ = terms(document, task)
        if receiver == party and document.text("policy", "min_output_rows") is not None:
            what = f"cannot be checked, because the result of task {shown(name)} is a count"
            right = "remove the limit, or move the task to another job; min_peer_items and max_match_rate do apply"
            document.blame(("policy", "min_output_rows"), what, right)
    senders = [task for task in counting if terms(document, task)[0] not in (None, party)]
    if senders and not simulated:
        _check_limits(document, senders[0], counting[senders[0]])


def _check_terms(document: Document, counting: Mapping[Loc, str]) -> None:
    """Refuse terms that no count has. If psi has one of them, each task that counts is an error of its own."""
    refused: dict[tuple[Loc, str, str], None] = {}

    def refuse(task: Loc, name: str, field: str, what: str, why: str, value: str) -> None:
        holder = _holder(document, task, field)
        in_psi = holder == _holder(document, task, "result") == ("psi",)
        right = f"{why}; {'in psi, set' if in_psi else f'give task {shown(name)}'} {value}, or `result: rows`"
        refused[(*holder, field), f"{what} with `result: count`{_where(document, task)}", right] = None

    for task, name in counting.items():
        if terms(document, task)[1]:
            # The other party would have to believe the count.
            why = "a count goes to the receiver alone"
            refuse(task, name, "broadcast_result", "does not go", why, "`broadcast_result: false`")
        if protocol_of(document, task) == "rr22":
            # Its receiver sees which of its own tokens match.
            refuse(task, name, "protocol", "rr22 does not go", "a count needs ecdh", "`protocol: ecdh`")
    for error in refused:
        document.note(*error)
    for loc, _, _ in refused:
        document.mark_broken(loc)


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
    return f" (line {document.line((*_holder(document, task, 'result'), 'result'))})"


def _holder(document: Document, task: Loc, field: str) -> Loc:
    """Return the place that sets a term of a task: the task itself, or psi."""
    return task if field in document.table(*task) else ("psi",)
