"""Every party of a job as its own process on this machine, over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from psicli import signals
from psicli.config import Job, load_parties
from psicli.errors import PeerFailedError, PeerLostError, SharedOutputError, StandardStreamError
from psicli.files import check_writable
from psicli.state import RunFolder, state_folder

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
    trace: Path | None = None,
) -> tuple[int, str]:
    """Run `psicli run` once a party and return the exit code and all reports.

    The code is that of the first party that failed by itself. trace: every party writes a trace beside it. Raises
    ConfigError, and CannotCreateError for the trace and the state folder, before anything is started.
    """
    jobs = load_parties(config, variables, only)
    _check_one_machine(jobs)
    parties = [job.party for job in jobs]
    port = _free_port()
    command = [sys.executable, "-P", "-m", "psicli", "run", f"--config={config}", f"--simulated-port={port}"]
    command += ["--resume=never", *flags]
    own_flags = {party: [f"--party={party}", *["--json"] * as_json, *_trace_flag(trace, party)] for party in parties}
    # Not this user's own state: what is only tried out counts for nothing.
    with RunFolder(state_folder()) as states:
        processes = {party: _start([*command, *own_flags[party]], states.path / party) for party in parties}
        try:
            with signals.allowed():
                reports = {party: process.communicate()[0] for party, process in processes.items()}
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                _see_off(process)
    codes = [_exit_code(process) for process in processes.values()]
    if not as_json:
        return _first_own_failure(codes), "\n".join(reports.values()).rstrip("\n")
    objects = {party: json.loads(text) if text else None for party, text in reports.items()}
    return _first_own_failure(codes), json.dumps({"parties": objects}, indent=2, ensure_ascii=False)


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
            raise StandardStreamError(task=task.name)
        if task.output_path is not None:
            output = os.path.realpath(task.output_path)
            if output in outputs:
                raise SharedOutputError(task=task.name, path=task.output_path)
            outputs.add(output)


def _start(command: Sequence[str], state: Path) -> subprocess.Popen[str]:
    # In a group of its own, so that a terminal's Ctrl-C does not reach it: it is told once, by us.
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environment["PSICLI_STATE_DIR"] = str(state)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, process_group=0, env=environment
    )


def _see_off(process: subprocess.Popen[str]) -> None:
    """See that a party is gone that has ended or was told to."""
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _exit_code(process: subprocess.Popen[str]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _first_own_failure(codes: Sequence[int]) -> int:
    failed = [code for code in codes if code]
    return next((code for code in failed if code not in _THE_OTHERS_FAULT), failed[0] if failed else 0)
