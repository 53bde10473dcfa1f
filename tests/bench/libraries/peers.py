"""Compare psicli with other PSI libraries: the same rows, both parties as processes on this machine, one table.

The script measures all libraries in the same way, from outside: the time from the start of both processes to the exit
of both, the peak memory of each process as the kernel counts it, and the bytes that pass a relay in front of each
listening port. The relay holds a caller until the port listens, so that dialling too early costs nothing. Each library
first runs once on a few rows, which is not measured. The table says which libraries found wrong rows, failed or are not
installed.

With --link the parties run in two network namespaces instead, joined by a link of that rate, and the bytes are those
that the link has sent. This needs root and the programs ip and tc of iproute2.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import network

PARTIES = RECEIVER, SENDER = "alice", "bob"
WORKER = Path(__file__).with_name("peer_worker.py")
PEERS_PYTHON = Path(__file__).parents[3] / ".venv-peers" / "bin" / "python"
# Name -> the argument of the worker; for psicli, the protocol and the format of the inputs.
CONTENDERS = {
    "psicli": "ecdh:csv",
    "psicli-parquet": "ecdh:parquet",
    "psicli-rr22": "rr22:csv",
    "psicli-rr22-parquet": "rr22:parquet",
    "spu-fourq": "PROTOCOL_ECDH:CURVE_FOURQ",
    "spu-25519": "PROTOCOL_ECDH:CURVE_25519",
    "spu-rr22": "PROTOCOL_RR22",
    "spu-kkrt": "PROTOCOL_KKRT",
    "openmined": "openmined",
}
WARM_UP_ROWS = 200
# How long a party may continue after the other one has failed [s].
GRACE = 5
JOB = """\
job: bench
cluster:
  nodes:
    - {{party: alice, address: "{reached}", listen_address: "{listens}"}}
    - {{party: bob}}
{tls}psi: {{receiver: alice, protocol: {protocol}}}
tasks:
  - name: rows
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: alice.{suffix}, bob: bob.{suffix}}}
    output_path: {{alice: alice-out.csv}}
"""
FOOTNOTE = """\
seconds      from the start of both processes to the exit of both
ratio        compared with psicli on the same CSV files
receiver     and sender: peak memory of the process
on the wire  TCP payload in both directions, counted by the same relay for all, or, with --link, whole Ethernet frames;
             a pair: per row of each party"""


@dataclass(frozen=True)
class Outcome:
    """The result of one run of one library, or the medians of several runs."""

    seconds: float
    receiver_peak_bytes: int
    sender_peak_bytes: int
    wire_bytes: int
    matched: int
    right: bool
    curve_code: str


@dataclass(frozen=True)
class Route:
    """How to reach a party: where it listens, and what the peer dials; before: a prefix of its command."""

    listens: str
    reached: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exit:
    code: int
    peak_bytes: int


class ContenderError(Exception):
    """A library failed; the text is the first cause."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows per party, half of them common (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="runs of each library, in turn; the table shows medians")
    parser.add_argument("--only", action="append", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--timeout", type=int, default=1800, help="limit for one run of one library [s] (%(default)s)")
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON, help="interpreter that has the libraries")
    parser.add_argument("--link", metavar="RATE", help="join the parties by a link of this rate, such as 10mbit")
    parser.add_argument("--memory", help="pipeline.memory of psicli, such as 2GB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.link and (reason := network.missing()):
        sys.exit(f"Cannot measure here: {reason}.")
    # Turn SIGTERM into an exception, so that the namespaces are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = [name for name in CONTENDERS if name in (options.only or CONTENDERS)]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="psicli-peers-") as folder:
        inputs, few = Path(folder, "inputs"), Path(folder, "few")
        generate(inputs, options.rows)
        generate(few, WARM_UP_ROWS)
        for name in names:
            with suppress(ContenderError):
                measure(name, few, WARM_UP_ROWS, options)
        for _ in range(options.runs):
            for name in [name for name in names if name not in failures]:
                try:
                    outcomes[name].append(measure(name, inputs, options.rows, options))
                except ContenderError as failure:
                    failures[name] = str(failure)
    results = {name: failures.get(name) or summarise(outcomes[name]) for name in names}
    (print_json if options.json else print_table)(results, options)
    if any(is_failure(name, result) for name, result in results.items()):
        sys.exit(1)


def is_failure(name: str, result: Outcome | str) -> bool:
    """Return whether a result is wrong or psicli failed; a library that cannot be measured is no failure."""
    return name.startswith("psicli") if isinstance(result, str) else not result.right


def generate(folder: Path, rows: int) -> None:
    """Write both inputs in a child process, since the kernel counts our own peak memory for the processes we start."""
    writer = multiprocessing.get_context("fork").Process(target=write_inputs, args=(folder, rows))
    writer.start()
    writer.join()
    if writer.exitcode != 0:
        sys.exit("Cannot write the inputs.")


def write_inputs(folder: Path, rows: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    for party, first in ((RECEIVER, 0), (SENDER, rows // 2)):
        numbers = list(range(first, first + rows))
        random.Random(party).shuffle(numbers)
        keys = [key_of(number) for number in numbers]
        with open(folder / f"{party}.csv", "w") as file:
            file.write("id,value\n")
            file.writelines(f"{key},{number}\n" for key, number in zip(keys, numbers, strict=True))
        parquet.write_table(pa.table({"id": keys, "value": numbers}), folder / f"{party}.parquet")


def key_of(number: int) -> str:
    return f"customer-{number:09d}"


def measure(name: str, inputs: Path, rows: int, options: argparse.Namespace) -> Outcome:
    """Run both parties in a new folder, since some libraries leave files there that speed up later runs."""
    link = linked(options.link) if options.link else relays()
    with tempfile.TemporaryDirectory(dir=inputs.parent) as place, link as (routes, passed):
        folder = Path(place)
        for file in inputs.iterdir():
            os.link(file, folder / file.name)
        if name.startswith("psicli"):
            commands = psicli_commands(name, folder, routes, options)
        else:
            commands = worker_commands(name, folder, routes, rows, options)
        started = time.monotonic()
        exits = run_both(commands, folder, options.timeout)
        seconds = time.monotonic() - started
        wire = passed()
        matched, right = check_output(folder / f"{RECEIVER}-out.csv", rows)
        said = {party: (folder / f"{party}.stdout").read_text(errors="replace") for party in PARTIES}
        remove_traces("".join(said.values()))
    receiver, sender = (exits[party].peak_bytes for party in PARTIES)
    return Outcome(seconds, receiver, sender, wire, matched, right, curve_code(said[RECEIVER]))


def curve_code(said: str) -> str:
    """Return the curve arithmetic named in psicli's report or SPU's log; both choose it to suit the processor."""
    named = re.search(r'"backend": "(.+)"|\] Using (.+)', said)
    return (named[1] or named[2]) if named else ""


def remove_traces(said: str) -> None:
    """Remove the traces that SPU leaves in /tmp regardless of TMPDIR."""
    for path in re.findall(r"Trace has been written to (/tmp/psi_\S+\.trace)", said):
        Path(path).unlink(missing_ok=True)


def psicli_commands(
    name: str, folder: Path, routes: dict[str, Route], options: argparse.Namespace
) -> dict[str, list[str]]:
    protocol, suffix = CONTENDERS[name].split(":")
    job, own = folder / "job.yaml", routes[RECEIVER]
    addresses = {"reached": own.reached, "listens": own.listens, "tls": "  tls: insecure\n" if options.link else ""}
    job.write_text(JOB.format(**addresses, protocol=protocol, suffix=suffix))
    command = [sys.executable, "-m", "psicli", "run"]
    command += ["--memory", options.memory] if options.memory else []
    command += ["--json", "--quiet", "--config", str(job), "--party"]
    return {party: [*routes[party].before, *command, party] for party in PARTIES}


def worker_commands(
    name: str, folder: Path, routes: dict[str, Route], rows: int, options: argparse.Namespace
) -> dict[str, list[str]]:
    command = [str(options.peers_python), str(WORKER), CONTENDERS[name], str(folder), str(rows), str(options.timeout)]
    return {
        party: [*routes[party].before, *command, party, routes[party].listens, routes[peer].reached]
        for party, peer in zip(PARTIES, reversed(PARTIES), strict=True)
    }


def run_both(commands: dict[str, list[str]], folder: Path, timeout: int) -> dict[str, Exit]:
    """Start both parties and wait for them; raise ContenderError with the message of the first to fail."""
    running: dict[str, int] = {}
    exits: dict[str, Exit] = {}
    try:
        for party, command in commands.items():
            running[party] = start(command, folder, party)
        deadline = time.monotonic() + timeout
        while running and time.monotonic() < deadline:
            for party in list(running):
                ended = ended_with(running[party])
                if ended is None:
                    continue
                del running[party]
                exits[party] = ended
                if ended.code != 0 and len(exits) == 1:
                    deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.002)
    finally:
        for pid in running.values():
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
    for party, ended in exits.items():
        if ended.code != 0:
            raise ContenderError(f"{party}: {first_cause(folder / f'{party}.stderr', ended.code)}")
    if running:
        raise ContenderError(f"{' and '.join(running)}: still running after {timeout} s")
    return exits


def start(command: list[str], folder: Path, party: str) -> int:
    """Start a party with its temporary files in the folder of its run; return its process id."""
    actions = [
        (os.POSIX_SPAWN_OPEN, number, folder / f"{party}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        for number, name in ((1, "stdout"), (2, "stderr"))
    ]
    try:
        # Keep benchmark runs out of this user's ledger.
        own = {"TMPDIR": str(folder), "PSICLI_STATE_DIR": str(folder / "state")}
        return os.posix_spawnp(command[0], command, os.environ | own, file_actions=actions)
    except OSError as error:
        raise ContenderError(f"{command[0]}: {error.strerror}") from error


def ended_with(pid: int) -> Exit | None:
    reaped, status, usage = os.wait4(pid, os.WNOHANG)
    # Linux gives ru_maxrss in KiB, as the maximum over the process and the children it waited for.
    return Exit(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024) if reaped else None


def first_cause(stderr: Path, code: int) -> str:
    lines = stderr.read_text(errors="replace").splitlines()
    marked = [line.partition("ERROR ")[2] for line in lines if "ERROR " in line]
    if code < 0:
        return signal.Signals(-code).name
    return (marked[:1] or lines[-1:] or [f"exit code {code}"])[0]


def check_output(path: Path, rows: int) -> tuple[int, bool]:
    """Return the number of matched rows, and whether they are exactly the common rows with their values."""
    seen = bytearray(rows)
    matched = 0
    right = True
    try:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                number = int(row["value"])
                right = right and row["id"] == key_of(number) and rows // 2 <= number < rows and not seen[number]
                matched += 1
                if right:
                    seen[number] = True
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ContenderError(f"cannot read the output: {type(error).__name__}") from error
    return matched, right and matched == rows - rows // 2


@contextmanager
def relays() -> Iterator[tuple[dict[str, Route], Callable[[], int]]]:
    """Yield each party's route, through a relay, and a function that returns how much has passed [bytes]."""
    passed: list[int] = []
    listeners = {party: socket.create_server(("127.0.0.1", 0)) for party in PARTIES}
    ports = {party: free_port() for party in PARTIES}
    for party, listener in listeners.items():
        threading.Thread(target=accept_all, args=(listener, ports[party], passed), daemon=True).start()
    try:
        yield (
            {
                party: Route(f"127.0.0.1:{ports[party]}", f"127.0.0.1:{listener.getsockname()[1]}")
                for party, listener in listeners.items()
            },
            lambda: sum(passed),
        )
    finally:
        for listener in listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@contextmanager
def linked(rate: str) -> Iterator[tuple[dict[str, Route], Callable[[], int]]]:
    """Yield each party's route, in a namespace of its own, and a function that returns what the link sent [bytes]."""
    with network.namespaces(rate) as names:
        addresses = {party: f"{network.ADDRESSES[party]}:{network.PORT}" for party in PARTIES}
        yield (
            {
                party: Route(addresses[party], addresses[party], ("ip", "netns", "exec", name))
                for party, name in names.items()
            },
            lambda: sum(map(network.sent_by, names.values())),
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accept_all(listener: socket.socket, port: int, passed: list[int]) -> None:
    with suppress(OSError):
        while True:
            caller = listener.accept()[0]
            threading.Thread(target=relay, args=(listener, caller, port, passed), daemon=True).start()


def relay(listener: socket.socket, caller: socket.socket, port: int, passed: list[int]) -> None:
    """Connect a caller to the port as soon as something listens there; give up when the run is over."""
    while listener.fileno() >= 0:
        with suppress(ConnectionRefusedError):
            called = socket.create_connection(("127.0.0.1", port))
            break
        time.sleep(0.002)
    else:
        caller.close()
        return
    back = threading.Thread(target=copy, args=(called, caller, passed), daemon=True)
    back.start()
    copy(caller, called, passed)
    back.join()
    caller.close()
    called.close()


def copy(source: socket.socket, sink: socket.socket, passed: list[int]) -> None:
    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError):
        while data := source.recv(1 << 18):
            passed.append(len(data))
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def summarise(runs: list[Outcome]) -> Outcome:
    """Return the medians of the runs, with the rows of the first wrong run if there is one."""
    return replace(
        next((run for run in runs if not run.right), runs[0]),
        seconds=statistics.median(run.seconds for run in runs),
        receiver_peak_bytes=int(statistics.median(run.receiver_peak_bytes for run in runs)),
        sender_peak_bytes=int(statistics.median(run.sender_peak_bytes for run in runs)),
        wire_bytes=int(statistics.median(run.wire_bytes for run in runs)),
    )


def print_json(results: dict[str, Outcome | str], options: argparse.Namespace) -> None:
    contenders = {
        name: {"failed": result} if isinstance(result, str) else asdict(result) for name, result in results.items()
    }
    head = {"rows": options.rows, "runs": options.runs, "cores": os.cpu_count()}
    print(json.dumps(head | {"contenders": contenders}, indent=2))


def print_table(results: dict[str, Outcome | str], options: argparse.Namespace) -> None:
    rows = options.rows
    base = results.get("psicli")
    over = f"; over {options.link}" if options.link else ""
    print(f"{rows:,} x {rows:,} rows, {rows - rows // 2:,} common; {os.cpu_count()} cores; runs: {options.runs}{over}")
    heads = f"{'receiver':>11} {'sender':>11} {'on the wire':>12} {'a pair':>9}"
    print(f"{'':20} {'seconds':>9} {'ratio':>8} {heads} {'matched':>12}  curve code")
    for name, result in results.items():
        if isinstance(result, str):
            print(f"{name:20} failed: {result}")
            continue
        ratio = "-" if base is None or isinstance(base, str) else f"{result.seconds / base.seconds:.2f}x"
        peaks = f"{result.receiver_peak_bytes / 1e6:8.1f} MB {result.sender_peak_bytes / 1e6:8.1f} MB"
        wire = f"{result.wire_bytes / 1e6:9.2f} MB {result.wire_bytes / rows:7.1f} B"
        found = f"{result.matched:12,}{'' if result.right else '  WRONG ROWS'}  {result.curve_code}".rstrip()
        print(f"{name:20} {result.seconds:9.2f} {ratio:>8} {peaks} {wire} {found}")
    print(FOOTNOTE)
    if any(isinstance(result, Outcome) and not result.right for result in results.values()):
        print("WRONG ROWS: the output does not hold exactly the common rows.")


if __name__ == "__main__":
    main()
