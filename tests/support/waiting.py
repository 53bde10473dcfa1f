"""Wait for a condition that another thread or process brings about, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

# Far longer than any wait takes, even on a slow machine that runs other tests too [s].
DEADLINE = 180.0


def wait_until(there: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll until a condition holds; what: the condition, for the message of a failure."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
