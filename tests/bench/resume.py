"""Measure the cost of an interrupted run: one that is killed and resumed, or one with a network outage.

The script kills a party when a given share of the bins is finished on disk, and compares the next run with undisturbed
runs of the same job before and after it. Outages need two network namespaces, and therefore root and iproute2.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from network import ADDRESSES, LINK, PORT, ip, missing, namespaces
from shared.parties import (
    PARTIES,
    RECEIVER,
    SENDER,
    in_child,
    party_processes,
    reports_of,
    start_party,
    work_folder,
    write_job,
    write_keys,
)

from psicli.exchange.finished import checkpoints

# The interval between two counts of the finished bins [s].
LOOK_AGAIN_AFTER = 0.02
# The network goes down after this share of an undisturbed run's time.
OUTAGE_AT = 0.3


class Job:
    """A job of one task, and the digest of its output."""

    def __init__(self, path: Path, inside: dict[str, Sequence[str]]) -> None:
        self._path = path
        self._inside = inside
        self._digest = ""

    def run(self, disturb: Callable[[dict[str, Any]], None] | None = None) -> tuple[float, dict[str, Any] | None]:
        """Run both parties; return the duration [s] and their reports, None if one was killed."""
        started = time.monotonic()
        with party_processes() as processes:
            for party in PARTIES:
                processes[party] = start_party(self._path, party, before=self._inside[party])
            if disturb is not None:
                disturb(processes)
            if any(process.poll() is not None for process in processes.values()):
                for process in processes.values():
                    process.communicate()
                return time.monotonic() - started, None
            reports = reports_of(processes)
            return time.monotonic() - started, reports

    def undisturbed(self) -> float:
        """Run the job without any checkpoint; return the duration [s]."""
        self._forget()
        seconds, _ = self.run()
        self._check()
        return seconds

    def disturbed(self, disturb: Callable[[dict[str, Any]], None]) -> tuple[float, str]:
        """Run the job with a disturbance, and again if it is killed; return the last duration [s] and resumed share."""
        self._forget()
        seconds, reports = self.run(disturb)
        if reports is None:
            seconds, reports = self.run()
        self._check()
        assert reports is not None
        share = reports[RECEIVER]["tasks"][0]["resumed"]
        return seconds, "" if share is None else f", resumed from {share:.0%}"

    def _forget(self) -> None:
        shutil.rmtree(self._path.parent / "state", ignore_errors=True)

    def _check(self) -> None:
        output = self._path.parent / "job-out.parquet"
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        output.unlink()
        if self._digest not in ("", digest):
            sys.exit("The output differs from that of an earlier run.")
        self._digest = digest


def kill(victim: str, share: float, state: Path) -> Callable[[dict[str, Any]], None]:
    """Return a disturbance that kills a party when the receiver has finished this share of its bins."""

    def disturb(processes: dict[str, Any]) -> None:
        while finished_share(state) < share and processes[victim].poll() is None:
            time.sleep(LOOK_AGAIN_AFTER)
        processes[victim].kill()
        processes[victim].wait()

    return disturb


def finished_share(state: Path) -> float:
    return max((each["done"] for each in checkpoints(state) if each["party"] == RECEIVER), default=0.0)


def outage(name: str, after: float, seconds: float) -> Callable[[dict[str, Any]], None]:
    def disturb(processes: dict[str, Any]) -> None:
        time.sleep(after)
        ip("-n", name, "link", "set", LINK, "down")
        time.sleep(seconds)
        ip("-n", name, "link", "set", LINK, "up")

    return disturb


def measure_kills(folder: Path, shares: Sequence[float], bin_items: int) -> None:
    job = Job(write_job(folder, pipeline={"bin_items": bin_items}), dict.fromkeys(PARTIES, ()))
    before = job.undisturbed()
    for share in shares:
        for victim in PARTIES:
            seconds, said = job.disturbed(kill(victim, share, folder / "state"))
            after = job.undisturbed()
            whole = (before + after) / 2
            print(
                f"{victim} killed at {share:.0%} of the bins: the next run took {seconds:.1f} s{said}, "
                f"{seconds / whole:.0%} of a whole run ({before:.1f} s before, {after:.1f} s after)",
                flush=True,
            )
            before = after


def measure_outages(folder: Path, lengths: Sequence[float]) -> None:
    if why := missing():
        sys.exit(f"Cannot simulate an outage: {why}")
    nodes = [{"party": SENDER, "address": f"{ADDRESSES[SENDER]}:{PORT}"}, {"party": RECEIVER}]
    path = write_job(folder, cluster={"nodes": nodes, "tls": "insecure"})
    with namespaces(None) as names:
        job = Job(path, {party: ("ip", "netns", "exec", name) for party, name in names.items()})
        before = job.undisturbed()
        for length in lengths:
            seconds, _ = job.disturbed(outage(names[RECEIVER], OUTAGE_AT * before, length))
            print(
                f"network down for {length:.0f} s: {seconds:.1f} s, {seconds - before - length:+.1f} s beside the "
                f"outage ({before:.1f} s undisturbed)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows of each party")
    parser.add_argument("--kill", type=float, nargs="*", default=[0.5, 0.9], help="shares of the bins at which to kill")
    parser.add_argument("--bin-items", type=int, default=65_536, help="items per bin; few items make many bins")
    parser.add_argument("--cut", type=float, nargs="*", default=[30, 45, 120], help="lengths of network outages [s]")
    arguments = parser.parse_args()
    with work_folder() as folder:
        in_child(write_keys, folder, arguments.rows)
        if arguments.kill:
            measure_kills(folder, arguments.kill, arguments.bin_items)
        if arguments.cut:
            measure_outages(folder, arguments.cut)


if __name__ == "__main__":
    main()
