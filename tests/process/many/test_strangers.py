"""Another user of this machine attacks a simulation: its port, its certificates and shared folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from support.jobs.batches import one_task, whole_job
from support.many.batches import stopped
from support.processes.certificates import Authority
from support.processes.expectations import check_output, succeeded
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, failing_at
from support.waiting import DEADLINE, wait_until

from psicli.batch import simulate
from psicli.core.errors import PortBusyError
from psicli.protocol.bins import MOST_BIN_ITEMS
from psicli.protocol.messages import Abort, Hello, HelloOctets, TaskTerms
from psicli.protocol.wire import encode, encode_hello
from psicli.storage import locks
from psicli.transport.endpoint import METHOD, SERVICE

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# Dials the port in the first line of standard input before the dialer does, again and again, until standard input ends.
STRANGER = """
import encodings.idna, json, os, socket, ssl, sys, threading
from contextlib import suppress
import grpc
method, folder, *openings = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
context.load_cert_chain(folder + "/bob.pem", folder + "/bob.key")

def plaintext(port, opening):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(method)(iter([bytes.fromhex(opening)]), timeout=2)
        learned.extend(octets.hex() for octets in call)

def encrypted(port):
    with socket.create_connection(("127.0.0.1", port), 2) as plain, context.wrap_socket(plain) as secure:
        secure.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        learned.extend(filter(None, [secure.recv(100).hex()]))

learned, attacked, silent = [], 0, []
with suppress(grpc.RpcError):
    # Loads everything that another user may be unable to read.
    plaintext(1, openings[0])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
over = threading.Event()
print("ready", flush=True)
port = int(sys.stdin.readline())
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.wait(0.001):
    with suppress(OSError):
        connection = socket.create_connection(("127.0.0.1", port), 2)
        attacked += 1
        if len(silent) < 100:
            silent.append(connection)
        for attempt in (encrypted, *((lambda at, opening=opening: plaintext(at, opening)) for opening in openings)):
            with suppress(OSError, grpc.RpcError):
                attempt(port)
print(json.dumps({"attacked": attacked, "learned": learned}))
"""


@contextmanager
def stranger(folder: Path, *openings: bytes) -> Iterator[tuple[IO[str], list[dict[str, Any]]]]:
    """Let another user attack until the end of the block; yield where to write the port, and what it tells then."""
    Authority().issue(folder, DIALER, [DIALER])
    command = [sys.executable, "-c", STRANGER, f"/{SERVICE}/{METHOD}", folder, *(each.hex() for each in openings)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found: list[dict[str, Any]] = []
    with subprocess.Popen(command, **pipes, cwd="/") as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.stdin, found
            found.append(json.loads(process.communicate("", DEADLINE)[0]))
        finally:
            process.kill()


def port_of(pair: Pair) -> int:
    """Return the port of the simulation that starts, before its listener has bound it; no other user can read it."""

    def ports() -> list[str]:
        return [path.read_text() for path in (pair.folder / "state").glob("run-*/TLS/port")]

    wait_until(lambda: any(ports()), "the simulation has chosen a port")
    return int(ports()[0])


def shared_records() -> bytes:
    """Return the records of all locks, which every user can read; other runs make and remove theirs meanwhile."""
    found = b""
    for path in (each for folder in locks.SHARED_FOLDERS for each in folder.glob("psicli-[0-9]*/*.json")):
        with suppress(OSError):
            found += path.read_bytes()
    return found


@pytest.mark.more
def test_a_simulation_takes_no_part_from_another_user(pair: Pair) -> None:
    one_task(pair, 1500)
    job = whole_job(pair, lambda job: job.update(job="private"))
    terms = (TaskTerms("people", LISTENER, True, 1),)
    hello = encode_hello(Hello("0", DIALER, "private", terms, 2048, MOST_BIN_ITEMS, os.urandom(32)))
    with stranger(pair.folder, encode(HelloOctets(hello)), encode(Abort(65))) as (tell, found):
        run = pair.start_command("simulate", "--verbose", "--config", job)
        print(port_of(pair), file=tell, flush=True)
        run.wait_for("exchanging")
        status = pair.start_command("status", "--json").result()
        assert b"private" not in status.stdout
        assert b"private" not in shared_records()
        result = run.result()
    succeeded([result])
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
    assert found[0]["attacked"] > 0
    assert found[0]["learned"] == []
    assert " WARNING " not in result.stderr
    assert [path.name for path in (pair.folder / "state").iterdir()] == ["lock"]


@pytest.mark.more
def test_a_program_that_takes_the_port_first(pair: Pair) -> None:
    one_task(pair)
    # Both parties stop before the listener binds the port, and those of the second attempt stop, too.
    env = failing_at("lock.acquired:stop")
    run = pair.start_command("simulate", "--config", whole_job(pair), env=env)
    with socket.create_server(("127.0.0.1", port_of(pair))):
        while run.lasts(0.05):
            for each in stopped(run):
                with suppress(psutil.NoSuchProcess):
                    each.resume()
        result = run.result()
    succeeded([result])
    assert "another program took the port of the simulation first (attempt 1 of 5)" in result.stderr


@pytest.mark.more
def test_only_the_two_parties_can_read_the_certificates(pair: Pair) -> None:
    one_task(pair, 1500)
    run = pair.start_command("simulate", "--config", whole_job(pair))
    run.wait_for("in session with")
    (keys,) = (pair.folder / "state").glob("run-*/TLS")
    assert keys.stat().st_mode & 0o777 == keys.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in keys.rglob("*.key")) == ["alice.key", "bob.key"]
    succeeded([run.result()])
    assert not keys.exists()


def test_a_port_that_another_program_takes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The listener finds its port taken twice, then gets one; and no more than a few ports are tried."""
    ports: list[str] = []
    taken = {"error": {"class": PortBusyError.__name__}}
    reports: list[dict[str, Any]] = []

    def run(commands: object, folder: object, keys: object) -> tuple[list[int], dict[str, Any]]:
        report = reports.pop(0) if reports else taken
        ports.append("tried")
        return [75 if report is taken else 0, 69], {LISTENER: report, DIALER: None}

    monkeypatch.setattr(simulate, "_run", run)
    monkeypatch.setenv("PSICLI_STATE_DIR", str(tmp_path / "state"))
    job = tmp_path / "job.yaml"
    job.write_text(
        "job: t\ncluster: {nodes: [{party: alice, address: '127.0.0.1:1'}, {party: bob}]}\npsi: {receiver: alice}\n"
        "tasks: [{name: t, keys: {alice: [id], bob: [id]}, input_path: {alice: a.csv, bob: b.csv}, "
        "output_path: {alice: o.csv}}]\n"
    )
    assert simulate.simulate_job(job, {}, (), (), trace=None)[0] == 75
    assert len(ports) == simulate.PORTS
    ports.clear()
    reports += [taken, taken, {"error": None}]
    simulate.simulate_job(job, {}, (), (), trace=None)
    assert len(ports) == 3
