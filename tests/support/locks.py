"""Locks held by other processes and other users, in a folder that stands for /run/lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import DEADLINE

from psicli.core.errors import LockHeldError
from psicli.storage.locks import hold_port

NOBODY = 65534
HOST = "127.0.0.1"
# Much shorter than a real wait, and much longer than a busy machine needs [s].
IMMEDIATELY = DEADLINE / 2

HOLD = """
import os, sys
{before}
from psicli.storage import locks
locks.SHARED_FOLDERS = (locks.Path({folder!r}),)
{user}
with locks.{what} as lock:
    print("held", flush=True)
    sys.stdin.read()
"""
BECOME_NOBODY = f"""
import getpass, pwd
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def another_process(folder: Path, what: str, *, user: str = "", before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process until the end of the block."""
    code = HOLD.format(folder=str(folder), what=what, user=user, before=before)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def port_of(port: int, host: str = HOST) -> str:
    return f"hold_port('nightly', 'alice', {host!r}, {port}, 0)"


def refused(port: int, host: str = HOST, timeout: float = 0.0) -> LockHeldError:
    started = time.monotonic()
    with pytest.raises(LockHeldError) as caught, hold_port("other", "alice", host, port, timeout):
        pass
    assert time.monotonic() - started < timeout + IMMEDIATELY
    return caught.value


def gets_it(port: int, timeout: float = 0.0) -> None:
    with hold_port("other", "alice", HOST, port, timeout):
        pass


def own(folder: Path, uid: int | None = None) -> Path:
    """Return the folder for the locks of a user, by default of this one."""
    return folder / f"psicli-{os.geteuid() if uid is None else uid}"
