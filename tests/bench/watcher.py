"""Measure what another user of the machine sees of a receiver's run when everything matches and when nothing does.

The other user polls everything psicli lets him read: the files in the folders for locks with their contents and times,
whether he could lock them, `psicli status`, and whether the port is open. Of each run, the script takes the time from
the last progress to the moment when the last of these is gone, and compares the two kinds of runs by a rank test. It
needs root, to become another user, and shows with --processes also what /proc reveals of any process.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.parties import free_port

JOB = """\
job: watched
cluster:
  nodes:
    - {{party: alice, address: "127.0.0.1:{port}"}}
    - {{party: bob}}
  tls: {{ca_file: ca.pem, certificate_file: "${{PARTY}}.pem", private_key_file: "${{PARTY}}.key"}}
psi: {{receiver: alice}}
tasks:
  - name: people
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: {kind}.csv, bob: bob.csv}}
    output_path: {{alice: out/{kind}.csv}}
"""
KINDS = ("none", "all")
NOBODY = 65534
FOLDERS = (Path("/run/lock"), Path("/tmp"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=20, help="runs of each kind")
    parser.add_argument("--processes", action="store_true", help="take the end of the process for the end of the run")
    parser.add_argument("--watch", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        port, pid, processes = map(int, options.watch)
        print(json.dumps(watch(port, pid, processes=bool(processes))))
        return
    with tempfile.TemporaryDirectory() as name:
        seconds = compare(Path(name), options.rows, options.runs, processes=options.processes)
    print(
        f"{options.rows:,} x {options.rows:,} rows, {options.runs} runs of each kind; seconds after the last progress"
    )
    for kind in KINDS:
        low, median, high = statistics.quantiles(seconds[kind], n=4, method="inclusive")
        print(f"  {kind:4} match: median {median:.4f}, quartiles {low:.4f} and {high:.4f}")
    print(f"  rank test: p = {rank_test(seconds['none'], seconds['all']):.3f}")


def compare(folder: Path, rows: int, runs: int, *, processes: bool) -> dict[str, list[float]]:
    """Return the times that the other user measures, for alternating runs of both kinds [s]."""
    for name, first in (("bob", 0), ("all", 0), ("none", rows)):
        (folder / f"{name}.csv").write_text(
            "id\n" + "".join(f"person-{row:09d}\n" for row in range(first, first + rows))
        )
    for arguments in (["ca"], ["issue", "alice"], ["issue", "bob"]):
        subprocess.run([sys.executable, "-m", "psicli", "certs", *arguments], cwd=folder, check=True, stdout=-3)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind in KINDS:
            found[kind].append(run_once(folder, kind, processes=processes))
    return found


def run_once(folder: Path, kind: str, *, processes: bool) -> float:
    port = free_port()
    (folder / "job.yaml").write_text(JOB.format(port=port, kind=kind))
    parties = {}
    for party in ("alice", "bob"):
        environment = {**os.environ, "PSICLI_STATE_DIR": str(folder / "state"), "PARTY": party}
        command = [sys.executable, "-m", "psicli", "run", "--config", "job.yaml", "--quiet", f"--party={party}"]
        parties[party] = subprocess.Popen(command, cwd=folder, env=environment)
        if party == "alice":
            arguments = [__file__, "--watch", str(port), str(parties[party].pid), str(int(processes))]
            watcher = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    codes = [process.wait() for process in parties.values()]
    assert codes == [0, 0], codes
    seen = json.loads(watcher.communicate(timeout=60)[0])
    return float(seen["gone"] - seen["progress"])


# The other user --------------------------------------------------------------------------------------------------


def watch(port: int, pid: int, *, processes: bool) -> dict[str, float]:
    """Poll as another user until everything of the run is gone; return the times of its last progress and its end."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    last: Any = None
    changed = gone = 0.0
    appeared = False
    while True:
        now = time.monotonic()
        seen = [visible(port), Path(f"/proc/{pid}/stat").exists() and state_of(pid) if processes else False]
        if any(seen):
            appeared = True
            if progress_of(seen[0]) != last:
                last, changed = progress_of(seen[0]), now
        elif appeared:
            gone = now
            return {"progress": changed, "gone": gone}
        time.sleep(0.0003)


def visible(port: int) -> list[Any]:
    """Return all that psicli shows of a run on this port."""
    found: list[Any] = []
    for folder in FOLDERS:
        for name in (f"psicli-0/port-{port}.lock", f"psicli-0/port-{port}.json"):
            with suppress(OSError):
                path = folder / name
                status = path.stat()
                found.append((name, status.st_mtime_ns, status.st_size))
                with open(path, "rb") as file:
                    found.append(file.read())
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        found.append("held")
    return [*found, *(["open"] if is_open(port) else [])]


def is_open(port: int) -> bool:
    """Return whether somebody listens on the port, or has a connection to it."""
    needle = f":{port:04X} "
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines():
            if needle in line and line.split()[3] in ("01", "0A"):
                return True
    return False


def progress_of(seen: Sequence[Any]) -> Any:
    """Return the records among what is visible."""
    return [each for each in seen if isinstance(each, bytes)]


def state_of(pid: int) -> str:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "" if state == "Z" else state
    return ""


# Statistics ------------------------------------------------------------------------------------------------------


def rank_test(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the two-sided p-value of the test of Mann and Whitney, by the normal approximation."""
    above = sum((a > b) + (a == b) / 2 for a in one for b in two)
    mean, deviation = len(one) * len(two) / 2, math.sqrt(len(one) * len(two) * (len(one) + len(two) + 1) / 12)
    return math.erfc(abs(above - mean) / deviation / math.sqrt(2))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
