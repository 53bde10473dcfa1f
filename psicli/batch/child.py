"""A job's process: `psicli run`, what it says on its channel and in its log, its report, and its use of the machine.

The process ends with the batch, however the batch ends: the kernel sends it SIGTERM, after which it removes what it has
made. A batch reads all pipes of its processes in one thread.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from psicli.batch import PSICLI, SET_BY_OPTIONS
from psicli.batch.plan import Planned
from psicli.report.channel import SETTINGS

# Variables that are not for the process, because the batch sets these options or means itself by them; it reads the
# log of the process as text.
_NOT_PASSED_ON = SET_BY_OPTIONS | {
    "PSICLI_CONFIG", "PSICLI_MEMORY", "PSICLI_LOCK_TIMEOUT", "PSICLI_KEEP_GOING", "PSICLI_LOG",
}  # fmt: skip
# A longer line of a log, or a larger report, is cut: only a broken process writes one [bytes].
_LONGEST_LINE, _LARGEST_REPORT = 1 << 16, 1 << 26
_MOST_ERRORS = 200
_LINE = re.compile(r"\S+ (?P<level>DEBUG|INFO|WARNING|ERROR) (?P<text>.*)")
_NANO = 1e-9


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process. Other users can read its command line, so the settings are in one of them."""
    passed = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    return {**passed, SETTINGS: json.dumps(settings)}


class Child:
    """One process of a job."""

    def __init__(
        self,
        planned: Planned,
        *,
        memory: int,
        rendezvous: float | None,
        on_progress: Callable[[Mapping[str, Any]], None],
        on_line: Callable[[int, str], None],
        log: IO[bytes] | None,
    ) -> None:
        """Start the process; raises OSError.

        memory: its budget [bytes]. rendezvous: the longest wait for the peer [s]. on_progress, on_line: what to do with
        a message on the channel and a line of the log. log: a file that gets the whole log, too.
        """
        self._job, self._log, self._on_progress, self._on_line = planned.job.name, log, on_progress, on_line
        ours, channel = os.pipe()
        os.set_blocking(ours, False)
        entry = planned.entry
        command = [*PSICLI, "run", f"--config={entry.config}", f"--party={planned.job.party}", "--json", "--verbose"]
        command += [f"--only={task}" for task in entry.only] + [f"--port-offset={entry.port_offset}"]
        command += [f"--memory={memory}", f"--channel={channel}"]
        command += [] if rendezvous is None else [f"--rendezvous={rendezvous:.3f}"]
        try:
            # With its own process group, a terminal's Ctrl-C does not reach it; the batch then sends one SIGTERM.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                pass_fds=(channel,),
                env=_environment(entry.set),
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(channel)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pid = self._process.pid
        # What arrives on each pipe, and who takes it.
        self._takers: dict[int, Callable[[bytes], None]] = {
            self._process.stdout.fileno(): self._take_report,
            self._process.stderr.fileno(): self._take_lines,
            ours: self._take_progress,
        }
        self._channel = ours
        # It becomes readable when the process has ended; the pipes end a moment earlier.
        self._end = os.pidfd_open(self.pid)
        self._takers[self._end] = lambda _: None
        self._open = set(self._takers)
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
        self._rest: dict[int, bytes] = dict.fromkeys(self._takers, b"")
        self._report = b""
        # How long each thread has waited for a core [ns].
        self._delays: dict[str, int] = {}
        self.ended = False
        self.code = 0
        self.errors: list[str] = []
        self.computed = 0.0
        self.peak_memory = 0
        self.holds = 0

    @property
    def pipes(self) -> Sequence[int]:
        """The descriptors that may still have something to read, or to say that the process has ended."""
        return tuple(self._open)

    def read(self, descriptor: int) -> bool:
        """Take what has arrived on a pipe; return False once the pipe has ended."""
        try:
            octets = b"" if descriptor == self._end else os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        self._takers[descriptor](octets)
        if not octets:
            self._open.discard(descriptor)
        return bool(octets)

    def reap(self) -> bool:
        """Return whether the process has ended; then its exit code and what it used of the machine are known."""
        if self.ended:
            return True
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.ended = True
        self._process.returncode = os.waitstatus_to_exitcode(status)
        # A process that a signal ended has the code that a shell gives it.
        self.code = self._process.returncode if self._process.returncode >= 0 else 128 - self._process.returncode
        self.computed = usage.ru_utime + usage.ru_stime
        self.peak_memory = usage.ru_maxrss * 1024
        return True

    @property
    def killed_by(self) -> str | None:
        """The name of the signal that ended the process, if one did."""
        code = self._process.returncode
        if not self.ended or code is None or code >= 0:
            return None
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def look(self) -> None:
        """Note how much memory the process holds now, and how long its threads have waited for a core."""
        with suppress(psutil.Error, OSError, ValueError):
            self.holds = psutil.Process(self.pid).memory_info().rss
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                self._delays[thread.name] = int((thread / "schedstat").read_text().split()[1])

    @property
    def delayed(self) -> float:
        """How long its threads were ready to run but had no core, as far as it was seen [s]."""
        return _NANO * sum(self._delays.values())

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send the process a signal."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Take what is left in the pipes and close them; the process must have ended."""
        for descriptor in self.pipes:
            while select.select([descriptor], [], [], 0)[0] and self.read(descriptor):
                pass
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        os.close(self._channel)
        os.close(self._end)
        if self._log is not None:
            # A network disk may say only now that it is full.
            with suppress(OSError):
                self._log.close()

    def report(self) -> dict[str, Any] | None:
        """Return the report of the run; None if the process left none that is complete."""
        with suppress(ValueError):
            found = json.loads(self._report)
            if isinstance(found, dict):
                return found
        return None

    def _take_report(self, octets: bytes) -> None:
        if len(self._report) < _LARGEST_REPORT:
            self._report += octets

    def _take_progress(self, octets: bytes) -> None:
        for line in self._lines(self._channel, octets):
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._on_progress(message)

    def _take_lines(self, octets: bytes) -> None:
        if self._log is not None and octets:
            # A full disk must not end the batch; the report says what happened.
            with suppress(OSError):
                self._log.write(octets)
        assert self._process.stderr is not None
        for line in self._lines(self._process.stderr.fileno(), octets):
            text = line.decode("utf-8", "replace")
            found = _LINE.fullmatch(text)
            level = logging.ERROR
            if found is not None:
                level = logging.getLevelNamesMapping()[found["level"]]
                text = found["text"].removeprefix(self._job).removeprefix(": ").lstrip()
            if level < logging.ERROR:
                self._on_line(level, text)
            elif len(self.errors) < _MOST_ERRORS:
                # The report has them, too, if there is one.
                self.errors.append(text)

    def _lines(self, pipe: int, octets: bytes) -> list[bytes]:
        """Return the lines that are complete, and at the end of the pipe what is left."""
        *lines, self._rest[pipe] = (self._rest[pipe] + octets).split(b"\n")
        if (not octets or len(self._rest[pipe]) > _LONGEST_LINE) and self._rest[pipe]:
            lines.append(self._rest[pipe])
            self._rest[pipe] = b""
        return [line for line in lines if line]
