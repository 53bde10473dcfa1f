"""Waiting for what another thread or process does: with a deadline, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

# A machine that runs other tests too may be slow; nothing takes near as long [s].
DEADLINE = 60.0


def wait_until(there: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
