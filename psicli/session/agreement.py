"""The agreement that opens a session: what each party puts into its Hello, and how the two Hellos are compared."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import field
from time import monotonic, time_ns
from typing import Any

from psicli import __version__
from psicli.core import errors, peer_errors
from psicli.core.records import dataclass
from psicli.protocol.bins import LEAST_BIN_ITEMS
from psicli.protocol.messages import NONCE_BYTES, Hello, Purpose, TaskTerms, session_id
from psicli.protocol.wire import decode_hello, encode_hello
from psicli.storage.memory import memory_for_bin
from psicli.transport.link import Link

_TASK_FIELDS = (
    ("receiver", "receiver"),
    ("broadcast_result", "broadcast_result"),
    ("key_columns", "number of key columns"),
)
# What may differ between two parties with key forms.
_VERSIONS = (
    (
        "unicode_version",
        "Unicode",
        "characters that only the newer one knows may be spelled in two ways, and then do not match",
    ),
    (
        "phone_version",
        "the library phonenumbers",
        "numbers that only one of them takes for possible do not match",
    ),
)


@dataclass(frozen=True)
class Deadline:
    """The time when the exchange must be over [s, monotonic]; limit: how long that is after the start, in words."""

    at: float = math.inf
    limit: str = ""

    @property
    def left(self) -> float:
        return max(self.at - monotonic(), 0.0)

    def check(self) -> None:
        """Raise DurationError if the time has come."""
        if not self.left:
            raise errors.DurationError(limit=self.limit)


@dataclass(frozen=True)
class Terms:
    """This party's half of the agreement, taken from its job file."""

    party: str
    peer: str
    job: str
    tasks: tuple[TaskTerms, ...]
    recv_timeout_ms: int
    purpose: Purpose = Purpose.RUN
    # Not for the peer: how long a connection may be broken [s], and when the exchange must be over.
    longest_break: float = 0.0
    deadline: Deadline = field(default_factory=Deadline)
    # Whether this party wants to measure the link; only if it checks.
    measures: bool = False

    def hello(self, frame_items: int, bin_items: int, count_items: int = 0) -> bytes:
        """Return a new encoded Hello; every connection needs one with a fresh nonce."""
        return encode_hello(
            Hello(
                package_version=__version__,
                party=self.party,
                job=self.job,
                tasks=self.tasks,
                frame_items=frame_items,
                bin_items=bin_items,
                nonce=os.urandom(NONCE_BYTES),
                purpose=self.purpose,
                measures=self.measures,
                recv_timeout_ms=self.recv_timeout_ms,
                clock_ms=time_ns() // 1_000_000,
                # Absent without a task that counts, as in a Hello of an older version.
                count_items=count_items if any(task.counts for task in self.tasks) else 0,
            )
        )


@dataclass(frozen=True)
class Hellos:
    """Both Hellos of a session, and the values derived from them."""

    ours: Hello
    theirs: Hello
    sid: bytes = field(repr=False)

    @classmethod
    def of(cls, link: Link, *, listens: bool) -> Hellos:
        """Return the Hellos that were exchanged over a link."""
        ours, theirs = link.own_hello, link.peer_hello
        sid = session_id(ours, theirs) if listens else session_id(theirs, ours)
        return cls(decode_hello(ours), decode_hello(theirs), sid)

    @property
    def frame_items(self) -> int:
        return min(self.ours.frame_items, self.theirs.frame_items)

    @property
    def bin_items(self) -> int:
        return min(self.ours.bin_items, self.theirs.bin_items)


@dataclass(frozen=True)
class Group:
    """The files of a task with per_file, by the names of their tasks: those of both parties, and those of one."""

    name: str
    common: tuple[str, ...]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    """The names of the tasks that run, in the order that both parties know, and all groups of files."""

    tasks: tuple[str, ...]
    groups: tuple[Group, ...]


def check_count(hellos: Hellos, task: str, items: int) -> None:
    """Check that both parties have room for a task that only counts; items: those of the larger list.

    Raises TooManyItemsError, the same on both sides, with the memory that is needed.
    """
    for hello in (hellos.ours, hellos.theirs):
        if items > hello.count_items:
            need = f"{memory_for_bin(items) / 1e9:.1f}GB"
            raise errors.TooManyItemsError(
                fault=f"{hello.party} has room for {errors.counted(hello.count_items, 'distinct item')} of a task with "
                f"result: count, and task {task} has {items:,}; such a task cannot be divided",
                advice=f"Give {hello.party} pipeline.memory: {need} (on a cluster: worker_memory), or split the task.",
            )


def agree(ours: Hello, theirs: Hello, peer: str) -> Pairing:
    """Check that both Hellos describe the same session, and return which tasks run.

    Raises SamePartyError if the peer has our name or sent our own Hello back, and OtherJobError or DisagreementError
    with a table of all fields that differ.
    """
    if theirs.party == ours.party or theirs.nonce == ours.nonce:
        raise peer_errors.SamePartyError(party=ours.party)
    rows: list[tuple[str, Any, Any]] = [(f"party of {peer}", peer, theirs.party)]
    rows += [(name, getattr(ours, name), getattr(theirs, name)) for name in ("protocol_version", "suite", "job")]
    rows += _task_rows(ours.tasks, theirs.tasks)
    if min(ours.bin_items, theirs.bin_items) < LEAST_BIN_ITEMS:
        rows.append((f"items per bin (at least {LEAST_BIN_ITEMS})", ours.bin_items, theirs.bin_items))
    # If only one side counts, that is the difference to tell.
    if (
        all(any(task.counts for task in side.tasks) for side in (ours, theirs))
        and min(ours.count_items, theirs.count_items) < LEAST_BIN_ITEMS
    ):
        rows.append((f"items of a count (at least {LEAST_BIN_ITEMS})", ours.count_items, theirs.count_items))
    differences = [(field, _as_yaml(mine), _as_yaml(yours)) for field, mine, yours in rows if mine != yours]
    if differences:
        is_other = (theirs.party, theirs.job) != (peer, ours.job)
        raise (peer_errors.OtherJobError if is_other else peer_errors.DisagreementError)(table=_table(differences))
    return _pairing(ours.tasks, theirs.tasks)


def _pairing(ours: Sequence[TaskTerms], theirs: Sequence[TaskTerms]) -> Pairing:
    """Return which tasks run; files of a group that only one party has are left out."""
    tasks = tuple(mine.name for mine, _ in _pairs(ours, theirs))
    groups = []
    for group in dict.fromkeys(task.group for task in ours if task.group):
        # The keys of a dict keep their order.
        own, other = ({task.name: None for task in side if task.group == group != task.name} for side in (ours, theirs))
        only = (tuple(name for name in side if name not in rest) for side, rest in ((own, other), (other, own)))
        groups.append(Group(group, tuple(name for name in own if name in other), *only))
    return Pairing(tasks, tuple(groups))


def _pairs(ours: Sequence[TaskTerms], theirs: Sequence[TaskTerms]) -> list[tuple[TaskTerms, TaskTerms]]:
    """Return the terms of every task that both parties have; a group without files has none."""
    known = {(task.group, task.name): task for task in theirs}
    shared = [mine for mine in ours if (mine.group, mine.name) in known and mine.group != mine.name]
    return [(mine, known[mine.group, mine.name]) for mine in shared]


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _task_rows(ours: Sequence[TaskTerms], theirs: Sequence[TaskTerms]) -> list[tuple[str, Any, Any]]:
    entries = _entries(ours), _entries(theirs)
    names = [[name for name, _ in side] for side in entries]
    if names[0] != names[1]:
        return [("tasks", ", ".join(names[0]), ", ".join(names[1]))]
    rows = [(f"{name}: per_file", mine, yours) for (name, mine), (_, yours) in zip(*entries, strict=True)]
    for mine, yours in _pairs(ours, theirs):
        own = [(label, getattr(mine, field), getattr(yours, field)) for field, label in _TASK_FIELDS]
        # A version of psicli that knows only these names none.
        own.append(("result", mine.result or "rows", yours.result or "rows"))
        own.append(("protocol", mine.protocol or "ecdh", yours.protocol or "ecdh"))
        rows += [(f"{mine.group or mine.name}: {label}", *values) for label, *values in (*own, _form_row(mine, yours))]
    # All files of a group have the same terms.
    return [*dict.fromkeys(rows)]


def _entries(tasks: Sequence[TaskTerms]) -> list[tuple[str, bool]]:
    """Return the tasks that the job file names, each with whether its files are tasks."""
    found: list[tuple[str, bool]] = []
    for task in tasks:
        entry = task.group or task.name, bool(task.group)
        if not (task.group and entry in found[-1:]):
            found.append(entry)
    return found


def _form_row(mine: TaskTerms, yours: TaskTerms) -> tuple[str, str, str]:
    """Return the first difference between the key forms of two parties; later ones follow from it."""
    if mine.key_form != yours.key_form:
        # Without forms, both parties compare texts.
        return "key_form", ", ".join(mine.key_form) or "text", ", ".join(yours.key_form) or "text"
    if mine.forms_version != yours.forms_version:
        return "version of the key forms", str(mine.forms_version), str(yours.forms_version)
    return "probe of the key forms", mine.forms_probe.hex(), yours.forms_probe.hex()


def differing_versions(ours: Hello, theirs: Hello) -> list[str]:
    """Return a warning for each version that differs between two parties that agree, and that key forms depend on."""
    warnings = []
    for version, what, result in _VERSIONS:
        both = _pairs(ours.tasks, theirs.tasks)
        pairs = dict.fromkeys((getattr(mine, version), getattr(yours, version)) for mine, yours in both)
        for mine, yours in (pair for pair in pairs if pair[0] != pair[1]):
            other = errors.shown_name(yours).strip("'")
            versions = f"{ours.party} has version {mine} and {theirs.party} has {other}"
            warnings.append(f"{what}: {versions}; {result}")
    return warnings


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = [
        ("field", "ours", "theirs"),
        *((field, mine, errors.shown_name(yours).strip("'")) for field, mine, yours in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"  {line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}" for line in lines)
