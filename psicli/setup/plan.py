"""Everything that the two job files will say."""

from __future__ import annotations

from pathlib import Path

from psicli.core.formats import FileFormat
from psicli.core.records import dataclass

# What stands in the partner's job file where only the partner knows the answer.
UNKNOWN = "CHANGE-ME"


class UnfitError(ValueError):
    """What somebody has asked for does not fit the files, or itself. The text is for people."""


@dataclass(frozen=True)
class Side:
    """One party's part of a task. normalize: for each key column, how its values are to be read; empty as agreed."""

    path: Path
    format: FileFormat
    keys: tuple[str, ...]
    normalize: tuple[str, ...]


@dataclass(frozen=True)
class PlannedTask:
    """A pair of inputs. sides: by party, without a party whose input is not here. forms: one for each key column.

    why: a line for each key column. keys: the columns of a party whose input is not here, if they are known.
    found: lines about what the two inputs have in common. without_region: how many of the phone numbers that were read
    have no country code, and match nothing until a region is known.
    """

    name: str
    sides: dict[str, Side]
    forms: tuple[str, ...]
    why: tuple[str, ...]
    keys: dict[str, tuple[str, ...]]
    found: tuple[str, ...] = ()
    without_region: int = 0


@dataclass(frozen=True)
class Plan:
    """A first job. party, peer: who types the command, and the partner; listener, receiver: one of the two.

    with_tls: whether the parties need certificates. makes_certificates: whether they are made now.
    """

    job: str
    party: str
    peer: str
    listener: str
    address: str
    receiver: str
    folder: Path
    tasks: tuple[PlannedTask, ...]
    with_tls: bool
    makes_certificates: bool

    @property
    def parties(self) -> tuple[str, str]:
        """The two parties; the first one listens."""
        return (self.party, self.peer) if self.listener == self.party else (self.peer, self.party)

    def job_file(self, party: str) -> Path:
        return self.folder / f"{party}.yaml"

    def output(self, task: PlannedTask) -> str:
        """Return the path of a task's output, from the folder of the job files."""
        side = task.sides.get(self.receiver)
        suffix = "csv" if side is None else side.format.kind.replace("arrow stream", "arrows")
        return f"out/{task.name}.{suffix}"

    @property
    def can_be_simulated(self) -> bool:
        """Whether one job file fits both parties: their inputs are here, and their CSV files are written alike."""
        for task in self.tasks:
            dialects = {side.format.dialect for side in task.sides.values() if is_text(side)}
            if len(task.sides) < 2 or len(dialects) > 1:
                return False
        return True


def is_text(side: Side) -> bool:
    """Return whether the settings for CSV matter for an input."""
    return side.format.kind in ("csv", "tsv")
