"""The channel of a run that belongs to a batch: a pipe on which the run says how far it is, as one JSON object a line.

Nothing on it depends on the matches but what the report of the run holds, and only the batch reads it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

WAITING, RUNNING = "waiting", "running"
# The environment variable in which a batch gives its runs the values for ${NAME}, as a JSON object.
SETTINGS = "PSICLI_SETTINGS"


class Channel:
    """The writing end of a channel. A batch that reads too slowly misses some progress, and never delays the run."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor; raises OSError if it is not open."""
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._last = ("", "", 0)

    def waits(self) -> None:
        """Say that the run waits for its peer."""
        self._tell(WAITING, "", 0)

    def progress(self, task: str, percent: int) -> None:
        """Say that the peer is there, which task is in progress, and how much of all tasks is masked [percent]."""
        self._tell(RUNNING, task, percent)

    def _tell(self, state: str, task: str, percent: int) -> None:
        if (state, task, percent) != self._last:
            self._last = (state, task, percent)
            line = json.dumps({"state": state, "task": task, "percent": percent})
            with suppress(OSError):
                os.write(self._descriptor, line.encode() + b"\n")
