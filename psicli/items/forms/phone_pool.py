"""Converts phone numbers on several cores, because the library needs some 40 µs for each."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial

from psicli.core import signals
from psicli.items.forms import phone_worker
from psicli.items.forms.rules import phones

logger = logging.getLogger(__name__)

# With fewer values, a process takes longer to start than it saves.
_ENOUGH = 10_000
# How many values a process gets at once: a fraction of a second's work.
_AT_ONCE = 2_000
# -P keeps modules in the current folder out.
_COMMAND = (sys.executable, "-P", "-m", phone_worker.__name__)
# How long a process may take to notice that its input has ended [s]; it is killed then.
_GRACE = 5.0


class PhonePool:
    """Gives phone numbers of one region their form, in as many processes as there are threads.

    The processes start when there are many numbers, and end in `close`, or else with this process. Where one of them
    fails, this process does its work.
    """

    def __init__(self, region: str, threads: int) -> None:
        self._region, self._threads = region, threads
        self._convert: Callable[[str], str | None] = partial(phones.phone, region)
        self._seen = 0
        self._pool: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._told = False
        self._processes: list[subprocess.Popen[bytes]] = []

    def convert(self, texts: Sequence[str]) -> list[str | None]:
        """Return the form of each text; raises what `signals.check` raises, in the main thread."""
        self._seen += len(texts)
        if self._threads > 1 and self._seen >= _ENOUGH and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "psicli-phones")
        parts = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
        converted: list[str | None] = []
        if self._pool is None:
            for part in parts:
                _check()
                converted += map(self._convert, part)
            return converted
        futures = [self._pool.submit(self._elsewhere, part) for part in parts]
        try:
            for future in futures:
                converted += _result(future)
        finally:
            for future in futures:
                future.cancel()
        return converted

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        for process in self._processes:
            _close_pipes(process)
        for process in self._processes:
            _end(process)
        self._processes.clear()

    def _elsewhere(self, texts: Sequence[str]) -> list[str | None]:
        """Let the process of this thread convert some texts; if it fails, convert them here."""
        if not hasattr(self._own, "process"):
            self._own.process = self._start()
        process = self._own.process
        if process is not None:
            with suppress(OSError):
                return _exchanged(process, texts)
            self._own.process = None
            self._processes.remove(process)
            _end(process)
            self._tell()
        return list(map(self._convert, texts))

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Start a process; return None if that is impossible."""
        command = [*_COMMAND, self._region]
        try:
            # Nobody reads what it says in distress, which could hold numbers.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
            )
        except OSError:
            self._tell()
            return None
        self._processes.append(process)
        return process

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            logger.warning("a process for phone numbers has failed; this one does its work, which takes longer")


def _exchanged(process: subprocess.Popen[bytes], texts: Sequence[str]) -> list[str | None]:
    """Return what a process makes of texts; raises OSError if it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    phone_worker.write_texts(process.stdin, texts)
    converted = phone_worker.read_texts(process.stdout)
    if converted is None or len(converted) != len(texts):
        raise BrokenPipeError
    return converted


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        # What is still to be written goes nowhere.
        with suppress(OSError):
            pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    _close_pipes(process)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _result(future: Future[list[str | None]]) -> list[str | None]:
    while not wait([future], signals.SLICE).done:
        _check()
    return future.result()


def _check() -> None:
    """Raise what `signals.check` raises; other threads than the main one end when they have read what they read."""
    if threading.current_thread() is threading.main_thread():
        signals.check()
