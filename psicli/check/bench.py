"""How fast the curve backends are on this machine, beside `cryptography`'s X25519 in a loop, in the same run.

All measurements take turns in short slices, round after round, so that whatever else the machine does hits them alike;
the median of the rounds is the result, of rates and of ratios. No secret is used here.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import PIPE
from time import perf_counter
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from psicli import __version__, curve
from psicli.core import signals
from psicli.core.errors import InternalError
from psicli.curve import reference
from psicli.report.table import table

ROUNDS = 5
# Points of the largest call: a full frame of the protocol.
MOST_POINTS = 16_384
# Points of the smallest call: the pool shares none below, the reference is slow.
LEAST_POINTS = 512
FEW_POINTS = 8
PLAIN = "cryptography"
# How long each line runs at most before its first round [s].
WARM_UP = 1.0
# How long each of the two operations is measured where nobody asks for a table [s].
RATE_SECONDS = 0.05

SCALAR = bytes(range(32))
PREFIX = bytes(33)


@dataclass
class Loop:
    """Some work on packed points, called again and again; `work` takes how many points a call has."""

    work: Callable[[int], object]
    threads: int = 1
    count: int = LEAST_POINTS

    def __call__(self, seconds: float) -> float:
        """Work for so long [s], until a call is through; return points a second.

        Calls grow until one fills much of that time: the first result is none yet.
        """
        curve.set_threads(self.threads)
        points, taken = 0, 0.0
        while taken < seconds:
            signals.check()
            started = perf_counter()
            self.work(self.count)
            call = perf_counter() - started
            points, taken = points + self.count, taken + call
            if call < seconds / 2 and self.count < MOST_POINTS:
                self.count *= 2
        return points / taken


class Workers:
    """As many processes as there are threads elsewhere, each multiplying points in one thread, all at a time."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        """Start them; they end with the stack."""
        # What the command line says here cannot be said otherwise by the environment.
        command = [sys.executable, "-P", "-m", "psicli", "bench", "--worker", "--seconds=1", "--json"]
        self._pipes = []
        for _ in range(count):
            # In a group of its own, so that a terminal's Ctrl-C is this process's affair alone.
            process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1, process_group=0)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            self._pipes.append((process.stdin, process.stdout))

    def __call__(self, seconds: float) -> float:
        """Have all of them work for so long [s]; return the points a second they reach together."""
        for questions, _ in self._pipes:
            questions.write(f"{seconds}\n")
        with signals.allowed():
            lines = [answers.readline() for _, answers in self._pipes]
        if not all(lines):
            raise InternalError(detail="a process that measures ended early")
        return sum(map(float, lines))


def work_for_another_process(lines: IO[str], answers: IO[str]) -> None:
    """Be a worker: for every line with a time [s], multiply points for so long and answer with points a second."""
    loop = Loop(_kernel_work(curve.backend())["mask"])
    for line in lines:
        answers.write(f"{loop(float(line))}\n")
        answers.flush()


@dataclass
class Measurement:
    """One row's number: what ran, where, and its points a second in each round."""

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
    """Measure every backend and CPU path of this machine, each for so long [s], and return the facts as JSON has them.

    Raises SelfCheckError where one of them computes something else than it should.
    """
    cores, in_use = curve.threads(), curve.backend()
    found = [Measurement(PLAIN, "X25519", Loop(_plain_work(), count=FEW_POINTS))]
    with ExitStack() as stack:
        for name in curve.BACKENDS:
            curve.self_test(name)
            # Only a native backend makes use of several threads.
            native = name != reference.NAME
            for operation, work in _kernel_work(name).items():
                found.append(Measurement(name, operation, Loop(work, count=LEAST_POINTS if native else FEW_POINTS)))
                if native and cores > 1:
                    found.append(Measurement(name, operation, Loop(work, cores), threads=cores))
            if native and cores > 1 and name == in_use:
                # Right after the threads it is compared with.
                found.append(Measurement(name, "mask", Workers(cores, stack), processes=cores))
        for each in found:
            each.run(min(seconds / ROUNDS, WARM_UP))
        for _ in range(ROUNDS):
            for each in found:
                each.rates.append(each.run(seconds / ROUNDS))
    return _facts(found, seconds, cores, in_use)


def rates() -> dict[str, float]:
    """Return what the backend in use reaches in the threads that are set, by operation [points a second]."""
    found = {}
    for operation, work in _kernel_work(curve.backend()).items():
        loop = Loop(work, curve.threads(), FEW_POINTS)
        loop(RATE_SECONDS)
        found[operation] = loop(RATE_SECONDS)
    return found


def _kernel_work(backend: str) -> dict[str, Callable[[int], object]]:
    kernel = curve.BACKENDS[backend]
    items = curve.packed_items([b"item-%d" % number for number in range(MOST_POINTS)])
    points = memoryview(_some_points(MOST_POINTS))
    return {
        "hash_and_mask": lambda count: kernel.hash_and_mask(items.slice(0, count), PREFIX, curve.DST, SCALAR),
        "mask": lambda count: kernel.mask(points[: curve.POINT_BYTES * count], SCALAR),
    }


def _plain_work() -> Callable[[int], object]:
    """Return a loop over X25519 as a Python program would write it, the points taken apart beforehand."""
    points, size = _some_points(MOST_POINTS), curve.POINT_BYTES
    keys = [X25519PublicKey.from_public_bytes(points[at : at + size]) for at in range(0, len(points), size)]
    private = X25519PrivateKey.from_private_bytes(SCALAR)
    return lambda count: [private.exchange(key) for key in keys[:count]]


def _some_points(count: int) -> bytes:
    """Return packed points, half of them on the twist, which costs the same."""
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
    """Compare slices of the same round, which were measured close to each other."""
    return round(median(ours / theirs for ours, theirs in zip(one.rates, other.rates, strict=True)), 3)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def to_text(facts: dict[str, Any]) -> str:
    """Return the facts as a table."""
    cores, in_use, rows = facts["cores"], facts["backend"], facts["measurements"]
    head = f"psicli {facts['version']} on {facts['cpu']}, {cores} cores; median of {facts['rounds']} rounds"
    lines = [head, "", *table([*_table_rows(facts)], right=range(2, 7))]
    lines += ["", "* what a job on this machine uses"]
    for name, ratio in facts["hash_and_mask_time_to_mask"].items():
        lines.append(f"{name}: hash_and_mask takes {ratio:.2f} times as long as mask")
    if facts["threads_to_processes"] is not None:
        together = sum(row["points_per_second"] for row in rows if row["processes"] > 1)
        lines.append(
            f"{in_use}: mask in {cores} threads reaches {facts['threads_to_processes']:.2f} of what {cores} processes "
            f"of one thread reach together ({together:,.0f} points/s)"
        )
    return "\n".join(lines)


def _table_rows(facts: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the table, its heading first; what many threads reach stands beside what one does."""
    cores = facts["cores"]
    yield ["backend", "operation", "points/s", "us/point", "x X25519", *([f"{cores} threads", "x one"] * (cores > 1))]
    in_one = [row for row in facts["measurements"] if row["threads"] == row["processes"] == 1]
    in_many = {(row["backend"], row["operation"]): row for row in facts["measurements"] if row["threads"] > 1}
    for row in in_one:
        name = f"{row['backend']} *" if row["backend"] == facts["backend"] else row["backend"]
        speed = [f"{row['points_per_second']:,.0f}", f"{row['microseconds_per_point']:.2f}"]
        cells = [name, row["operation"], *speed, f"{row['ratio_to_cryptography']:.2f}"]
        many = in_many.get((row["backend"], row["operation"]))
        if cores > 1:
            cells += [f"{many['points_per_second']:,.0f}", f"{many['ratio_to_one_thread']:.2f}"] if many else ["", ""]
        yield cells
