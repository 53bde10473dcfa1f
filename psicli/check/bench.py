"""How fast the curve backends are on this machine, compared with X25519 of the package `cryptography`.

All measurements take turns in short slices, so that other load on the machine affects them equally. Each result is the
median of several rounds. The speed of rr22 follows from the processor time of whole bins. No secret is used here.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import field
from pathlib import Path
from statistics import median
from subprocess import PIPE
from time import perf_counter, process_time
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from psicli import __version__, curve
from psicli.check.estimate import RECEIVE, SEND
from psicli.core import signals
from psicli.core.errors import InternalError, VariableError, counted
from psicli.core.records import dataclass
from psicli.curve import reference
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.report.layout import PLAIN, Screen, table

ROUNDS = 5
# The number of points in the largest call: a full frame of the protocol.
MOST_POINTS = 16_384
# The number of points in the smallest call. The thread pool does not divide fewer, and the reference is slow.
LEAST_POINTS = 512
FEW_POINTS = 8
COMPARED_WITH = "cryptography"
# The longest time that each line runs before its first round [s].
WARM_UP = 1.0
# How often the start of a run is measured.
STARTS = 2
# How long `psicli check` measures each of the two operations [s].
RATE_SECONDS = 0.05
# The items of the bin of rr22 that is measured, with the native backend and with the reference.
VECTOR_ITEMS, FEW_VECTOR_ITEMS = 1 << 14, 1 << 11
# How much processor time a container may have in each period (cgroup 2) [us].
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")

# The tokens of a million items.
TOKEN_BYTES = token_bytes(10**6, 10**6)
SCALAR = bytes(range(32))
PREFIX = bytes(33)


@dataclass
class Loop:
    """Work on packed points that is called in a loop. work: the function to call with the number of points."""

    work: Callable[[int], object]
    threads: int = 1
    count: int = LEAST_POINTS
    # How many points it has worked on [points].
    points: int = 0

    def __call__(self, seconds: float) -> float:
        """Work for this time [s], up to the end of a call; return the points per second.

        The calls grow until one fills much of the time, so the first result is too low.
        """
        curve.set_threads(self.threads)
        points, taken = 0, 0.0
        while taken < seconds:
            signals.check()
            started = perf_counter()
            self.work(self.count)
            call = perf_counter() - started
            points, taken = points + self.count, taken + call
            self.points += self.count
            if call < seconds / 2 and self.count < MOST_POINTS:
                self.count *= 2
        return points / taken


class Workers:
    """Processes that multiply points at the same time, each in one thread."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        """Start this many processes; the stack ends them."""
        # Options on the command line override variables of the environment.
        command = [sys.executable, "-P", "-m", "psicli", "bench", "--worker", "--seconds=1", "--json"]
        self._pipes = []
        for _ in range(count):
            # With its own process group, a terminal's Ctrl-C does not reach it.
            process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1, process_group=0)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            self._pipes.append((process.stdin, process.stdout))

    def __call__(self, seconds: float) -> float:
        """Let all processes work for this time [s]; return the points per second of all together."""
        for questions, _ in self._pipes:
            questions.write(f"{seconds}\n")
        with signals.allowed():
            lines = [answers.readline() for _, answers in self._pipes]
        if not all(lines):
            raise InternalError(detail="a worker process of the benchmark ended early")
        return sum(map(float, lines))


def work_for_another_process(lines: IO[str], answers: IO[str]) -> None:
    """Serve as a worker: for each line with a time [s], multiply points and answer with the points per second."""
    loop = Loop(_kernel_work(curve.backend())["mask"])
    for line in lines:
        answers.write(f"{loop(float(line))}\n")
        answers.flush()


@dataclass
class Measurement:
    """What one row measures, and its points per second in each round."""

    backend: str
    operation: str
    run: Loop | Workers
    threads: int = 1
    processes: int = 1
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)


def measure(seconds: float) -> dict[str, Any]:
    """Measure every backend and CPU path of this machine, each for this time [s]; return the facts as JSON has them.

    Of rr22, only the backend in use is measured: a bin in each role.
    Raises SelfCheckError if one of them gives a wrong result.
    """
    # Imported late, because only what measures rr22 needs it.
    from psicli import ole

    cores, in_use, of_vectors = curve.threads(), curve.backend(), ole.backend()
    found = [Measurement(COMPARED_WITH, "X25519", Loop(_plain_work(), count=FEW_POINTS))]
    with ExitStack() as stack:
        for name in curve.BACKENDS:
            curve.self_test(name)
            # Only the native backends use several threads.
            native = name != reference.NAME
            for operation, work in _kernel_work(name).items():
                found.append(Measurement(name, operation, Loop(work, count=LEAST_POINTS if native else FEW_POINTS)))
                if native and cores > 1:
                    found.append(Measurement(name, operation, Loop(work, cores), threads=cores))
            if native and cores > 1 and name == in_use:
                # It runs right after the threads that it is compared with.
                found.append(Measurement(name, "mask", Workers(cores, stack), processes=cores))
        for each in found:
            each.run(min(seconds / ROUNDS, WARM_UP))
        for _ in range(ROUNDS):
            for each in found:
                each.rates.append(each.run(seconds / ROUNDS))
    ole.self_test()
    vectors = {"backend": of_vectors, "vectors_per_second": _vector_rates()}
    return {**_facts(found, seconds, cores, in_use), "rr22": vectors}


def rates() -> dict[str, float]:
    """Return the speed of the backends in use with the number of threads in use, by operation [per second].

    It follows from the processor time, so that it is that of a machine with nothing else to do. Without those of rr22
    if the environment asks for its native kernel and there is none: a run by ecdh does not need it.
    """
    width = min(curve.threads(), cores())
    found: dict[str, float] = {}
    with suppress(VariableError):
        found = {name: width * rate for name, rate in _vector_rates().items()}
    for operation, work in _kernel_work(curve.backend()).items():
        loop = Loop(work, curve.threads(), FEW_POINTS)
        # The calls grow in the first one.
        loop(RATE_SECONDS)
        began, points = process_time(), loop.points
        loop(RATE_SECONDS)
        found[operation] = (loop.points - points) * width / (process_time() - began)
    return found


def _vector_rates() -> dict[str, float]:
    """Return how many items and bins of rr22 a core does, in each role, besides each other [per second]."""
    from psicli import ole

    items = VECTOR_ITEMS if ole.backend() != reference.NAME else FEW_VECTOR_ITEMS
    # The first one loads what is loaded once.
    _bin_of_vectors(1)
    bins, full = _bin_of_vectors(1), _bin_of_vectors(items)
    found: dict[str, float] = {}
    for role, of_bin, whole in zip((RECEIVE, SEND), bins, full, strict=True):
        found |= {role[0]: items / max(whole - of_bin, whole / 2), role[1]: 1 / of_bin}
    return found


def _bin_of_vectors(count: int) -> tuple[float, float]:
    """Run both halves of a bin of rr22; return the processor time of the receiver and of the sender [s]."""
    from psicli import ole
    from psicli.ole.vectors import ReceiverVectors, SenderVectors

    sid, of_bin, taken = bytes(32), sizes(count), {RECEIVE: 0.0, SEND: 0.0}
    items = curve.packed_items([b"item-%d" % number for number in range(count)])
    receiver, sender = ReceiverVectors(sid, of_bin), SenderVectors(sid, of_bin)

    def timed(role: tuple[str, str], work: Callable[[], Any]) -> Any:
        signals.check()
        began = process_time()
        result = work()
        taken[role] += process_time() - began
        return result

    digests = timed(RECEIVE, lambda: ole.item_digests(items, sid))
    timed(RECEIVE, lambda: receiver.encode(digests))
    keys = timed(SEND, sender.keys)
    choices = timed(RECEIVE, lambda: receiver.choices(keys))
    sums = timed(SEND, lambda: sender.sums(choices))
    vector = timed(RECEIVE, lambda: receiver.vector(sums))
    timed(SEND, lambda: ole.tokens(sender.evaluate(vector, ole.item_digests(items, sid)), sid, TOKEN_BYTES))
    timed(RECEIVE, lambda: ole.tokens(receiver.evaluate(), sid, TOKEN_BYTES))
    return taken[RECEIVE], taken[SEND]


def cores() -> float:
    """Return how many cores this process may use, also in a container with a limit."""
    count = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):
        quota, period = _CPU_LIMIT.read_text().split()
        count = min(count, int(quota) / int(period))
    return count


def start_seconds() -> float:
    """Return how long a run takes to start: a process of this Python that loads what a run needs [s]."""
    taken = []
    for _ in range(STARTS):
        started = perf_counter()
        command = [sys.executable, "-P", "-c", "import psicli.cli.main, psicli.job.run"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0, check=True)
        taken.append(perf_counter() - started)
    # The first one may have waited for the disk.
    return min(taken)


def _kernel_work(backend: str) -> dict[str, Callable[[int], object]]:
    kernel = curve.BACKENDS[backend]
    items = curve.packed_items([b"item-%d" % number for number in range(MOST_POINTS)])
    points = memoryview(_some_points(MOST_POINTS))
    return {
        "hash_and_mask": lambda count: kernel.hash_and_mask(items.slice(0, count), PREFIX, curve.DST, SCALAR),
        "mask": lambda count: kernel.mask(points[: curve.POINT_BYTES * count], SCALAR),
    }


def _plain_work() -> Callable[[int], object]:
    """Return X25519 in a loop, as a Python program would write it; the points are parsed beforehand."""
    points, size = _some_points(MOST_POINTS), curve.POINT_BYTES
    keys = [X25519PublicKey.from_public_bytes(points[at : at + size]) for at in range(0, len(points), size)]
    private = X25519PrivateKey.from_private_bytes(SCALAR)
    return lambda count: [private.exchange(key) for key in keys[:count]]


def _some_points(count: int) -> bytes:
    """Return packed points. About half of them are on the twist, which costs the same."""
    points = bytearray(os.urandom(curve.POINT_BYTES * count))
    points[31::32] = bytes(top & 0x7F for top in points[31::32])
    return bytes(points)


# The report ----------------------------------------------------------------------------------------------------


def _facts(found: list[Measurement], seconds: float, cores: int, in_use: str) -> dict[str, Any]:
    by_name = {(each.backend, each.operation, each.threads, each.processes): each for each in found}
    together = by_name.get((in_use, "mask", 1, cores)) if cores > 1 else None
    return {
        "version": __version__,
        "cpu": _cpu(),
        "cores": cores,
        "backend": in_use,
        "seconds": seconds,
        "rounds": ROUNDS,
        "measurements": [
            {
                "backend": each.backend,
                "operation": each.operation,
                "threads": each.threads,
                "processes": each.processes,
                "points_per_second": round(each.rate, 1),
                "microseconds_per_point": round(1e6 / each.rate, 3),
                "ratio_to_cryptography": _ratio(each, found[0]),
                "ratio_to_one_thread": _ratio(each, by_name[each.backend, each.operation, 1, 1]),
            }
            for each in found
        ],
        "hash_and_mask_time_to_mask": {
            name: _ratio(by_name[name, "mask", 1, 1], by_name[name, "hash_and_mask", 1, 1]) for name in curve.BACKENDS
        },
        "threads_to_processes": _ratio(by_name[in_use, "mask", cores, 1], together) if together else None,
    }


def _ratio(one: Measurement, other: Measurement) -> float:
    """Return the median ratio of slices of the same round, which were measured close to each other."""
    return round(median(ours / theirs for ours, theirs in zip(one.rates, other.rates, strict=True)), 3)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def to_text(facts: dict[str, Any], screen: Screen = PLAIN) -> str:
    """Return the facts as a table."""
    cores, in_use, rows = facts["cores"], facts["backend"], facts["measurements"]
    machine, rounds = f"{facts['cpu']}, {counted(cores, 'core')}", counted(facts["rounds"], "round")
    head = f"psicli {facts['version']} on {machine}; median of {rounds}"
    lines = [line for lines in table([*_table_rows(facts)], screen, right=range(2, 7)) for line in lines]
    notes = ["* the backend that a job on this machine uses"]
    for name, ratio in facts["hash_and_mask_time_to_mask"].items():
        notes.append(f"{name}: hash_and_mask takes {ratio:.2f} times as long as mask")
    backend, rates = (facts["rr22"][name] for name in ("backend", "vectors_per_second"))
    for role, (items, bins) in {"receiver": RECEIVE, "sender": SEND}.items():
        each = f"{rates[items]:,.0f} items/s, and {1000 / rates[bins]:.0f} ms for each bin"
        notes.append(f"rr22 as the {role}, {backend}, one thread: {each}")
    if facts["threads_to_processes"] is not None:
        together = sum(row["points_per_second"] for row in rows if row["processes"] > 1)
        notes.append(
            f"{in_use}: mask in {cores} threads reaches {100 * facts['threads_to_processes']:.0f} % of the speed of "
            f"{cores} processes with one thread each ({together:,.0f} points/s)"
        )
    return "\n".join([screen.wrap(head), "", *lines, "", *map(screen.wrap, notes)])


def _table_rows(facts: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the table, its heading first; the speed of many threads is beside that of one."""
    cores = facts["cores"]
    yield ["backend", "operation", "points/s", "us each", "x X25519", *([f"{cores} threads", "x one"] * (cores > 1))]
    in_one = [row for row in facts["measurements"] if row["threads"] == row["processes"] == 1]
    in_many = {(row["backend"], row["operation"]): row for row in facts["measurements"] if row["threads"] > 1}
    for row in in_one:
        name = f"{row['backend']}*" if row["backend"] == facts["backend"] else row["backend"]
        speed = [f"{row['points_per_second']:,.0f}", f"{row['microseconds_per_point']:.2f}"]
        cells = [name, row["operation"], *speed, f"{row['ratio_to_cryptography']:.2f}"]
        many = in_many.get((row["backend"], row["operation"]))
        if cores > 1:
            cells += [f"{many['points_per_second']:,.0f}", f"{many['ratio_to_one_thread']:.2f}"] if many else ["", ""]
        yield cells
