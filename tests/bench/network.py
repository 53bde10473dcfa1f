"""Measure psicli between two network namespaces: how busy a slow link is, and how busy the cores are over a fast one.

The namespaces are joined by a pair of virtual interfaces, both ends shaped by a token bucket (tc-tbf). Needs root, and
ip and tc of iproute2. The namespaces are gone at the end, whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import overlap
from shared.parties import (
    PARTIES,
    RECEIVER,
    SENDER,
    Outcome,
    in_child,
    party_processes,
    reports_of,
    start_party,
    trace_of,
    work_folder,
    write_job,
    write_keys,
)

PORT = 18560
ADDRESSES = {RECEIVER: "10.211.0.1", SENDER: "10.211.0.2"}
LINK = "wire"
# What may pass at once, and how long a packet may queue before it is dropped: a short queue, as slow links have.
BURST, LATENCY = "16kb", "50ms"
# How often the bytes are looked at [s].
SAMPLING = 0.01
# How long a party may take until it listens [s].
PATIENCE = 60.0


@dataclass(frozen=True)
class Sample:
    """What an interface had sent at a time [s, bytes], Ethernet headers and all, as the token bucket counts."""

    at: float
    sent: int


def missing() -> str | None:
    """Return why this machine cannot make the namespaces, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"there is no {program} (iproute2)"
    try:
        with namespaces("1mbit"):
            return None
    except subprocess.CalledProcessError as failure:
        return f"{' '.join(failure.cmd)}: {failure.stderr.strip()}"


@contextlib.contextmanager
def namespaces(rate: str | None) -> Iterator[dict[str, str]]:
    """Make a namespace for each party, joined by a link of this rate, and give their names."""
    names = {party: f"psicli-{os.getpid()}-{party}" for party in PARTIES}
    try:
        for name in names.values():
            ip("netns", "add", name)
        ends = [("name", LINK, "netns", name) for name in names.values()]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for party, name in names.items():
            ip("-n", name, "address", "add", f"{ADDRESSES[party]}/24", "dev", LINK)
            # No IPv6, whose own packets would count.
            ip("-n", name, "link", "set", LINK, "up", "addrgenmode", "none")
            if rate is not None:
                shape = ("tbf", "rate", rate, "burst", BURST, "latency", LATENCY)
                run("tc", "-n", name, "qdisc", "add", "dev", LINK, "root", *shape)
        yield names
    finally:
        for name in names.values():
            # The link goes with its namespace; one that was never made cannot be deleted.
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    run("ip", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Meter:
    """Looks at what both ends of the link have sent, until it is stopped."""

    def __init__(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self.samples: dict[str, list[Sample]] = {party: [] for party in PARTIES}
        # What a process sees of its network is readable from outside of its namespace.
        self._counters = {party: f"/proc/{process.pid}/net/dev" for party, process in processes.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLING):
            for party, path in self._counters.items():
                sent = interface_bytes(path)
                if sent is not None:
                    self.samples[party].append(Sample(time.monotonic(), sent))


def interface_bytes(path: str) -> int | None:
    """Return what the link's end of a process has sent [bytes], None when the process is gone."""
    with contextlib.suppress(OSError), open(path) as table:
        for line in table:
            name, _, counters = line.partition(":")
            if name.strip() == LINK:
                return int(counters.split()[8])
    return None


@dataclass(frozen=True)
class Transfer:
    """One direction from its first byte to its last: how long [s], how much [bytes]."""

    seconds: float
    sent: int

    def busy(self, rate: float) -> float:
        """Return the share of what a link of this rate [bits/s] could have carried."""
        return self.sent * 8 / (rate * self.seconds)


def transfer(samples: list[Sample]) -> Transfer:
    """Find the first and the last byte that an interface sent."""
    changes = [now for last, now in pairwise(samples) if now.sent != last.sent]
    return Transfer(changes[-1].at - changes[0].at, changes[-1].sent - samples[0].sent)


def exchange(folder: Path, rate: str | None, rows: int) -> tuple[Outcome, dict[str, Transfer]]:
    """Run both parties in namespaces of their own, and return also what each of them sent."""
    nodes = [
        {"party": SENDER, "address": f"{ADDRESSES[SENDER]}:{PORT}"},
        {"party": RECEIVER},
    ]
    in_child(write_keys, folder, rows)
    job = write_job(folder, cluster={"nodes": nodes, "tls": "insecure"})
    with namespaces(rate) as names, party_processes() as processes:
        inside = {party: ("ip", "netns", "exec", name) for party, name in names.items()}
        processes[SENDER] = start_party(job, SENDER, before=inside[SENDER], traces=folder)
        wait_until_it_listens(processes[SENDER].pid)
        started = time.monotonic()
        processes[RECEIVER] = start_party(job, RECEIVER, before=inside[RECEIVER], traces=folder)
        with Meter(processes) as meter:
            reports = reports_of(processes)
        sent = {party: transfer(samples) for party, samples in meter.samples.items()}
        return Outcome(time.monotonic() - started, reports), sent


def wait_until_it_listens(pid: int) -> None:
    """Wait for a process that listens in its namespace, so that nothing dials in vain."""
    deadline = time.monotonic() + PATIENCE
    port = f":{PORT:04X} "
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/tcp") as table:
            # State 0A is TCP_LISTEN.
            if any(port in line and line.split()[3] == "0A" for line in table):
                return
        time.sleep(0.02)
    sys.exit(f"The sender does not listen after {PATIENCE:.0f} s.")


def bits_a_second(rate: str) -> float:
    """Return what tc means by 2mbit, 512kbit, 1gbit or a plain number [bits/s]."""
    for unit, factor in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor
    return float(rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="2mbit", help="of the slow link, as tc has it (%(default)s)")
    parser.add_argument("--rows", type=int, default=50_000, help="a side over the slow link (%(default)s)")
    parser.add_argument("--fast-rows", type=int, default=1_000_000, help="a side over the fast one (%(default)s)")
    parser.add_argument("--traces", type=Path, help="a folder to keep the traces of the slow link in")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(f"Cannot measure here: {reason}.")
    # An end by signal is an end like others: nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print_slow(options)
    print_fast(options)


def print_slow(options: Any) -> None:
    with work_folder() as folder:
        outcome, sent = exchange(folder, options.rate, options.rows)
        if options.traces is not None:
            for party in PARTIES:
                shutil.copy(trace_of(folder, party), options.traces)
    print(f"{options.rows:,} x {options.rows:,} rows at {options.rate}: {outcome.seconds:.2f} s")
    for party, other in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
        way = sent[party]
        busy = way.busy(bits_a_second(options.rate))
        print(f"{party} to {other}: {way.sent:,} bytes in {way.seconds:.2f} s, the link {busy:.1%} busy")


def print_fast(options: Any) -> None:
    with work_folder() as folder:
        outcome, _ = exchange(folder, None, options.fast_rows)
        print(f"{options.fast_rows:,} x {options.fast_rows:,} rows, not shaped: {outcome.seconds:.2f} s")
        traces = [overlap.Trace(trace_of(folder, party)) for party in PARTIES]
        for line in overlap.lines(traces, len(os.sched_getaffinity(0))):
            print(line)


if __name__ == "__main__":
    main()
