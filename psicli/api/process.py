"""The process of a run: `psicli run` with a channel for its progress, as a batch starts it.

Its report and its log go to files in a folder that only this user can read, so that this process need not read pipes in
time. The process ends with this one: the kernel sends it SIGTERM. That is also the way to cancel it, after which it
tells the other party and removes what it has made.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from psicli.api.errors import RunCancelledError, RunLostError
from psicli.batch import PSICLI, SET_BY_OPTIONS
from psicli.core.errors import DescriptorsError, reason
from psicli.core.records import dataclass
from psicli.report.channel import SETTINGS
from psicli.storage.files import private

# Variables that set options of `psicli run`. The arguments of the API take their place.
_NOT_PASSED_ON = SET_BY_OPTIONS | {
    "PSICLI_CONFIG", "PSICLI_MEMORY", "PSICLI_WORKERS", "PSICLI_LOCK_TIMEOUT", "PSICLI_KEEP_GOING", "PSICLI_RESUME",
    "PSICLI_LOG",
}  # fmt: skip
# How often to ask whether the caller has cancelled the run [ms].
_ASK_INTERVAL_MS = 100
# How long a process may take to end after SIGTERM [s].
_STOP_TIMEOUT = 15.0
_READ_BYTES = 1 << 16
_ERROR_LINE = re.compile(r"^\S+ ERROR (?:hint: )?(.*)$", re.MULTILINE)
_MOST_LOG_BYTES = 1 << 16


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    stage: `waiting` for the other party, or `running`. task: the one in progress; empty before the first. share: how
    much of all tasks is computed, from 0 to 1. What follows, matching and writing, has no progress: how long it takes
    depends on the matches.
    """

    stage: str
    task: str
    share: float


class Cancel(Protocol):
    """Whatever says that a run must end, such as a threading.Event."""

    def is_set(self) -> bool: ...


class Process:
    """A process of `psicli run`. Use it in a `with` block, at whose end the process has ended, too."""

    def __init__(self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        """Start the process. folder: for its report and its log. variables: values for ${NAME}; raises RunError."""
        self._report, self._log = folder / "report.json", folder / "log"
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        environment[SETTINGS] = json.dumps(dict(variables))
        try:
            self._channel, theirs = os.pipe()
        except OSError as exc:
            raise DescriptorsError(path="a pipe", reason=reason(exc)) from None
        try:
            with open(self._report, "xb", opener=private) as report, open(self._log, "xb", opener=private) as log:
                # With its own process group, an interrupt of the notebook does not reach it, but only this process.
                self._process = subprocess.Popen(
                    [*PSICLI, "run", *arguments, "--json", f"--channel={theirs}"],
                    stdin=subprocess.DEVNULL,
                    stdout=report,
                    stderr=log,
                    process_group=0,
                    pass_fds=(theirs,),
                    env=environment,
                )
        except BaseException:
            os.close(self._channel)
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Let the process end, however this one leaves the block; a second interrupt kills it."""
        try:
            if self._process.poll() is None:
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._channel)

    def follow(self, progress: Callable[[Progress], object] | None, cancel: Cancel | None) -> None:
        """Wait until the process has ended. Raises RunCancelledError, and what `progress` raises."""
        end = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            poll.register(end, select.POLLIN)
            rest = b""
            while True:
                if cancel is not None and cancel.is_set():
                    raise RunCancelledError
                ready = {descriptor for descriptor, _ in poll.poll(None if cancel is None else _ASK_INTERVAL_MS)}
                if self._channel in ready:
                    octets = os.read(self._channel, _READ_BYTES)
                    *lines, rest = (rest + octets).split(b"\n")
                    for line in lines if progress is not None else ():
                        assert progress is not None
                        progress(_progress(json.loads(line)))
                    if not octets:
                        poll.unregister(self._channel)
                elif end in ready:
                    self._process.wait()
                    return
        finally:
            os.close(end)

    def report(self) -> dict[str, Any]:
        """Return the report of the process, which has ended; raises RunLostError if it left none."""
        with suppress(ValueError):
            found = json.loads(self._report.read_bytes())
            if isinstance(found, dict):
                return found
        code = self._process.returncode
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name if -code in {*signal.Signals} else f'signal {-code}'}"
        else:
            said = _ERROR_LINE.findall(self._log.read_bytes()[-_MOST_LOG_BYTES:].decode("utf-8", "replace"))
            how = f"ended with exit code {code}{f' ({said[-1]})' if said else ''}"
        raise RunLostError(how=how)


def _progress(message: Mapping[str, Any]) -> Progress:
    return Progress(message["state"], message["task"], message["percent"] / 100)
