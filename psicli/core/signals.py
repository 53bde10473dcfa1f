"""Signals become exceptions in the main thread, at places where nothing can be torn apart.

An exception in the middle of a lock, of starting a server or of loading a library can leave it in a state that nobody
can get out of. So a signal is only noted, and raised by `check`, which every loop of the main thread calls and every
wait here calls often; where the main thread blocks in the system for long, `allowed` lets it be raised at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from psicli.core.errors import InterruptedBySignal, TerminatedBySignal

# How soon a wait takes note of a signal [s].
SLICE = 0.2

# A terminal that goes away ends a run as SIGTERM does.
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_noted: InterruptedBySignal | None = None
_allowed = False


def install() -> None:
    """Take note of SIGINT and SIGTERM from now on; a second one ends the process on the spot, without cleaning."""
    for number in _HANDLED:
        # nohup stays nohup.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def check() -> None:
    """Raise InterruptedBySignal or TerminatedBySignal if there was a signal, once."""
    global _noted
    error, _noted = _noted, None
    if error is not None:
        raise error


@contextmanager
def allowed() -> Iterator[None]:
    """Let a signal be raised anywhere in the block: for system calls that may take for ever, and for them alone."""
    global _allowed
    if threading.current_thread() is not threading.main_thread():
        # A signal is the main thread's, whatever another one is at.
        yield
        return
    before, _allowed = _allowed, True
    try:
        check()
        yield
    finally:
        _allowed = before


def pause(seconds: float) -> None:
    """Sleep [s]; a signal ends it."""
    with allowed():
        time.sleep(seconds)


def wait_for(condition: threading.Condition, there: Callable[[], object], timeout: float) -> bool:
    """Wait until something is there, under its condition, for timeout [s] at most; return whether it is.

    Raises as `check`.
    """
    deadline = time.monotonic() + timeout
    while True:
        check()
        left = deadline - time.monotonic()
        with condition:
            if condition.wait_for(there, max(min(left, SLICE), 0.0)):
                return True
        if left <= SLICE:
            return False


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    for handled in _HANDLED:
        signal.signal(handled, lambda again, _: os._exit(128 + again))
    _noted = InterruptedBySignal() if number == signal.SIGINT else TerminatedBySignal()
    if _allowed:
        check()
