"""Name the files of tasks with per_file that only one party has."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import NoFileHereError, NoPartnerError, PeerLacksFileError
from psicli.report.console import Console
from psicli.report.report import Report, TaskReport
from psicli.session.agreement import Group, Pairing

logger = logging.getLogger(__name__)

# How many names a message has at most.
_NAMES_SHOWN = 12


def unpaired(pairing: Pairing, party: str) -> Iterator[tuple[Group, Sequence[str], PsicliError]]:
    """Yield the tasks that only one party has, with the error that names them."""
    for group in pairing.groups:
        if group.ours and group.theirs and not group.common:
            facts = {"group": group.name, "party": party, "ours": _listed(group.ours), "theirs": _listed(group.theirs)}
            yield group, (*group.ours, *group.theirs), NoPartnerError(**facts)
            continue
        if group.theirs:
            yield group, group.theirs, NoFileHereError(group=group.name, names=_listed(group.theirs))
        if group.ours:
            yield group, group.ours, PeerLacksFileError(group=group.name, names=_listed(group.ours))


def leave_out(pairing: Pairing, report: Report, console: Console) -> None:
    """Report the tasks that only one party has; those of the peer get a place of their own in the report."""
    entries = {group.name: _entries(report, group) for group in pairing.groups}
    for group, names, error in unpaired(pairing, report.party):
        report.fail(error)
        logger.warning("skipped: %s", error.message)
        left_out = set(names)
        for task in entries[group.name]:
            if task.name in left_out:
                task.fail(error)
                console.leave_out(task.name)
    console.tasks = len(report.tasks)


def _entries(report: Report, group: Group) -> list[TaskReport]:
    """Return the tasks of a group in the report; those of the peer get a place there, in the order of names."""
    own = {group.name, *group.common, *group.ours}
    known = {task.name for task in report.tasks}
    places = [at for at, task in enumerate(report.tasks) if task.name in own]
    entries = [report.tasks[at] for at in places]
    first = entries[0]
    entries += [
        TaskReport(name, first.receiver, first.broadcast_result, result=first.result, protocol=first.protocol)
        for name in group.theirs
        if name not in known
    ]
    report.tasks[places[0] : places[-1] + 1] = sorted(entries, key=lambda task: task.name)
    return entries


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
