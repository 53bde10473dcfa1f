"""Turn signals into exceptions in the main thread, and raise them only where that is safe.

An exception in the middle of taking a lock, starting a server or loading a library can leave it in a broken state. So
the signal handler only records the signal, and `check` raises it. Every loop of the main thread calls `check`, and the
waits in this module call it often. Where the main thread blocks in a system call for long, `allowed` lets the handler
raise the exception immediately; only while a module is being imported, it waits for the end of the import.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from psicli.core.errors import InterruptedBySignal, TerminatedBySignal

# How long a wait may take to notice a signal [s].
SLICE = 0.2

# SIGHUP, sent when the terminal closes, ends a run as SIGTERM does.
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# An option of Linux's prctl (linux/prctl.h).
_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a process that was just forked must not load libraries.
_prctl = getattr(ctypes.CDLL(None), "prctl", None)

# The file name of the code of Python's import system, which is built into the interpreter.
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"

_noted: InterruptedBySignal | None = None
_allowed = False
# Whether a second signal ends the process immediately.
_second_ends = True


def install() -> None:
    """Record SIGINT, SIGTERM and SIGHUP from now on; a second signal ends the process immediately, without clean-up."""
    for number in _HANDLED:
        # A program started with nohup keeps ignoring SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)
    sys.unraisablehook = _not_raised


def reinstall() -> None:
    """Take the handlers back from a library whose compiled part has put its own in front of them."""
    for number in _HANDLED:
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


def ask_for_sigterm() -> None:
    """Let the kernel send this process SIGTERM when its parent ends, from now on; only Linux can."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def die_with_parent(descriptor: int) -> None:
    """Let the end of the parent process, however it ends, send this process SIGTERM.

    From now on, only the first signal counts: a parent that is stopped twice sends SIGTERM, and then its end does.
    descriptor: the writing end of a pipe that only the parent reads. It tells whether the parent has ended before.
    """
    global _second_ends
    _second_ends = False
    ask_for_sigterm()
    poll = select.poll()
    poll.register(descriptor, 0)
    if poll.poll(0):
        raise TerminatedBySignal


def check() -> None:
    """Raise InterruptedBySignal or TerminatedBySignal, once, if a signal has arrived."""
    error = _noted
    if error is not None:
        _forget()
        raise error


@contextmanager
def allowed() -> Iterator[None]:
    """Let a signal raise its exception anywhere in the block; only for system calls that may block without limit.

    A library that swallows the exception, or turns it into one of its own, only delays it to the end of the block.
    A finalizer cannot raise an exception: after one, it is raised again, soon.
    """
    global _allowed
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread handles signals.
        yield
        return
    before, _allowed = _allowed, True
    try:
        check()
        yield
        check()
    except InterruptedBySignal:
        _forget()
        raise
    except Exception:
        check()
        raise
    finally:
        _allowed = before


def pause(seconds: float) -> None:
    """Sleep for `seconds` [s]; a signal interrupts the sleep and is raised."""
    with allowed():
        time.sleep(seconds)


def wait_for(condition: threading.Condition, there: Callable[[], object], timeout: float) -> bool:
    """Wait until `there` is true, holding `condition`, for at most `timeout` [s]; return whether it is.

    Raises what `check` raises.
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
        signal.signal(handled, (lambda again, _: os._exit(128 + again)) if _second_ends else signal.SIG_IGN)
    # Only now: an alarm that someone set before psicli began still ends it.
    signal.signal(signal.SIGALRM, _raise_if_safe)
    _noted = InterruptedBySignal() if number == signal.SIGINT else TerminatedBySignal()
    _raise_if_safe(number, frame)


def _forget() -> None:
    """Let the recorded signal not be raised again."""
    global _noted
    _noted = None
    # At its end, Python takes its handlers back; then the alarm would kill the process.
    signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_if_safe(_: int, frame: FrameType | None) -> None:
    """Raise the recorded signal if the main thread is in `allowed`; if it imports a module there, try again soon."""
    if not _allowed or _noted is None:
        return
    if _imports(frame):
        signal.setitimer(signal.ITIMER_REAL, SLICE)
    else:
        raise _noted


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def _not_raised(what: sys.UnraisableHookArgs) -> None:
    """Try again if Python ignored the exception of a signal, because a finalizer or a callback cannot raise any."""
    global _noted
    if isinstance(what.exc_value, InterruptedBySignal):
        # It may have come from `check`, which raises a signal once.
        _noted = what.exc_value
        signal.setitimer(signal.ITIMER_REAL, SLICE)
    else:
        sys.__unraisablehook__(what)
