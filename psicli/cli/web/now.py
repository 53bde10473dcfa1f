"""What runs on this machine now, as `psicli status` and the page on this machine show it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING, Any

from psicli.core.errors import CannotCreateError
from psicli.core.records import dataclass
from psicli.storage.locks import Holder, holders
from psicli.storage.state import left_over, state_folder, task_folders

if TYPE_CHECKING:
    from psicli.batch.record import Past


@dataclass(frozen=True)
class Now:
    """The running jobs of all users, and of this user: the running batches, and what interrupted runs left behind.

    left_over: folders that a later run removes. kept: the tasks that the next run can resume.
    """

    running: list[Holder]
    batches: list[Past] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what `psicli status --json` shows."""
        running, batches = [*map(vars, self.running)], [each.to_json() for each in self.batches]
        return {"running": running, "batches": batches, "left_over": self.left_over, "kept": self.kept}


def now() -> Now:
    """Look at this machine. The running jobs need no state folder."""
    from psicli.batch.record import running_batches

    found = Now(holders())
    with suppress(CannotCreateError):
        found.batches.extend(running_batches())
        found.left_over.extend(map(str, left_over(state_folder())))
        if task_folders(state_folder()):
            # Imported late because it is slow.
            from psicli.exchange.finished import checkpoints

            found.kept.extend(checkpoints(state_folder()))
    return found
