"""Failpoints: named calls in the code that do nothing unless PSICLI_FAILPOINT names one, so that a test can fail a run.

    PSICLI_FAILPOINT=NAME:ACTION[:NTH] PSICLI_FAIL_ON_PURPOSE=yes

ACTION is one of: kill (send this process SIGKILL), stop (send it SIGSTOP), raise (raise an unexpected exception),
enospc (raise the OSError of a full disk), flip (invert one byte of the data, only at points that carry data). NTH says
which hit of the point triggers the action, by default the first; all other hits do nothing. No setting in a job file
arms a failpoint, and neither does the first variable alone: one that a test left behind must not fail a nightly run.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import field
from enum import StrEnum

from psicli.core.errors import VariableError, shown
from psicli.core.records import dataclass

logger = logging.getLogger(__name__)

VARIABLE = "PSICLI_FAILPOINT"
CONSENT = "PSICLI_FAIL_ON_PURPOSE"

MESSAGES = (
    "hello", "offer", "skip", "open", "frame", "end", "received", "restart", "ready", "commit", "done", "working",
    "abort",
)  # fmt: skip
# Points that carry data, of which flip can invert a byte.
CARRYING = (*(f"{message}.sending" for message in MESSAGES), "link.arriving")
POINTS = (
    "lock.acquired", "port.bound", "peer.dialled", "input.checked",
    *CARRYING, *(f"{message}.arrived" for message in MESSAGES), "link.sent",
    "reconnect.dialled", "reconnect.answered",
    "session.agreed", "input.read", "task.admitted",
    "ledger.head.written", "ledger.appended", "ledger.synced",
    "spool.created", "spool.reserved", "spool.written", "spool.read",
    "own.masked", "peer.masked", "lists.checked", "matches.found",
    "output.created", "output.written", "output.synced", "output.renamed", "output.kept",
    "upload.begun", "upload.written", "upload.done",
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
    """One hit of one point, and the action it triggers. Thread-safe."""

    name: str
    action: Action
    nth: int
    # itertools.count needs no lock.
    _hits: Iterator[int] = field(default_factory=itertools.count)

    def is_due(self, name: str) -> bool:
        """Count a hit; return whether it is the one that triggers the action."""
        return name == self.name and next(self._hits) + 1 == self.nth

    def trigger(self) -> None:
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
    """Arm the failpoint that PSICLI_FAILPOINT names, and log a warning; raises VariableError for an invalid value.

    Without PSICLI_FAIL_ON_PURPOSE=yes, only warn that the failpoint is ignored.
    """
    global _armed
    _armed = None
    text = os.environ.get(VARIABLE, "")
    if not text:
        return
    if os.environ.get(CONSENT) != "yes":
        logger.warning("ignoring %s, which only psicli's own tests use; unset it", VARIABLE)
        return
    name, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    known = CARRYING if action == Action.FLIP else POINTS
    if action not in list(Action) or name not in known or not (nth or "1").isdecimal() or int(nth or 1) < 1:
        raise VariableError(
            variable=VARIABLE,
            fault=f"is {shown(text)}, which is not a failpoint (NAME:ACTION[:NTH], ACTION: {', '.join(Action)})",
            advice=f"Unset {VARIABLE}: only psicli's own tests use it. psicli/core/failpoints.py lists the names.",
        )
    _armed = _Failpoint(name, Action(action), int(nth or 1))
    logger.warning("%s is set, so this run will fail on purpose (%s)", VARIABLE, text)


def hit(name: str) -> None:
    """Count a hit of a point, and act if this hit is the armed one."""
    if _armed is not None and _armed.is_due(name):
        _armed.trigger()


def carry(name: str, octets: bytes) -> bytes:
    """Count a hit of a point that carries data; return the data, with one byte inverted if the action is flip."""
    if _armed is None or not _armed.is_due(name):
        return octets
    _armed.trigger()
    if _armed.action is not Action.FLIP:
        return octets
    middle = len(octets) // 2
    return octets[:middle] + bytes([octets[middle] ^ 0xFF]) + octets[middle + 1 :]
