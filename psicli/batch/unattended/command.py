"""One command of a batch, such as a hook: it ends in time, and with the batch, and prints no more than is read.

The command runs in a process group of its own, so that a timeout, a failure or a signal ends all processes that it has
started; if the batch itself is killed, its guard does that. A command that ends well may leave a process behind on
purpose, such as the server of a file system that it has mounted.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import field
from pathlib import Path

import psutil

from psicli.batch.unattended import guard
from psicli.core import signals
from psicli.core.errors import counted, printable, reason
from psicli.core.records import dataclass
from psicli.report.console import duration

# How long a command may take to end after SIGTERM, and then after SIGKILL [s].
GRACE = 5.0
# How often a command is looked at, unless it prints something [s].
_STEP = 0.1
# The most of its output that is passed on: lines, and characters of each.
MOST_LINES, MOST_CHARACTERS = 200, 500
_CHUNK = 65536
# What is still read of the output when the command has ended, but a process that it started goes on printing.
_MOST_CHUNKS = 16


def run_command(
    command: Sequence[str],
    folder: Path | None,
    variables: Mapping[str, str],
    seconds: float,
    tell: Callable[[str], object],
) -> str | None:
    """Run a command for at most `seconds` [s]; return what went wrong as a verb phrase, or None.

    folder: where it runs, by default the current one. variables: its environment, besides that of this process. tell:
    gets each line of the output. Raises what `signals.check` raises, when the command has ended.
    """
    parent = os.getpid()
    with ExitStack() as stack:
        try:
            watch = stack.enter_context(_guard())
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **variables},
                process_group=0,
                preexec_fn=lambda: _end_with(parent),
            )
        except OSError as exc:
            return f"cannot be started: {reason(exc)}"
        watch(process.pid)
        return _Running(process, _Output(tell)).finish(seconds)


@contextmanager
def _guard() -> Iterator[Callable[[int], None]]:
    """Start a guard and yield what tells it which group to end if this process dies meanwhile; raises OSError."""
    command = [sys.executable, "-I", "-S", guard.__file__, str(GRACE)]
    # In a session of its own, no key ends it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        pipe = process.stdin
        assert pipe is not None

        def watch(group: int) -> None:
            # Somebody may have killed it.
            with suppress(OSError):
                os.write(pipe.fileno(), b"%d\n" % group)

        try:
            yield watch
        finally:
            # Before the pipe is closed.
            process.kill()


def _end_with(parent: int) -> None:
    """Let the kernel end this process, which has just been forked, as soon as its parent ends in any way."""
    signals.ask_for_sigterm()
    if os.getppid() != parent:
        os._exit(1)


@dataclass
class _Output:
    """The lines that a command prints, as far as they are passed on."""

    tell: Callable[[str], object]
    lines: int = 0
    _line: bytearray = field(default_factory=bytearray, repr=False)

    def add(self, octets: bytes) -> None:
        *ends, rest = octets.split(b"\n")
        for end in ends:
            self._extend(end)
            self._pass_on()
        self._extend(rest)

    def close(self) -> None:
        """Pass on a last line without an end, and say how many lines were left out."""
        if self._line:
            self._pass_on()
        if self.lines > MOST_LINES:
            self.tell(f"… and {counted(self.lines - MOST_LINES, 'more line')}")

    def _extend(self, octets: bytes) -> None:
        # A character has at most four octets.
        self._line += octets[: max(4 * MOST_CHARACTERS + 1 - len(self._line), 0)]

    def _pass_on(self) -> None:
        self.lines += 1
        if self.lines <= MOST_LINES:
            text = self._line.decode("utf-8", "backslashreplace").rstrip("\r")
            self.tell(printable(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"))
        self._line.clear()


@dataclass
class _Running:
    """A command that has been started. Its process is reaped last, so that no other one can get its id meanwhile."""

    process: subprocess.Popen[bytes] = field(repr=False)
    output: _Output
    _is_open: bool = True

    def finish(self, seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        in_time = False
        try:
            while not (in_time := self._has_ended()) and time.monotonic() < deadline:
                signals.check()
                self._read(_STEP)
        finally:
            if not (in_time and self._has_ended_well()):
                self._stop()
            self._close()
        code = self.process.returncode
        if not in_time:
            left = "" if code is not None else ", and cannot be ended"
            return f"did not end within {duration(seconds)}{left}"
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}" if code else None

    def _end(self) -> os.waitid_result | None:
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _has_ended(self) -> bool:
        return self._end() is not None

    def _has_ended_well(self) -> bool:
        end = self._end()
        return end is not None and end.si_code == os.CLD_EXITED and end.si_status == 0

    def _is_alive(self) -> bool:
        """Return whether a process of the group runs; those that have ended may not have been waited for."""
        return not self._has_ended() or any(map(self._is_member, psutil.pids()))

    def _is_member(self, pid: int) -> bool:
        with suppress(OSError, psutil.Error):
            return os.getpgid(pid) == self.process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    def _stop(self) -> None:
        """End the command and whatever it has started and left in its group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            # A command that has become another user's, such as sudo, does not take our signals.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)
            deadline = time.monotonic() + GRACE
            while self._is_alive() and time.monotonic() < deadline:
                self._read(_STEP)

    def _read(self, seconds: float) -> bool:
        """Wait for output for at most `seconds` [s] and pass it on; return whether there was any."""
        assert self.process.stdout is not None
        if not self._is_open:
            time.sleep(seconds)
            return False
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return False
        octets = os.read(self.process.stdout.fileno(), _CHUNK)
        self.output.add(octets)
        self._is_open = bool(octets)
        return self._is_open

    def _close(self) -> None:
        assert self.process.stdout is not None
        for _ in range(_MOST_CHUNKS):
            if not self._is_open or not self._read(0):
                break
        self.output.close()
        self.process.stdout.close()
        self.process.poll()
