"""Simulation of a job: both parties on this machine, each as its own process, over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from psicli.config import Job, load_parties
from psicli.core import signals
from psicli.core.errors import TaskFilesError
from psicli.core.peer_errors import PeerFailedError, PeerLostError
from psicli.storage.state import run_folder, state_folder

# How long a party may take to stop after SIGTERM [s].
STOP_TIMEOUT = 10.0
# Variables that set options of `psicli run`; the simulation sets these options itself.
_NOT_PASSED_ON = {
    "PSICLI_PARTY", "PSICLI_PORT_OFFSET", "PSICLI_ONLY", "PSICLI_JSON", "PSICLI_TRACE", "PSICLI_QUIET",
    "PSICLI_VERBOSE",
}  # fmt: skip
_THE_OTHERS_FAULT = {PeerLostError.code, PeerFailedError.code}


def simulate_job(
    config: Path,
    variables: Mapping[str, str],
    only: Sequence[str],
    flags: Sequence[str],
    *,
    trace: Path | None,
) -> tuple[int, dict[str, dict[str, Any] | None]]:
    """Run `psicli run` for each party; return the exit code, and the report of each party as JSON has it.

    The exit code is that of the first party that failed for a reason other than the other party's failure. A report is
    None if a party left none. trace: each party writes its trace next to this path. Raises, before it starts a process,
    ConfigError, and CannotCreateError for the trace and the state folder.
    """
    jobs = load_parties(config, variables, only)
    _check_one_machine(jobs)
    parties = [job.party for job in jobs]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "psicli", "run", f"--config={config}", f"--simulated-port={port}"]
    command += ["--resume=never", "--json", *flags]
    own_flags = {job.party: [f"--party={job.party}", *_trace_flag(trace, job.party, jobs)] for job in jobs}
    # One party's bars show the progress of both.
    for party in parties[1:]:
        own_flags[party].append("--no-bars")
    # A simulation must not use this user's ledger and checkpoints.
    with run_folder(state_folder()) as states:
        processes = {party: _start([*command, *own_flags[party]], states / party) for party in parties}
        try:
            with signals.allowed():
                reports = {party: process.communicate()[0] for party, process in processes.items()}
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                with process:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(STOP_TIMEOUT)
                    process.kill()
    codes = [process.returncode for process in processes.values()]
    failed = [code if code > 0 else 128 - code for code in codes if code]
    own_errors = [code for code in failed if code not in _THE_OTHERS_FAULT]
    objects = {party: _report_of(text) for party, text in reports.items()}
    return (own_errors or failed or [0])[0], objects


def _report_of(octets: bytes) -> dict[str, Any] | None:
    """Return a party's report in any encoding of Unicode; None if the party was killed before it had written all."""
    try:
        return json.loads(octets)  # type: ignore[no-any-return]
    except ValueError:
        return None


def _trace_flag(trace: Path | None, party: str, jobs: Sequence[Job]) -> list[str]:
    if trace is None:
        return []
    # Imported late because it is slow.
    from psicli.job.inputs import check_trace_file

    # A path without a name is a folder, and check_trace_file rejects it as one.
    path = trace.with_name(f"{trace.stem}.{party}{trace.suffix}") if trace.name else trace
    for job in jobs:
        check_trace_file(path, job)
    return [f"--trace={path}"]


def _check_one_machine(jobs: Sequence[Job]) -> None:
    """Raise TaskFilesError if a task works only on two machines."""
    for task in (task for job in jobs for task in job.tasks):
        if "-" in (task.input_path, task.output_path):
            raise TaskFilesError(
                task=task.name,
                fault="standard input and output cannot be shared by both parties",
                advice="Name files as its input and output to simulate it.",
            )


def _start(command: Sequence[str], state: Path) -> subprocess.Popen[bytes]:
    # With its own process group, a terminal's Ctrl-C does not reach it; this process then sends one SIGTERM.
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment["PSICLI_STATE_DIR"] = str(state)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0, env=environment)
