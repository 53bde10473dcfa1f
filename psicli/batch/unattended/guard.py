"""End the processes of a command when the batch that started it is gone.

The batch runs this file as a program of its own: not even SIGKILL lets the batch leave without closing the pipe between
them. It imports nothing of psicli, so it starts at once.
"""

import os
import signal
import sys
import time


def main() -> None:
    """Read the id of a process group and wait for the end of the pipe; then end the group."""
    # A service manager signals all processes of a batch, which then needs this one most.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    sys.stdin.read()
    if line:
        _end(int(line), float(sys.argv[1]))


def _end(group: int, grace: float) -> None:
    """End a group with SIGTERM, and after `grace` seconds with SIGKILL."""
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            time.sleep(0.05)
            # Raises ProcessLookupError when the last one has ended.
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # All of them have ended, or the rest has become another user's.
        pass


if __name__ == "__main__":
    main()
