"""Measure psicli between two network namespaces: the use of a slow link, and of the cores with a fast link.

A pair of virtual interfaces joins the namespaces; a token bucket (tc-tbf) shapes both ends. This script needs root and
the programs ip and tc of iproute2. It always removes the namespaces at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
# The size of the token bucket, and how long a packet may queue before it is dropped; slow links have short queues.
BURST, LATENCY = "16kb", "50ms"
# The interval between two samples of the byte counters [s].
SAMPLING = 0.01
# The time limit for a party to start listening [s].
PATIENCE = 60.0


@dataclass(frozen=True)
class Sample:
    """The bytes that an interface had sent at a time [s, bytes], with Ethernet headers, as the token bucket counts."""

    at: float
    sent: int


def missing() -> str | None:
    """Return why this machine cannot create the namespaces, None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} (iproute2) is not installed"
    try:
        with namespaces("1mbit"):
            return None
    except subprocess.CalledProcessError as failure:
        return f"{' '.join(failure.cmd)}: {failure.stderr.strip()}"


@contextlib.contextmanager
def namespaces(rate: str | None) -> Iterator[dict[str, str]]:
    """Create a namespace for each party, joined by a link of this rate; yield their names."""
    names = {party: f"psicli-{os.getpid()}-{party}" for party in PARTIES}
    try:
        for name in names.values():
            ip("netns", "add", name)
        ends = [("name", LINK, "netns", name) for name in names.values()]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for party, name in names.items():
            ip("-n", name, "address", "add", f"{ADDRESSES[party]}/24", "dev", LINK)
            # Disable IPv6, since its own packets would be counted.
            ip("-n", name, "link", "set", LINK, "up", "addrgenmode", "none")
            if rate is not None:
                shape = ("tbf", "rate", rate, "burst", BURST, "latency", LATENCY)
                run("tc", "-n", name, "qdisc", "add", "dev", LINK, "root", *shape)
        yield names
    finally:
        for name in names.values():
            # Deleting a namespace deletes the link. The command fails for a namespace that was never created.
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    run("ip", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Meter:
    """A thread that samples the byte counters of both ends of the link until it is stopped."""

    def __init__(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self.samples: dict[str, list[Sample]] = {party: [] for party in PARTIES}
        # The counters of a process's network can be read from outside its namespace.
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
    """Return how much a process's end of the link has sent [bytes], None if the process is gone."""
    with contextlib.suppress(OSError), open(path) as table:
        for line in table:
            name, _, counters = line.partition(":")
            if name.strip() == LINK:
                return int(counters.split()[8])
    return None


def sent_by(namespace: str) -> int:
    """Return how much a namespace's end of the link has sent [bytes]."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-j", "-s", "link", "show", "dev", LINK], check=True, capture_output=True
    )
    return int(json.loads(shown.stdout)[0]["stats64"]["tx"]["bytes"])


@dataclass(frozen=True)
class Transfer:
    """One direction from its first byte to its last: duration [s] and size [bytes]."""

    seconds: float
    sent: int

    def busy(self, rate: float) -> float:
        """Return the share of the capacity of a link of this rate [bits/s] that the transfer used."""
        return self.sent * 8 / (rate * self.seconds)


def transfer(samples: list[Sample]) -> Transfer:
    """Return the transfer from the first byte that an interface sent to the last."""
    changes = [now for last, now in pairwise(samples) if now.sent != last.sent]
    return Transfer(changes[-1].at - changes[0].at, changes[-1].sent - samples[0].sent)


def exchange(folder: Path, rate: str | None, rows: int) -> tuple[Outcome, dict[str, Transfer]]:
    """Run each party in its own namespace; return the outcome and the transfers of both directions."""
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
    """Wait until a process listens in its namespace, so that the dialer need not retry."""
    deadline = time.monotonic() + PATIENCE
    port = f":{PORT:04X} "
    # Where there is IPv6, gRPC listens on any address with a socket of that family.
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            lines = [line for table in tables for line in table.read_text().splitlines()]
            # State 0A is TCP_LISTEN.
            if any(port in line and line.split()[3] == "0A" for line in lines):
                return
        time.sleep(0.02)
    sys.exit(f"The sender did not start listening within {PATIENCE:.0f} s.")


def bits_a_second(rate: str) -> float:
    """Return a rate such as 2mbit, 512kbit, 1gbit or a plain number as tc reads it [bits/s]."""
    for unit, factor in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor
    return float(rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="2mbit", help="rate of the slow link in tc's notation (%(default)s)")
    parser.add_argument("--rows", type=int, default=50_000, help="rows per party over the slow link (%(default)s)")
    parser.add_argument("--fast-rows", type=int, default=1_000_000, help="the same over the fast link (%(default)s)")
    parser.add_argument("--traces", type=Path, help="folder for the traces of the run over the slow link")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(f"Cannot measure here: {reason}.")
    # Turn SIGTERM into an exception, so that the namespaces are removed.
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
        print(f"{options.fast_rows:,} x {options.fast_rows:,} rows without a rate limit: {outcome.seconds:.2f} s")
        traces = [overlap.Trace(trace_of(folder, party)) for party in PARTIES]
        for line in overlap.lines(traces, len(os.sched_getaffinity(0))):
            print(line)


if __name__ == "__main__":
    main()
