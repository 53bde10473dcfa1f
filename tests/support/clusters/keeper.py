"""Start one node of a Ray cluster, and end all its processes when standard input is closed.

`ray start` leaves daemons behind, and Ray overwrites the command line and the environment of some of its processes. As
their subreaper, this process stays the ancestor of all of them, so none escapes it. Its standard input is a pipe, which
the system closes even if the test is killed.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36
# Far longer than a node needs to start, even on a machine that runs other tests too [s].
START_WITHIN = 120.0
UP = "up"


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        print(start(sys.argv[1:]), flush=True)
        # The system reaps what ends from now on.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sys.stdin.read()
    finally:
        end_all()


def start(command: list[str]) -> str:
    """Return UP, or why the node cannot start, in one line."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not start within {START_WITHIN:.0f} s"
    said = " ".join((done.stdout + done.stderr).split())
    return UP if done.returncode == 0 else f"it ended with {done.returncode}: {said}"


def end_all() -> None:
    """Kill all descendants, and those that they start meanwhile."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while left := psutil.Process().children(recursive=True):
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
