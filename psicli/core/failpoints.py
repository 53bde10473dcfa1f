"""Points where a test makes a run fail: plain calls, which do nothing unless PSICLI_FAILPOINT names one of them.

    PSICLI_FAILPOINT=NAME:ACTION[:NTH]

kill: kill -9 this process. stop: SIGSTOP it. raise: an exception nobody expects. enospc: what the system says when a
disk is full. flip: another byte in what passes, where octets pass. NTH: at which passage, the first by default; those
before and after it are let through. Nothing in a job file leads here.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from psicli.core.errors import VariableError, shown

logger = logging.getLogger(__name__)

VARIABLE = "PSICLI_FAILPOINT"

MESSAGES = (
    "hello", "offer", "open", "frame", "end", "received", "restart", "ready", "commit", "done", "working", "abort",
)  # fmt: skip
# Octets pass here and may be flipped.
CARRYING = (*(f"{message}.sending" for message in MESSAGES), "link.arriving")
POINTS = (
    "lock.acquired", "port.bound", "peer.dialled", "input.checked",
    *CARRYING, *(f"{message}.arrived" for message in MESSAGES), "link.sent",
    "reconnect.dialled", "reconnect.answered",
    "session.agreed", "input.read", "task.admitted", "ledger.appended", "ledger.synced",
    "spool.created", "spool.reserved", "spool.written", "spool.read",
    "own.masked", "peer.masked", "lists.checked", "matches.found",
    "output.created", "output.written", "output.synced", "output.renamed", "output.kept",
    "bins.writing", "bins.written", "bins.wiped",
    "state.writing", "state.written", "state.synced", "state.renamed", "state.kept",
    "session.closed", "report.written",
)  # fmt: skip


class Action(StrEnum):
    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"
    ENOSPC = "enospc"
    FLIP = "flip"


@dataclass
class _Failpoint:
    """One passage of one point, and what happens there. For any thread."""

    name: str
    action: Action
    nth: int
    # To count with it needs no lock.
    _passages: Iterator[int] = field(default_factory=itertools.count)

    def is_due(self, name: str) -> bool:
        """Count a passage; return whether it is the one."""
        return name == self.name and next(self._passages) + 1 == self.nth

    def happen(self) -> None:
        match self.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.STOP:
                os.kill(os.getpid(), signal.SIGSTOP)
            case Action.RAISE:
                raise RuntimeError(f"failpoint {self.name}")
            case Action.ENOSPC:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_armed: _Failpoint | None = None


def arm() -> None:
    """Do from now on what the environment says, and warn of it; raises VariableError for what it cannot mean."""
    global _armed
    _armed = None
    text = os.environ.get(VARIABLE, "")
    if not text:
        return
    name, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    known = CARRYING if action == Action.FLIP else POINTS
    if action not in list(Action) or name not in known or not (nth or "1").isdecimal() or int(nth or 1) < 1:
        raise VariableError(
            variable=VARIABLE,
            fault=f"is {shown(text)}, which is no failpoint; it is NAME:kill, stop, raise, enospc or flip, and :NTH",
            advice=f"Unset {VARIABLE}: it is there for tests of psicli; psicli/core/failpoints.py has the names.",
        )
    _armed = _Failpoint(name, Action(action), int(nth or 1))
    logger.warning("%s is set: this run is made to fail (%s)", VARIABLE, text)


def passage(name: str) -> None:
    """Pass a point."""
    if _armed is not None and _armed.is_due(name):
        _armed.happen()


def carry(name: str, octets: bytes) -> bytes:
    """Pass a point with octets and return them."""
    if _armed is None or not _armed.is_due(name):
        return octets
    _armed.happen()
    if _armed.action is not Action.FLIP:
        return octets
    middle = len(octets) // 2
    return octets[:middle] + bytes([octets[middle] ^ 0xFF]) + octets[middle + 1 :]
