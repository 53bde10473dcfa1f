"""Helpers of the benchmarks: inputs, a job file, and runs of both parties as processes on this machine."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PARTIES = RECEIVER, SENDER = "alice", "bob"
# The size of a row group when writing Parquet files [rows].
GROUP_ROWS = 1 << 19


@dataclass(frozen=True)
class Outcome:
    """The result of one run; seconds: from the start of both processes to the exit of both [s]."""

    seconds: float
    reports: dict[str, Any]

    def task(self, party: str) -> Any:
        """Return the first task of a party's report."""
        return self.reports[party]["tasks"][0]

    def peak(self, party: str) -> int:
        """Return the peak memory of a party's process [bytes]."""
        return int(self.reports[party]["peak_memory"])


@contextlib.contextmanager
def work_folder(inside: Path | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="psicli-bench-", dir=inside) as name:
        yield Path(name)


def in_child(work: Callable[..., None], *arguments: object) -> None:
    """Do work that needs much memory in a child process, so that the benchmark's own memory stays small."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    child.join()
    if child.exitcode != 0:
        sys.exit("Cannot write the inputs.")


def write_keys(folder: Path, rows: int) -> None:
    """Write both parties' Parquet files: rows in random order with two short columns, half of the keys common."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    for seed, (party, first) in enumerate(zip(PARTIES, (0, rows // 2), strict=True)):
        numbers = np.random.default_rng(seed).permutation(np.arange(first, first + rows))
        schema = pa.schema([("id", pa.string()), ("value", pa.int64())])
        with parquet.ParquetWriter(folder / f"{party}.parquet", schema) as writer:
            for start in range(0, rows, GROUP_ROWS):
                part = numbers[start : start + GROUP_ROWS]
                writer.write_table(pa.table([key_texts(part), part], schema=schema))


def key_texts(numbers: Any) -> Any:
    """Return keys such as customer-000000042."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise("customer-", digits, "")


def write_job(folder: Path, name: str = "job", suffix: str = "parquet", **sections: object) -> Path:
    """Write a job of one task over both parties' files in a folder; sections: further or changed sections."""
    task = {
        "name": "rows",
        "keys": {party: ["id"] for party in PARTIES},
        "input_path": {party: f"{party}.{suffix}" for party in PARTIES},
        "output_path": {RECEIVER: f"{name}-out.{suffix}"},
    }
    nodes = [{"party": RECEIVER, "address": f"127.0.0.1:{free_port()}"}, {"party": SENDER}]
    patience = {"connect_retry_times": 600, "connect_retry_interval_ms": 50}
    cluster = {"nodes": nodes, "link_desc": patience}
    path = folder / f"{name}.yaml"
    job = {"job": "bench", "cluster": cluster, "psi": {"receiver": RECEIVER}, "tasks": [task], **sections}
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def run_parties(job: Path, traces: Path | None = None) -> Outcome:
    """Run both parties until they end; traces: the folder for their traces, if any."""
    started = time.monotonic()
    with party_processes() as processes:
        for party in PARTIES:
            processes[party] = start_party(job, party, traces=traces)
        reports = reports_of(processes)
        return Outcome(time.monotonic() - started, reports)


@contextlib.contextmanager
def party_processes() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Yield a dictionary for processes; kill all of them at the end."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield processes
    finally:
        for process in processes.values():
            # The context manager waits for the process to end and closes its pipe.
            with process:
                process.kill()


def start_party(
    job: Path, party: str, *, before: Sequence[str] = (), traces: Path | None = None, resume: str = "auto"
) -> subprocess.Popen[bytes]:
    """Start a party with its state folder beside the job file; before: a command prefix, such as `ip netns exec`."""
    command = [*before, sys.executable, "-m", "psicli", "run", "--json", "--quiet", f"--resume={resume}"]
    command += ["--config", str(job), "--party", party]
    if traces is not None:
        command += ["--trace", str(trace_of(traces, party))]
    environment = os.environ | {"PSICLI_STATE_DIR": str(job.parent / "state")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def reports_of(processes: Mapping[str, subprocess.Popen[bytes]]) -> dict[str, Any]:
    """Wait for the parties and return their reports; exit if the run failed."""
    reports = {party: json.loads(process.communicate()[0]) for party, process in processes.items()}
    failed = [report["error"]["message"] for report in reports.values() if report["error"]]
    if failed:
        sys.exit(f"The run failed: {failed[0]}")
    return reports


def trace_of(folder: Path, party: str) -> Path:
    return folder / f"{party}.trace.json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
