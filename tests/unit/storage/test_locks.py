"""Locks between real processes, and lock files that any user of the machine may have tampered with."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.processes.runner import free_ports
from support.waiting import DEADLINE, wait_until

from psicli.core.errors import BindError, CannotCreateError, LockHeldError, PortBusyError
from psicli.storage import locks
from psicli.storage.locks import Holder, PortLock, dial_lock_path, hold_dial, hold_port, holders, port_lock_path

NOBODY = 65534
HOST = "127.0.0.1"
# Much shorter than a real wait, and much longer than a busy machine needs [s].
IMMEDIATELY = DEADLINE / 2

HOLD = """
import os, sys
{before}
from psicli.storage import locks
locks.SHARED_FOLDER = locks.Path({folder!r})
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


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace /run/lock by a folder for this test; unlike pytest's own folders, every user can reach it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        monkeypatch.setattr(locks, "SHARED_FOLDER", folder)
        yield folder


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]


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


# Who holds which lock --------------------------------------------------------------------------------------------


def test_the_second_run_learns_who_the_first_is(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process:
        error = refused(port)
        assert error.code == 75
        (holder,) = holders()
        assert (holder.job, holder.party, holder.where, holder.pid) == (
            "nightly",
            "alice",
            f"{HOST}:{port}",
            process.pid,
        )
        assert abs((datetime.now(UTC) - datetime.fromisoformat(holder.since)).total_seconds()) < DEADLINE
        who = f"job nightly of alice (pid {process.pid}, {holder.user}, since {holder.since})"
        assert error.message == f"port {port} is in use by {who}"
    gets_it(port)
    assert holders() == []


@pytest.mark.parametrize(("held", "wanted"), [("0.0.0.0", HOST), (HOST, "0.0.0.0"), ("::1", HOST), (HOST, "::")])
def test_one_lock_for_every_address_of_a_port(folder: Path, port: int, held: str, wanted: str) -> None:
    with hold_port("nightly", "alice", held, port, 0):
        assert "job nightly of alice" in refused(port, wanted).message


def test_a_dialer_holds_its_party_and_the_address(folder: Path, port: int) -> None:
    address = f"alice.example.com:{port}"
    with another_process(folder, f"hold_dial('nightly', 'bob', {address!r}, 0)") as process:
        with pytest.raises(LockHeldError) as caught, hold_dial("other", "bob", address, 0):
            pass
        assert f"from bob to {address} is in use by job nightly of bob (pid {process.pid}, " in caught.value.message
        # Another party, another address and the port itself have locks of their own.
        with (
            hold_dial("other", "carol", address, 0),
            hold_dial("other", "bob", f"{HOST}:{port}", 0),
            hold_port("other", "bob", HOST, port, 0),
        ):
            assert len(holders()) == 4


def test_a_killed_holder_frees_its_lock_immediately(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process:
        refused(port)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE)
        gets_it(port)
        assert holders() == []


def test_a_waiting_run_gets_the_lock_of_a_killed_holder(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gets_it, port, DEADLINE)
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        waiting.result(DEADLINE)
        assert time.monotonic() - killed < IMMEDIATELY


def test_a_wait_that_ends_in_time_and_one_that_does_not(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process, ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        refused(port, timeout=1.0)
        assert time.monotonic() - started >= 1.0
        waiting = pool.submit(gets_it, port, DEADLINE)
        assert process.stdin is not None
        process.stdin.close()
        waiting.result(DEADLINE)


def test_a_lock_is_held_by_a_run_not_by_a_process(folder: Path, port: int) -> None:
    with hold_port("nightly", "alice", HOST, port, 0):
        refused(port)
    gets_it(port)


def test_a_lock_does_not_pass_to_a_child(folder: Path, port: int) -> None:
    """A program that the run starts and that outlives it must not keep its port."""
    with hold_port("nightly", "alice", HOST, port, 0):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        gets_it(port)
    finally:
        child.kill()
        child.communicate()


# The bind is the authority ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("theirs", "ours"), [(HOST, HOST), ("0.0.0.0", HOST), (HOST, "0.0.0.0")])
def test_another_program_on_the_port(folder: Path, port: int, theirs: str, ours: str) -> None:
    with socket.create_server((theirs, port)):
        with pytest.raises(PortBusyError) as caught, hold_port("other", "alice", ours, port, 0):
            pass
        assert caught.value.message == f"{ours}:{port}: the port is in use by another program"
        # The failed run has released its lock.
        with PortLock(port_lock_path(port)) as lock:
            assert lock.try_acquire()
    gets_it(port)


def test_a_wait_for_another_program(folder: Path, port: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        with socket.create_server((HOST, port)):
            waiting = pool.submit(gets_it, port, DEADLINE)
            # It already has the lock and only waits for the port.
            wait_until(holders, "the waiting run has the lock")
        waiting.result(DEADLINE)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine_fails_without_waiting(folder: Path, port: int, host: str) -> None:
    started = time.monotonic()
    with pytest.raises(BindError) as caught, hold_port("other", "alice", host, port, DEADLINE):
        pass
    assert time.monotonic() - started < IMMEDIATELY
    assert caught.value.code == 78
    assert "cannot listen on this address: " in caught.value.message
    assert "a port of 1024 or more" in caught.value.advice
    assert holders() == []


@needs_root
def test_a_port_only_root_may_use(folder: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("here every user may use every port")
    code = HOLD.format(folder=str(folder), what=port_of(1), user=BECOME_NOBODY, before="")
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL
    )
    assert "psicli.core.errors.BindError: 127.0.0.1:1: cannot listen on this address: permission denied" in run.stderr


def test_connections_of_the_last_run_do_not_keep_the_port(folder: Path, port: int) -> None:
    """Sockets in TIME_WAIT do not listen."""
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)) as client:
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)
    gets_it(port)


# The file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_every_user_may_read_and_lock_the_file_whatever_the_umask(folder: Path, port: int, umask: int) -> None:
    with another_process(folder, port_of(port), before=f"os.umask({umask})"):
        assert stat.S_IMODE(port_lock_path(port).stat().st_mode) == 0o666


def test_the_file_stays(folder: Path, port: int) -> None:
    """If the file were unlinked, two runs could hold two locks with the same name."""
    with hold_port("nightly", "alice", HOST, port, 0), hold_dial("nightly", "bob", "a:1", 0):
        before = {path: path.stat().st_ino for path in (port_lock_path(port), dial_lock_path("bob", "a:1"))}
    gets_it(port)
    with hold_dial("nightly", "bob", "a:1", 0):
        pass
    assert {path: path.stat().st_ino for path in before} == before


def test_without_a_shared_folder_the_locks_are_in_the_temporary_folder(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SHARED_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    with hold_port("nightly", "alice", HOST, port, 0):
        assert port_lock_path(port).parent == tmp_path
        refused(port)
    # A folder that not every user can write to is not used for locks.
    (tmp_path / "own").mkdir(mode=0o755)
    monkeypatch.setattr(locks, "SHARED_FOLDER", tmp_path / "own")
    assert port_lock_path(port).parent == tmp_path


def test_a_folder_that_cannot_be_used(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SHARED_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path / "nowhere, too"))
    with pytest.raises(CannotCreateError) as caught, hold_port("nightly", "alice", HOST, port, 0):
        pass
    assert caught.value.code == 73


def _symlink(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("precious")
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("not-there"))


@pytest.mark.parametrize(
    "put", [_symlink, _dangling, os.mkfifo, Path.mkdir], ids=["symlink", "dangling symlink", "fifo", "folder"]
)
def test_a_lock_file_that_is_not_a_regular_file_is_refused(folder: Path, port: int, put: Any) -> None:
    put(port_lock_path(port))
    with pytest.raises(CannotCreateError), hold_port("nightly", "alice", HOST, port, 0):
        pass
    assert holders() == []
    assert not (folder / "not-there").exists()
    if (folder / "target").exists():
        assert (folder / "target").read_text() == "precious"


@needs_root
def test_a_read_only_fifo_does_not_block_anybody(folder: Path, port: int) -> None:
    """Opening it in blocking mode would wait for a writer forever."""
    os.mkfifo(port_lock_path(port), 0o444)
    code = HOLD.format(folder=str(folder), what=port_of(port), user=BECOME_NOBODY, before="")
    looking = HOLD.format(folder=str(folder), what="holders()", user=BECOME_NOBODY, before="")
    for script, said in ((code, "CannotCreateError"), (looking, "context manager")):
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE / 4,
        )
        assert said in run.stderr


GOOD = vars(Holder("nightly", "alice", "127.0.0.1:1", 7, "root", "2026-01-01T00:00:00+00:00"))
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "not UTF-8": b"\xff\xfe\x00\xd8",
    "another kind": b"[1, 2]",
    "a number": b"7",
    "no job": json.dumps({name: value for name, value in GOOD.items() if name != "job"}).encode(),
    "a pid that is none": json.dumps({**GOOD, "pid": "init"}).encode(),
    "an endless pid": json.dumps({**GOOD, "pid": float("inf")}).encode(),
    "a pid of many digits": json.dumps(GOOD).replace("7", "7" * 3000).encode(),
    "no percentage": json.dumps({**GOOD, "percent": [1]}).encode(),
    "deep": b"[" * 4096,
    "deep objects": b'{"a":' * 800,
    "huge": json.dumps(GOOD).encode() + b" " * (1 << 20),
    "escapes": json.dumps({**GOOD, "job": "\x1b]0;owned\x07\x1b[2J", "user": "\u202eroot\n"}).encode(),
    "long": json.dumps({**GOOD, "job": "x" * 3000}).encode(),
    "other types": json.dumps({**GOOD, "job": {"a": [1]}, "since": None, "task": 7}).encode(),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_shown_harmlessly(folder: Path, port: int, content: bytes) -> None:
    """The lock still holds; the content of its file is only shown, never trusted."""
    with PortLock(port_lock_path(port)) as lock:
        assert lock.try_acquire()
        os.pwrite(lock._file, content, 0)
        message = refused(port).message
        shown = [str(value) for holder in holders() for value in vars(holder).values()]
        for text in (message, *shown):
            assert text.isascii()
            assert text.isprintable()
        assert len(message) < 1000
        assert sum(map(len, shown)) < 2000
    # And the next holder's record is clean.
    with hold_port("nightly", "alice", HOST, port, 0) as mine:
        found = mine.read()
        assert found is not None
        assert (found.job, found.pid) == ("nightly", os.getpid())
        assert [holder.pid for holder in holders()] == [os.getpid()]


# Other users -----------------------------------------------------------------------------------------------------


@needs_root
def test_another_users_lock_holds(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port), user=BECOME_NOBODY) as process:
        assert port_lock_path(port).stat().st_uid == NOBODY
        assert f"job nightly of alice (pid {process.pid}, nobody, since " in refused(port).message
    # Now the file belongs to the other user, but the lock belongs to this process.
    with hold_port("nightly", "alice", HOST, port, 0):
        assert [holder.pid for holder in holders()] == [os.getpid()]


@needs_root
@pytest.mark.parametrize("mode", [0o666, 0o644, 0o444])
def test_a_read_only_file_can_be_locked(folder: Path, port: int, mode: int) -> None:
    path = port_lock_path(port)
    path.touch()
    path.chmod(mode)
    with another_process(folder, port_of(port), user=BECOME_NOBODY) as process:
        message = refused(port).message
        assert (f"pid {process.pid}" in message) == (mode == 0o666)
        assert mode == 0o666 or "an unknown job" in message
    gets_it(port)


# Testing a lock is not holding it --------------------------------------------------------------------------------


@pytest.fixture
def long_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `psicli status` enough time for its test of a lock, even on a slow machine."""
    monkeypatch.setattr(locks, "GLANCE", DEADLINE)


def test_a_glance_never_turns_a_run_away(
    folder: Path, port: int, long_glance: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`psicli status` holds each lock for a moment; a run that starts at that moment waits for it."""
    gets_it(port)
    turned_away = threading.Event()
    real = PortLock.try_acquire

    def seen(lock: PortLock, **how: Any) -> bool:
        got = real(lock, **how)
        if not got:
            turned_away.set()
        return got

    monkeypatch.setattr(PortLock, "try_acquire", seen)
    with ThreadPoolExecutor(1) as pool, ExitStack() as glance:
        descriptor = os.open(port_lock_path(port), os.O_RDONLY)
        glance.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        starting = pool.submit(gets_it, port)
        assert turned_away.wait(DEADLINE)
        glance.close()
        starting.result(DEADLINE)


def test_two_glances_at_the_same_time_do_not_see_each_other(folder: Path, port: int) -> None:
    """The file still names the last job; two readers of the status must not mistake each other for that job."""
    gets_it(port)
    with PortLock(port_lock_path(port)) as lock:
        found: list[list[Holder]] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                found.append(holders())

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            found.append(holders())
        stop.set()
        for thread in threads:
            thread.join()
        assert lock.read() is not None
    assert [seen for seen in found if seen] == []


def test_status_while_runs_start_and_end(folder: Path, port: int, long_glance: None) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            assert {holder.job for holder in holders()} <= {"other"}

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(50):
            gets_it(port)
        stop.set()
        looking.result(DEADLINE)


def test_a_record_can_be_read_while_it_changes(folder: Path, port: int) -> None:
    """A reader never sees a mix of two records, so that status does not miss a running job."""
    with hold_port("nightly", "alice", HOST, port, 0) as lock, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(
            lambda: [lock.update("t" * (number % 60), "exchanging", number % 101) for number in range(3000)]
        )
        while not writing.done():
            assert lock.read() is not None


def test_the_record_shows_the_progress_of_a_run(folder: Path, port: int) -> None:
    with hold_port("nightly", "alice", HOST, port, 0) as lock:
        assert [(h.task, h.phase, h.percent) for h in holders()] == [("", "starting", 0)]
        lock.update("people", "exchanging", 40)
        lock.update("people", "exchanging", 41)
        assert [(h.task, h.phase, h.percent) for h in holders()] == [("people", "exchanging", 41)]


def test_status_lists_all_jobs_oldest_first(folder: Path) -> None:
    with free_ports(3) as ports, ExitStack() as stack:
        for number, port in enumerate(ports):
            lock = stack.enter_context(hold_port(f"job-{number}", "alice", HOST, port, 0))
            holder = lock.read()
            assert holder is not None
            lock.write(Holder(**{**vars(holder), "since": f"2026-01-0{3 - number}T00:00:00+00:00"}))
        assert [holder.job for holder in holders()] == ["job-2", "job-1", "job-0"]
