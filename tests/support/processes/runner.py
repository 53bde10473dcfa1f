"""Run psicli as its users do: two processes, each with a job file that names only its own paths.

Every wait is for an event with a deadline, never for a fixed time. Every process that a test starts is gone when the
test ends.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from support.waiting import DEADLINE, wait_until

from psicli.core.failpoints import CONSENT, VARIABLE
from psicli.storage.locks import hold_dial, hold_port


def failing_at(point: str) -> dict[str, str]:
    """Return the environment of a run that fails on purpose: point is NAME:ACTION[:NTH], or empty for no failure."""
    return {VARIABLE: point, CONSENT: "yes"} if point else {}


# The environment of a run that must still be working when a test interferes with it.
SLOWLY = {"PSICLI_BACKEND": "reference"}
# The environment of a party that stops itself when it sends its first points, until it gets SIGCONT. This keeps the
# session open on a machine of any speed.
HELD = failing_at("frame.sending:stop")
LISTENER, DIALER = "alice", "bob"
PARTIES = (LISTENER, DIALER)
# Linux gives no program one of these ports by itself, neither to listen nor to connect: a port that is free now stays
# free until a test uses it. Ray's workers have those below.
PORTS = range(20_000, 30_000)


def other(party: str) -> str:
    return DIALER if party == LISTENER else LISTENER


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Yield free ports and reserve them against other test processes until the end."""
    folder = Path(tempfile.gettempdir()) / f"psicli-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    ports: list[int] = []
    with ExitStack() as locks:
        for port in secrets.SystemRandom().sample(PORTS, 1000):
            if len(ports) == count:
                break
            lock = locks.enter_context(open(folder / str(port), "w"))
            with suppress(OSError), socket.socket() as probe:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probe.bind(("", port))
                ports.append(port)
        assert len(ports) == count
        yield ports


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a process."""

    code: int
    stdout: bytes
    stderr: str
    # The time at which its standard error was closed, which is the time of its end [s, monotonic].
    ended: float

    @property
    def text(self) -> str:
        return self.stdout.decode() + self.stderr

    @property
    def errors(self) -> list[str]:
        """The error lines of the log, without time stamp and level."""
        return [line.split(" ERROR ", 1)[1] for line in self.stderr.splitlines() if " ERROR " in line]

    def below(self, error: str) -> list[str]:
        """Return the lines that follow the first line of an error."""
        lines = [line.partition(": ")[2] for line in self.errors]
        start = next(number for number, line in enumerate(lines) if error in line)
        return list(itertools.takewhile(lambda line: line.startswith(" "), lines[start + 1 :]))


class Run:
    """One psicli process."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str | None] | None = None,
        shell: str = "",
        before: str = "",
        program: Sequence[str] = ("-m", "psicli"),
        wrapper: Sequence[str | Path] = (),
        **popen: Any,
    ) -> None:
        """Start the process.

        shell: a redirection such as `>&-` for a shell that starts psicli. before: a command for this shell. env: a
        variable that is None is removed. program: the arguments of Python. wrapper: a command that runs Python.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
        command: list[Any] = [*wrapper, sys.executable, *program, *arguments]
        if shell or before:
            command = ["/bin/sh", "-c", f'{before}\nexec "$@" {shell}', "sh", *command]
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._silent = False
        self._stdout = b""
        self.started = self._ended = time.monotonic()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in {**inherited, **(env or {})}.items() if value is not None},
            **popen,
        )
        self._threads = [
            threading.Thread(target=self._feed, args=(self._popen.stdin, stdin), daemon=True),
            threading.Thread(target=self._read_stdout, args=(self._popen.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self._popen.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def lasts(self, seconds: float) -> bool:
        """Return whether the process keeps standard error open for this time [s]."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._silent, seconds)

    def wait_for_lines(self, count: int) -> None:
        """Wait until standard error has this many lines, or is closed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._silent or len(self._lines) >= count, DEADLINE)

    def wait_for(self, text: str) -> None:
        """Wait until a line on standard error contains a text."""
        with self._changed:
            self._changed.wait_for(lambda: self._silent or self._said(text), DEADLINE)
            assert self._said(text), f"no line with {text!r}, only {self._lines}"

    def said(self, text: str) -> bool:
        """Return whether a line on standard error contains a text by now."""
        with self._changed:
            return self._said(text)

    def _said(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def wait_until_stopped(self) -> None:
        """Wait until a failpoint has stopped the process; fail if the process ends before that."""

        def is_stopped() -> bool:
            assert self.lasts(0), f"the process has ended: {self._lines}"
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        wait_until(is_stopped, "the process is stopped")

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def result(self) -> Result:
        """Wait for the process to end and return its result."""
        try:
            code = self._popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {DEADLINE:.0f} s: {''.join(self._lines)}") from None
        for thread in self._threads:
            thread.join(DEADLINE)
        return Result(code, self._stdout, "".join(self._lines), self._ended)

    def kill(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self._popen.kill()
        self._popen.wait()
        for thread in self._threads:
            thread.join(DEADLINE)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()

    def _feed(self, pipe: IO[bytes], data: bytes) -> None:
        try:
            pipe.write(data)
            pipe.close()
        except BrokenPipeError:
            pass

    def _read_stdout(self, pipe: IO[bytes]) -> None:
        self._stdout = pipe.read()

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            with self._changed:
                self._lines.append(line.decode("utf-8", "backslashreplace"))
                self._changed.notify_all()
        with self._changed:
            self._silent = True
            self._ended = time.monotonic()
            self._changed.notify_all()


@dataclass(frozen=True)
class Side:
    """One party's part of a task."""

    keys: Sequence[str]
    input: str
    output: str | None = None


class Pair:
    """Two folders, a job file in each, and the processes started from them.

    jobs: the contents of the job files, which are written when a process is started. environment: variables for all
    processes. program: the arguments of Python in all processes. A test may change all three.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.folder = folder
        self.temp = folder / "tmp"
        self.temp.mkdir()
        self.environment: dict[str, str] = {}
        self.program: Sequence[str] = ("-m", "psicli")
        self._runs: list[Run] = []
        self._folders = {party: folder / party for party in PARTIES}
        self.jobs: dict[str, dict[str, Any]] = {}
        for party, own in self._folders.items():
            (own / "out").mkdir(parents=True)
            self.jobs[party] = {
                "job": "overlap",
                "self_party": party,
                "cluster": {
                    "nodes": [{"party": LISTENER, "address": f"127.0.0.1:{port}"}, {"party": DIALER}],
                    "link_desc": {
                        "connect_retry_times": 1200,
                        "connect_retry_interval_ms": 50,
                        "recv_timeout_ms": 60000,
                        # Give up soon, since a party that a test kills does not reconnect.
                        "reconnect_window_ms": 1000,
                    },
                },
                "psi": {"receiver": LISTENER},
                "tasks": [],
            }

    def path(self, party: str, name: str = "") -> Path:
        return self._folders[party] / name

    def add(self, name: str, alice: Side, bob: Side, **terms: object) -> None:
        """Add a task to both job files; each gets only its party's paths and keys."""
        for party, side in ((LISTENER, alice), (DIALER, bob)):
            task = {"name": name, "keys": {party: list(side.keys)}, "input_path": {party: side.input}, **terms}
            if side.output is not None:
                task["output_path"] = {party: side.output}
            self.jobs[party]["tasks"].append(task)

    def link(self, party: str, **settings: int) -> None:
        self.jobs[party]["cluster"]["link_desc"].update(settings)

    def start(self, party: str, *arguments: str, config: bool = True, **how: Any) -> Run:
        """Write the party's job file and start it."""
        path = self.job_file(party)
        return self.start_as_is(*(("--config", path) if config else ()), *arguments, **how)

    def job_file(self, party: str) -> Path:
        """Write the party's job file as it is now."""
        path = self.path(party, "job.yaml")
        path.write_text(yaml.safe_dump(self.jobs[party], sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    def start_as_is(self, *arguments: str | Path, **how: Any) -> Run:
        return self.start_command("run", *arguments, **how)

    def start_command(self, *arguments: str | Path, env: Mapping[str, str | None] | None = None, **how: Any) -> Run:
        folders = {"TMPDIR": str(self.temp), "PSICLI_STATE_DIR": str(self.folder / "state")}
        how = {"program": self.program, **how}
        run = Run(arguments, env={**folders, **self.environment, **(env or {})}, **how)
        self._runs.append(run)
        return run

    def run(self, *arguments: str) -> tuple[Result, Result]:
        """Run both parties until they end; return the listener's result first."""
        runs = [self.start(party, *arguments) for party in PARTIES]
        return runs[0].result(), runs[1].result()

    def files(self, party: str) -> dict[str, bytes]:
        """Return the contents of all files in a party's folder except the job file."""
        own = self._folders[party]
        found = {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*") if path.is_file()}
        found.pop("job.yaml", None)
        return found

    def nothing_left(self, *ports: int, killed: str | None = None) -> None:
        """Check that no process, lock, listening port or temporary file is left after the runs.

        killed: a party that was killed and therefore may leave temporary files.
        """
        assert processes_below(self.folder) == []
        for party, own in self._folders.items():
            if party != killed:
                assert [*own.rglob("*.psicli-*"), *own.rglob(".*")] == []
        if killed is None:
            assert [*(self.folder / "state").glob("run-*")] == []
            assert [path.name for path in self.temp.iterdir() if path.suffix != ".lock"] == []
        for port in ports or (self.port,):
            with hold_port("test", "test", "0.0.0.0", port, 0), hold_dial("test", DIALER, f"127.0.0.1:{port}", 0):
                pass

    def kill(self) -> None:
        for run in self._runs:
            run.kill()


def processes_below(folder: Path) -> list[int]:
    """Return the processes whose command line names a path in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class Tap:
    """A proxy that forwards connections to `port` to the listener and records every byte."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.connections: list[tuple[bytearray, bytearray]] = []
        self._target = target
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def octets(self) -> tuple[bytes, bytes]:
        """Return what the dialer and the listener sent over the connection that carried the session."""
        there, back = max(self.connections, key=lambda pair: len(pair[0]))
        return bytes(there), bytes(back)

    def messages(self) -> tuple[list[bytes], list[bytes]]:
        """Return the gRPC messages that the dialer and the listener sent, without the HTTP/2 framing."""
        there, back = self.octets()
        return _grpc_messages(there.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")), _grpc_messages(back)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        for each in (self._server, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self._sockets.append(near)
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:
                near.close()
                continue
            self._sockets.append(far)
            sent, received = bytearray(), bytearray()
            self.connections.append((sent, received))
            for source, goal, record in ((near, far, sent), (far, near, received)):
                threading.Thread(target=_copy, args=(source, goal, record), daemon=True).start()


def _copy(source: socket.socket, goal: socket.socket, record: bytearray) -> None:
    try:
        while octets := source.recv(1 << 16):
            record += octets
            goal.sendall(octets)
        goal.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _grpc_messages(octets: bytes) -> list[bytes]:
    """Split HTTP/2 octets into frames (RFC 9113 section 4.1), join the DATA frames and split them into messages."""
    parts, at = [], 0
    while at < len(octets):
        size, kind, flags = int.from_bytes(octets[at : at + 3], "big"), octets[at + 3], octets[at + 4]
        if kind == 0:
            assert not flags & 0x08, "padded"
            parts.append(octets[at + 9 : at + 9 + size])
        at += 9 + size
    data, at = b"".join(parts), 0
    messages = []
    while at < len(data):
        assert data[at] == 0, "compressed"
        size = int.from_bytes(data[at + 1 : at + 5], "big")
        messages.append(data[at + 5 : at + 5 + size])
        at += 5 + size
    return messages
