"""What psicli finds out about a Ray cluster before it connects; none of this needs Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from support.job_files import SMALL, TASK, Load

from psicli.core.errors import PsicliError
from psicli.ray import check_installed, connection
from psicli.ray.connection import connected
from psicli.ray.errors import JobOnClusterError

# The first frame of a gRPC server without TLS.
SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes(6)
Server = Callable[[bytes], str]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_USE_TLS", *connection._TLS_FILES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a function that starts a server with one answer to all that it reads; an empty one hangs up."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1 << 12)
            client.sendall(answer)

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=serve, args=(listener, answer)))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def refused(address: str) -> tuple[int, str]:
    with pytest.raises(PsicliError) as caught:
        connection._check_head(connection._resolved(address))
    assert caught.value.advice
    return caught.value.code, caught.value.message


def test_a_head_without_tls(server: Server) -> None:
    connection._check_head(server(SETTINGS))


def test_a_head_with_tls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it answers, only its client can read."""
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name in connection._TLS_FILES:
        assert refused(server(b"")) == (78, f"{name} names no file that psicli can read")
        monkeypatch.setenv(name, __file__)
    connection._check_head(server(b""))


def test_different_settings_of_tls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = server(b"")
    assert refused(address) == (78, f"the Ray cluster at {address} takes no connection without TLS")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    address = server(SETTINGS)
    with pytest.raises(PsicliError) as caught:
        connection._check_head(address)
    assert (caught.value.code, caught.value.message) == (
        78,
        f"the Ray cluster at {address} does not use TLS, and psicli has RAY_USE_TLS=1",
    )
    # psicli has it already.
    assert "for `ray start` on every node" in caught.value.advice


def test_another_program(server: Server) -> None:
    address = server(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    whose = f"the head of the Ray cluster at {address} cannot be reached"
    assert refused(address) == (69, f"{whose}: another program answers there")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(connection, "_SOCKET_TIMEOUT", 0.1)
        assert refused(address) == (69, f"the head of the Ray cluster at {address} cannot be reached: no answer in 0 s")
    assert refused(address) == (69, f"the head of the Ray cluster at {address} cannot be reached: connection refused")


@pytest.mark.parametrize("address", ["192.0.2.77:6379", "[2001:db8::7]:6379"])
def test_another_machine_is_the_head(address: str) -> None:
    assert refused(address) == (78, f"this machine is not the head of the Ray cluster at {address}")


def test_the_variable_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert connection._resolved("auto") == "127.0.0.1:1"
    assert connection._resolved("127.0.0.1:2") == "127.0.0.1:2"
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    fault = "'ray://h:10001' is an address of Ray Client, which psicli does not use"
    assert refused("auto") == (78, f"RAY_ADDRESS cannot be used: {fault}")


@pytest.mark.parametrize("version", [None, "2.54.1", "1.13.0", "unknown"])
def test_ray_is_missing_or_too_old(load: Load, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    # The cluster is not looked for before.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    job = load(SMALL + TASK, workers="auto")
    with pytest.raises(PsicliError) as caught, connected(job):
        pass
    what = "not installed here" if version is None else f"{version} here; psicli needs 2.55 or later"
    assert caught.value.message == f"pipeline.workers is a Ray cluster, and the Python package ray is {what}"
    assert (caught.value.code, "pip install 'psicli[ray]'" in caught.value.advice) == (78, True)


@pytest.mark.parametrize("version", ["2.55.0", "2.60.0", "3.0.0.dev0"])
def test_ray_is_new_enough(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    check_installed()


def test_why_ray_refuses() -> None:
    ray = SimpleNamespace(exceptions=SimpleNamespace(AuthenticationError=PermissionError))
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.11.7\n"
        "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
    )
    faults = {
        "has Ray 2.55.0 with Python 3.11.7, and psicli has Ray 2.60.0 with Python 3.12.1": RuntimeError(text),
        "has other versions of Ray and Python than psicli": RuntimeError("Version mismatch: unknown"),
        "needs a token, and psicli found none": PermissionError(),
    }
    for fault, exc in faults.items():
        error = connection._refusal(ray, "h:1", exc)
        assert (error.code, error.message) == (78, f"the Ray cluster at h:1 {fault}")
    error = connection._refusal(ray, "h:1", RuntimeError("what Ray says"))
    assert (error.code, error.message.rpartition(": ")[2]) == (69, "Ray ended with RuntimeError")


def test_the_name_of_a_run_that_has_ended_is_free_soon(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its actor still answers for a moment. That of a run which goes on has the name, and so has one elsewhere."""
    for name in ("ray", "ray.util", "ray.util.scheduling_strategies"):
        monkeypatch.setitem(sys.modules, name, Mock())
    ended = subprocess.Popen(["true"])
    ended.wait()
    job, library, host = load(SMALL + TASK), Mock(), socket.gethostname()
    claims = library.remote.return_value.options.return_value.remote
    claims.side_effect, library.get.return_value = [ValueError, ValueError, "claim"], (host, ended.pid)
    assert connection._claim(library, job, "head") == "claim"
    for holder in ((host, os.getpid()), (host, 1), (f"not-{host}", ended.pid)):
        claims.side_effect, library.get.return_value = ValueError, holder
        with pytest.raises(
            JobOnClusterError, match=rf"already runs on this Ray cluster \(pid {holder[1]} on {holder[0]}"
        ):
            connection._claim(library, job, "head")


def test_only_our_lines_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with connection._kept_from_terminal() as said:
        os.write(2, b"[W] rpc_client.h:153\n")
        print("ours", file=sys.stderr)
        assert said() == b"[W] rpc_client.h:153\n"
    os.write(2, b"later\n")
    assert sys.stderr is before
    assert capfd.readouterr().err == "ours\nlater\n"


def test_a_call_that_was_given_up_stays_off_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in its thread, and would write while psicli tells the other party that it cannot begin."""
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    terminal = os.dup(2)
    try:
        with pytest.raises(TimeoutError), connection._kept_from_terminal():
            raise TimeoutError
        os.write(2, b"[W] gcs_client.cc:210\n")
        assert os.path.sameopenfile(sys.stderr.fileno(), terminal)
        print("ours", file=sys.stderr)
        sys.stderr.close()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
    assert capfd.readouterr().err == "ours\n"


def test_a_call_that_does_not_return() -> None:
    over = threading.Event()
    with pytest.raises(TimeoutError):
        connection._in_time(over.wait, 0.05)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        connection._in_time(over.wait, 60, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        connection._in_time(lambda: 1 // 0, 60)
    assert connection._in_time(lambda: 3, 60) == 3
    assert time.monotonic() - began < 30
    over.set()
