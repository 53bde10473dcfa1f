"""Time a whole run between two processes on this machine; `psicli bench` tells what the curve alone needs for it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = """\
job: bench
cluster:
  nodes:
    - {{party: alice, address: "127.0.0.1:{port}"}}
    - {{party: bob}}
  link_desc: {{connect_retry_times: 600, connect_retry_interval_ms: 100}}
psi: {{receiver: alice}}
tasks:
  - name: rows
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: alice.csv, bob: bob.csv}}
    output_path: {{alice: out.csv}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        reports, seconds = run_pair(Path(folder), rows)
    task = reports[0]["tasks"][0]
    sent = task["bytes_sent"] + task["bytes_received"]
    print(f"{rows:,} x {rows:,} rows: {seconds:.1f} s from start to exit of both, {task['matched']:,} matched")
    print(f"messages: {sent / rows:.2f} bytes an item pair; backend {reports[0]['backend']}")


def run_pair(folder: Path, rows: int) -> tuple[list[dict[str, object]], float]:
    """Run both parties over half-overlapping keys and return their reports and the wall time [s]."""
    for party, first in (("alice", 0), ("bob", rows // 2)):
        keys = (f"customer-{number:09d},{number}\n" for number in range(first, first + rows))
        (folder / f"{party}.csv").write_text("id,value\n" + "".join(keys))
    (folder / "job.yaml").write_text(JOB.format(port=free_port()))
    command = [sys.executable, "-m", "psicli", "run", "--config", str(folder / "job.yaml"), "--json", "--quiet"]
    # What is only measured has no place in this user's ledger.
    env = {**os.environ, "PSICLI_STATE_DIR": str(folder / "state")}
    started = time.monotonic()
    parties = [
        subprocess.Popen([*command, "--party", party], stdout=subprocess.PIPE, env=env) for party in ("alice", "bob")
    ]
    reports = [json.loads(process.communicate()[0]) for process in parties]
    return reports, time.monotonic() - started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
