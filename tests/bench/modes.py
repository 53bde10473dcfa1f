"""Compare the three ways to intersect several files: one session, jobs side by side, jobs one after another.

Also: what one more task of 1,000 rows costs in a session.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run import free_port

HEAD = """\
job: {name}
cluster:
  nodes:
    - {{party: alice, address: "127.0.0.1:{port}"}}
    - {{party: bob}}
  link_desc: {{connect_retry_times: 600, connect_retry_interval_ms: 50}}
psi: {{receiver: alice}}
tasks:
"""
TASK = """\
  - name: task-{number}
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: alice-{number}.csv, bob: bob-{number}.csv}}
    output_path: {{alice: out-{number}.csv}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = range(options.files)
        write_inputs(folder, numbers, options.rows)
        one = write_job(folder, "one", numbers)
        each = [write_job(folder, f"job-{number}", [number]) for number in numbers]
        together = timed(lambda: finish(start(one)))
        side_by_side = timed(lambda: finish([process for job in each for process in start(job)]))
        serially = timed(lambda: [finish(start(job)) for job in each])
        print(f"{options.files} files of {options.rows:,} x {options.rows:,} rows")
        for label, seconds in (("one session", together), ("side by side", side_by_side), ("in turn", serially)):
            print(f"{label:13} {seconds:6.2f} s  {seconds / together:4.2f}x")
        print_further_task(folder)


def print_further_task(folder: Path) -> None:
    many = range(100, 121)
    write_inputs(folder, many, 1000)
    few, all_of_them = write_job(folder, "few", many[:1]), write_job(folder, "many", many)
    short, long = timed(lambda: finish(start(few))), timed(lambda: finish(start(all_of_them)))
    print(f"a further task of 1,000 x 1,000 rows: {(long - short) / (len(many) - 1) * 1000:.0f} ms")


def write_inputs(folder: Path, numbers: range, rows: int) -> None:
    for number in numbers:
        for party, first in (("alice", 0), ("bob", rows // 2)):
            keys = "".join(f"customer-{key:09d},{key}\n" for key in range(first, first + rows))
            (folder / f"{party}-{number}.csv").write_text("id,value\n" + keys)


def write_job(folder: Path, name: str, numbers: range | list[int]) -> Path:
    path = folder / f"{name}.yaml"
    tasks = "".join(TASK.format(number=number) for number in numbers)
    path.write_text(HEAD.format(name=name, port=free_port()) + tasks)
    return path


def start(job: Path) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "psicli", "run", "--config", str(job), "--quiet"]
    # What is only measured has no place in this user's ledger.
    env = {**os.environ, "PSICLI_STATE_DIR": str(job.parent / "state")}
    return [subprocess.Popen([*command, "--party", party], env=env) for party in ("alice", "bob")]


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait() for process in processes] == [0] * len(processes)


def timed(work) -> float:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
