"""Every party of a job as its own process on this machine, over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from psicli.config import Job, load_parties
from psicli.core import signals
from psicli.core.errors import PeerFailedError, PeerLostError, TaskFilesError
from psicli.storage.files import check_writable
from psicli.storage.state import run_folder, state_folder

# How long a party that was told to stop may take [s].
STOP_TIMEOUT = 10.0
# Options of `run` that stand in the environment of a real one.
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
    as_json: bool,
    trace: Path | None,
) -> tuple[int, str]:
    """Run `psicli run` once a party and return the exit code and all reports.

    The code is that of the first party that failed by itself. trace: every party writes a trace beside it. Raises
    ConfigError, and CannotCreateError for the trace and the state folder, before anything is started.
    """
    jobs = load_parties(config, variables, only)
    _check_one_machine(jobs)
    parties = [job.party for job in jobs]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "psicli", "run", f"--config={config}", f"--simulated-port={port}"]
    command += ["--resume=never", *flags]
    own_flags = {party: [f"--party={party}", *["--json"] * as_json, *_trace_flag(trace, party)] for party in parties}
    # Not this user's own state: what is only tried out counts for nothing.
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
    by_themselves = [code for code in failed if code not in _THE_OTHERS_FAULT]
    text = "\n".join(reports.values()).rstrip("\n")
    if as_json:
        objects = {party: json.loads(report) if report else None for party, report in reports.items()}
        text = json.dumps({"parties": objects}, indent=2, ensure_ascii=False)
    return (by_themselves or failed or [0])[0], text


def _trace_flag(trace: Path | None, party: str) -> list[str]:
    if trace is None:
        return []
    # A path without a name is a folder, and refused as one.
    path = trace.with_name(f"{trace.stem}.{party}{trace.suffix}") if trace.name else trace
    check_writable(path)
    return [f"--trace={path}"]


def _check_one_machine(jobs: Sequence[Job]) -> None:
    """Refuse what works only while every party has a machine of its own."""
    outputs: set[str] = set()
    for task in (task for job in jobs for task in job.tasks):
        if "-" in (task.input_path, task.output_path):
            raise TaskFilesError(
                task=task.name,
                fault="standard input and output cannot be shared by all parties",
                advice="Give the task files to simulate it.",
            )
        if task.output_path is not None:
            output = os.path.realpath(task.output_path)
            if output in outputs:
                raise TaskFilesError(
                    task=task.name,
                    fault=f"{task.output_path} is an output of two parties",
                    advice="On one machine every party needs outputs of its own.",
                )
            outputs.add(output)


def _start(command: Sequence[str], state: Path) -> subprocess.Popen[str]:
    # In a group of its own, so that a terminal's Ctrl-C does not reach it: it is told once, by us.
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment["PSICLI_STATE_DIR"] = str(state)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, process_group=0, env=environment
    )
