"""Compare the estimates of `psicli check` with runs, on loopback and through a slow link.

Both parties check the job at the same time and then run it, in turn. The estimate is that of the party that expects to
take longer; the run takes from the start of both processes to the exit of both. Errors of the processor time say how
good the model is on a machine that other programs use, too; those of the whole time count only on a quiet machine.

With --constants, show what each constant of the model in psicli/check/estimate.py should be on this machine. The slow
link needs root and iproute2, as in network.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import network
import overlap
from shared.parties import PARTIES, RECEIVER, SENDER, free_port, party_processes, trace_of, work_folder, write_job

from psicli.check import estimate

# The largest error that psicli promises.
PROMISED = 0.25
# The rows of an input that is all start, and how many tasks of this size show what one more costs.
FEW_ROWS, MANY_TASKS = 1000, 21
# The steps of a trace that belong to a part of the model.
STEPS = {
    "reading": ("read input", "count items"),
    "kernel": (overlap.PART,),
    "result": ("match", "write output", "publish output"),
}


# What comes before the command of each party on loopback: nothing.
HERE: dict[str, tuple[str, ...]] = dict.fromkeys(PARTIES, ())


@dataclass(frozen=True)
class Ended:
    """What both processes of a command did: time [s], and for each party what it printed and its processor time [s]."""

    seconds: float
    printed: Mapping[str, Any]
    processor: Mapping[str, float]


@dataclass(frozen=True)
class Round:
    """One check and one run of the same job."""

    figures: Mapping[str, Mapping[str, Any]]
    run: Ended

    @property
    def expected(self) -> float:
        return max(each["seconds"] for each in self.figures.values())

    @property
    def expected_processor(self) -> float:
        return sum(each["processor_seconds"] for each in self.figures.values())

    @property
    def processor(self) -> float:
        return sum(self.run.processor.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rate", default="10mbit", help="rate of the slow link in tc's notation (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="checks and runs of each size; medians are shown")
    parser.add_argument("--protocols", nargs="+", default=["ecdh", "rr22"], choices=("ecdh", "rr22"))
    parser.add_argument("--constants", action="store_true", help="show the constants of the model instead")
    options = parser.parse_args()
    if options.constants:
        print_constants(max(options.rows), options.runs)
        return
    titles = f"{'estimate':>9} {{:>9}} {'error':>6}"
    print(f"{'rows':>9}  {'link':8}  {'by':4}  {titles.format('run')}   {titles.format('processor')}")
    worst = max(
        error
        for rate in links(options.rate)
        for protocol in options.protocols
        for error in errors(rate, protocol, options.rows, options.runs)
    )
    print(f"the largest error is {worst:.0%} of the run; psicli promises at most {PROMISED:.0%}")


def links(rate: str) -> Iterator[str | None]:
    """Yield None for loopback, and the slow link if this machine can make it."""
    yield None
    if reason := network.missing():
        print(f"without a slow link: {reason}")
    else:
        yield rate


def errors(rate: str | None, protocol: str, sizes: Sequence[int], runs: int) -> Iterator[float]:
    """Print a line for each size, and yield the error of the estimate as a share of the run."""
    for rows in sizes:
        with work_folder() as folder, places(rate) as before:
            job = prepare(folder, rows, slow=rate is not None, protocol=protocol)
            rounds = [one_round(job, before) for _ in range(runs)]
        expected, taken = median(r.expected for r in rounds), median(r.run.seconds for r in rounds)
        error = expected / taken - 1
        work = median(r.expected_processor for r in rounds), median(r.processor for r in rounds)
        print(
            f"{rows:9,}  {rate or 'loopback':8}  {protocol:4}  {expected:7.2f} s {taken:7.2f} s {error:+6.0%}   "
            f"{work[0]:7.2f} s {work[1]:7.2f} s {work[0] / work[1] - 1:+6.0%}",
            flush=True,
        )
        yield abs(error)


@contextmanager
def places(rate: str | None) -> Iterator[dict[str, tuple[str, ...]]]:
    """Yield what to write before the command of each party."""
    if rate is None:
        yield HERE
        return
    with network.namespaces(rate) as names:
        yield {party: ("ip", "netns", "exec", name) for party, name in names.items()}


def prepare(folder: Path, rows: int, *, slow: bool = False, tasks: int = 1, protocol: str = "ecdh") -> Path:
    """Write the inputs and the job; slow: whether the parties are in namespaces of their own."""
    for party, first in zip(PARTIES, (0, rows // 2), strict=True):
        lines = "".join(f"customer-{key * 7919 % 1_000_003:09d},{key}\n" for key in range(first, first + rows))
        (folder / f"{party}.csv").write_text("id,value\n" + lines)
    nodes: list[dict[str, str]] = [{"party": RECEIVER, "address": f"127.0.0.1:{free_port()}"}, {"party": SENDER}]
    cluster: dict[str, Any] = {"nodes": nodes}
    if slow:
        nodes[0]["address"] = f"{network.ADDRESSES[RECEIVER]}:{network.PORT}"
        cluster["tls"] = "insecure"
    each = [
        {
            "name": f"rows-{number}",
            "keys": {party: ["id"] for party in PARTIES},
            "input_path": {party: f"{party}.csv" for party in PARTIES},
            "output_path": {RECEIVER: f"out-{number}.csv"},
            "protocol": protocol,
        }
        for number in range(tasks)
    ]
    return write_job(folder, cluster=cluster, tasks=each)


def one_round(job: Path, before: Mapping[str, Sequence[str]] = HERE, *, traced: bool = False) -> Round:
    """Check a job and run it. before: as `places` yields; traced: whether the run leaves traces."""
    checked = together(["check", "--wait=60"], job, before)
    figures = {party: row_of(found, "estimate")["figures"] for party, found in checked.printed.items()}
    return Round(figures, together(["run", "--resume=never"], job, before, traced=traced))


def row_of(found: Mapping[str, Any], name: str) -> Any:
    """Return a row of a check; exit if it is missing."""
    for row in found["checks"]:
        if row["name"] == name:
            return row
    sys.exit(f"The check has no {name}: {found}")


def together(command: Sequence[str], job: Path, before: Mapping[str, Sequence[str]], *, traced: bool = False) -> Ended:
    """Start a command for both parties at the same time, and wait for both; exit if one fails."""
    environment = os.environ | {"PSICLI_STATE_DIR": str(job.parent / "state")}
    files = {party: job.parent / f"{party}.{command[0]}.json" for party in PARTIES}
    processor = {}
    started = time.monotonic()
    with party_processes() as processes:
        for party in PARTIES:
            words = [*before[party], sys.executable, "-m", "psicli", *command, "--json", "--quiet"]
            words += [f"--trace={trace_of(job.parent, party)}"] if traced else []
            with files[party].open("wb") as to:
                processes[party] = subprocess.Popen(
                    [*words, f"--config={job}", f"--party={party}"], stdout=to, env=environment
                )
        for party, process in processes.items():
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            processor[party] = usage.ru_utime + usage.ru_stime
        seconds = time.monotonic() - started
    printed = {party: json.loads(path.read_text()) for party, path in files.items()}
    for party, process in processes.items():
        if process.returncode:
            sys.exit(f"{party}: psicli {command[0]} ended with {process.returncode}: {printed[party]}")
    return Ended(seconds, printed, processor)


# The constants -----------------------------------------------------------------------------------------------------


def print_constants(rows: int, runs: int) -> None:
    """Print each constant of the model: as it is, and as this machine would have it, in each round."""
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, value in constants(rows).items():
            found.setdefault(name, []).append(value)
    print(f"{'constant':8} {'now':>6} {'here':>6}   in each round")
    for name, values in found.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"{name:8} {getattr(estimate, name):6.3f} {median(values):6.3f}   {each}")


def constants(rows: int) -> dict[str, float]:
    """Measure the constants once, with a job that is all start, one of many small tasks, and one of many rows."""
    with work_folder() as folder:
        small = one_round(prepare(folder, FEW_ROWS))
    with work_folder() as folder:
        many = one_round(prepare(folder, FEW_ROWS, tasks=MANY_TASKS))
    with work_folder() as folder:
        large = one_round(prepare(folder, rows), traced=True)
        traces = {party: overlap.Trace(trace_of(folder, party)) for party in PARTIES}
    starts = sum(each["check_start_seconds"] for each in small.figures.values())
    more = many.processor - small.processor - (many.expected_processor - small.expected_processor)
    checked = sum(each["reading_seconds"] for each in large.figures.values()) / estimate.READING
    steps = {party: {name: on_cores(trace, *names) for name, names in STEPS.items()} for party, trace in traces.items()}
    reading, kernel, result = (sum(each[name] for each in steps.values()) for name in STEPS)
    return {
        "FIXED": estimate.FIXED + (small.processor - small.expected_processor) / starts,
        "WAITING": small.run.seconds - max(small.run.processor.values()),
        "TASK": estimate.TASK + more / (MANY_TASKS - 1) / starts,
        "READING": reading / checked,
        "MOVING": (large.processor - small.processor - kernel - reading - result) / reading,
        # Only the receiver has one.
        "RESULT": len(PARTIES) * result / reading,
    }


def on_cores(trace: overlap.Trace, *names: str) -> float:
    """Return the processor time that a party spent on these steps [s]."""
    return sum(each.computed for each in trace.of(*names)) / 1e6


if __name__ == "__main__":
    main()
