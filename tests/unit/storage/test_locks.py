"""Locks between real processes: who holds which, their files and their records."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.locks import (
    BECOME_NOBODY,
    HOLD,
    HOST,
    IMMEDIATELY,
    another_process,
    gets_it,
    needs_root,
    own,
    port_of,
    refused,
)
from support.processes.runner import free_ports
from support.waiting import DEADLINE, wait_until

from psicli.core.errors import BindError, LockHeldError, PortBusyError
from psicli.storage import locks
from psicli.storage.locks import PortLock, hold_dial, hold_port, holders

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


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("held", "wanted"),
    [("0.0.0.0", HOST), (HOST, "0.0.0.0"), pytest.param("::1", HOST, marks=ipv6), (HOST, "::")],
)
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
        with PortLock(f"port-{port}") as lock:
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


def test_a_system_without_ipv6(folder: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no socket for such an address."""

    class Socket(socket.socket):
        def __init__(self, *_: object) -> None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(BindError, match="cannot listen on this address: address family not supported"):
        gets_it(port)
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


# The files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_others_may_read_the_record_and_not_open_the_lock_whatever_the_umask(
    folder: Path, port: int, umask: int
) -> None:
    with another_process(folder, port_of(port), before=f"os.umask({umask})"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in own(folder).iterdir()}
        assert modes == {f"port-{port}.lock": 0o600, f"port-{port}.json": 0o644}
        assert stat.S_IMODE(own(folder).stat().st_mode) == 0o755


def test_no_file_stays(folder: Path, port: int) -> None:
    with hold_port("nightly", "alice", HOST, port, 0), hold_dial("nightly", "bob", "a:1", 0):
        assert len([*own(folder).iterdir()]) == 4
    assert [*own(folder).iterdir()] == []


def test_a_record_is_empty_and_gone_before_the_lock_is_free(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_port("nightly", "alice", HOST, port, 0) as lock, open(own(folder) / f"port-{port}.json") as record:
        found: list[str] = []
        real = locks._unlink

        def unlink(name: str, descriptor: int) -> None:
            refused(port)
            found.append(record.read())
            real(name, descriptor)

        monkeypatch.setattr(locks, "_unlink", unlink)
        lock.release()
        assert found == ["", ""]
        gets_it(port)
        # The end of the block must not remove files of the next holder.
        with another_process(folder, port_of(port)):
            lock.release()
            refused(port)


def test_removing_the_files_never_gives_a_lock_to_two(folder: Path, port: int) -> None:
    """Runs that start and end all the time: each sees nobody else while it holds the lock."""
    inside, seen = threading.Lock(), []

    def hold() -> None:
        for _ in range(100):
            with PortLock(f"port-{port}") as lock:
                wait_until(lock.try_acquire, "the lock")
                seen.append(inside.acquire(blocking=False))
                inside.release()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(hold) for _ in range(4)]:
            each.result(DEADLINE)
    assert seen == [True] * 400


def test_the_lock_of_a_killed_run_is_taken_over(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process:
        process.kill()
        process.wait(DEADLINE)
        assert len([*own(folder).iterdir()]) == 2
        assert holders() == []
    gets_it(port)
    assert [*own(folder).iterdir()] == []


def test_two_state_folders_share_the_locks(folder: Path, port: int) -> None:
    """A run from cron may have another environment than a run from a shell."""
    before = "os.environ.update(PSICLI_STATE_DIR='/nowhere', TMPDIR='/nowhere', XDG_RUNTIME_DIR='/nowhere')"
    with another_process(folder, port_of(port), before=before):
        refused(port)


# The record ------------------------------------------------------------------------------------------------------


@contextmanager
def glancing(name: Path) -> Iterator[None]:
    """Hold the shared lock of a reader of a record."""
    with open(name) as record:
        fcntl.flock(record, fcntl.LOCK_SH)
        yield


def test_readers_do_not_take_each_other_for_the_holder(folder: Path, port: int) -> None:
    with another_process(folder, port_of(port)) as process:
        process.kill()
        process.wait(DEADLINE)
    with glancing(own(folder) / f"port-{port}.json"):
        assert holders() == []
        # And they keep nobody from the lock.
        with hold_port("nightly", "alice", HOST, port, 0):
            assert [holder.pid for holder in holders()] == [os.getpid()]


def test_status_while_runs_start_and_end(folder: Path, port: int) -> None:
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
            assert holders() != []


def test_a_holder_that_is_stopped_while_it_writes_its_record(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status waits for the end of the record, though not for ever."""
    with hold_port("nightly", "alice", HOST, port, 0):
        whole, halves = os.pread, [True] * 10
        monkeypatch.setattr(
            os, "pread", lambda *where: whole(*where)[: 50 if halves and halves.pop() else locks.RECORD_BYTES]
        )
        assert [holder.pid for holder in holders()] == [os.getpid()]
        halves += [True] * 1000
        assert holders() == []


def test_the_record_shows_the_progress_of_a_run(folder: Path, port: int) -> None:
    with hold_port("nightly", "alice", HOST, port, 0) as lock:
        assert [(h.task, h.phase, h.percent) for h in holders()] == [("", "starting", 0)]
        lock.update("people", "exchanging", 40)
        lock.update("people", "exchanging", 41)
        assert [(h.task, h.phase, h.percent) for h in holders()] == [("people", "exchanging", 41)]


def test_only_this_user_sees_what_depends_on_the_matches(folder: Path, port: int) -> None:
    path = own(folder) / f"port-{port}.json"
    with hold_port("nightly", "alice", HOST, port, 0) as lock:
        lock.update("people", "exchanging", 100)
        before = path.read_bytes(), path.stat()
        for phase in ("matching", "done"):
            lock.update("people", phase, 0)
            assert [(h.task, h.phase) for h in holders()] == [("people", phase)]
            after = path.stat()
            assert path.read_bytes() == before[0]
            assert (after.st_mtime_ns, after.st_ctime_ns) == (before[1].st_mtime_ns, before[1].st_ctime_ns)
        lock.release()
        assert [*own(folder).iterdir()] == []
        gets_it(port)
        lock.update("planes", "matching", 0)
        assert [(h.task, h.phase) for h in holders()] == [("planes", "matching")]
    assert holders() == []
    assert [each.name for each in Path(os.environ["PSICLI_STATE_DIR"]).iterdir()] == ["lock"]


def test_status_lists_all_jobs_oldest_first(folder: Path) -> None:
    with free_ports(3) as ports, ExitStack() as stack:
        for number, port in enumerate(ports):
            stack.enter_context(hold_port(f"job-{number}", "alice", HOST, port, 0))
            record = own(folder) / f"port-{port}.json"
            facts = json.loads(record.read_bytes())
            record.write_text(json.dumps({**facts, "since": f"2026-01-0{3 - number}T00:00:00+00:00"}))
        assert [holder.job for holder in holders()] == ["job-2", "job-1", "job-0"]


def test_records_that_killed_runs_left_hide_no_holder(folder: Path, port: int) -> None:
    with hold_port("nightly", "alice", HOST, port, 0):
        record = (own(folder) / f"port-{port}.json").read_bytes()
        for number in range(3 * locks.MAX_HOLDERS):
            (own(folder) / f"port-{number}.json").write_bytes(record)
        assert [holder.job for holder in holders()] == ["nightly"]
