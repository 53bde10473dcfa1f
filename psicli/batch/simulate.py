"""Simulation of a job: both parties on this machine, each as its own process, over loopback.

Other users of the machine can reach loopback, too. So the parties prove their identities to each other with
certificates that are made for this simulation alone, in a folder that nobody else can read.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from psicli.batch import PSICLI, SET_BY_OPTIONS
from psicli.config import Job, load_parties
from psicli.core import signals
from psicli.core.errors import (
    BadInputError,
    InputMissingError,
    NoPortError,
    PortBusyError,
    TaskFilesError,
    UnknownFormatError,
    reason,
)
from psicli.core.formats import Format, file_format
from psicli.core.peer_errors import PeerFailedError, PeerLostError
from psicli.storage.state import run_folder, state_folder
from psicli.transport.certs import create_authority, issue

logger = logging.getLogger(__name__)

# How many ports a simulation tries, in case another program takes one before the listener does.
PORTS = 5
# How long the certificates of a simulation are valid [days].
VALID_DAYS = 2
# How long a party may take to stop after SIGTERM [s].
STOP_TIMEOUT = 10.0
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
    ConfigError, NoPortError, and CannotCreateError for the trace and the state folder.
    """
    jobs = load_parties(config, variables, only)
    _check_one_machine(jobs)
    command = [*PSICLI, "run", f"--config={config}", "--resume=never", "--json", *flags]
    commands = {job.party: [*command, f"--party={job.party}", *_trace_flag(trace, job.party, jobs)] for job in jobs}
    # One party's bars show the progress of both.
    for job in jobs[1:]:
        commands[job.party].append("--no-bars")
    # A simulation must not use this user's ledger and checkpoints.
    with run_folder(state_folder()) as folder:
        keys = _make_keys(folder, jobs)
        for attempt in range(PORTS):
            codes, reports = _run(
                {party: [*each, f"--simulation={keys}"] for party, each in commands.items()}, folder, keys
            )
            if not any(map(_found_port_taken, reports.values())):
                break
            logger.warning(
                "another program took the port of the simulation first (attempt %d of %d)", attempt + 1, PORTS
            )
    if {BadInputError.code, InputMissingError.code} & {*codes} and _both_csv(jobs):
        logger.warning(
            "a simulation uses the settings under csv for the files of both parties; if these are written differently, "
            "run each party with a job file of its own"
        )
    failed = [code if code > 0 else 128 - code for code in codes if code]
    own_errors = [code for code in failed if code not in _THE_OTHERS_FAULT]
    return (own_errors or failed or [0])[0], reports


def _both_csv(jobs: Sequence[Job]) -> bool:
    """Return whether the inputs of both parties of a task are CSV or TSV files."""
    tasks = zip(*(job.tasks for job in jobs), strict=True)
    return any(all(_is_csv(path) for task in both for path in task.input.paths) for both in tasks)


def _is_csv(path: object) -> bool:
    with suppress(UnknownFormatError):
        return file_format(str(path)).kind in (Format.CSV, Format.TSV)
    return False


def _make_keys(folder: Path, jobs: Sequence[Job]) -> Path:
    """Make a certificate for each party, and return their folder. Nobody can issue another one later."""
    # No party's name has capital letters, so neither its state folder nor its certificate can have these names.
    keys = folder / "TLS"
    authority = keys / "CA"
    for made in (keys, authority):
        made.mkdir(0o700)
    create_authority(authority, None, VALID_DAYS)
    for job in jobs:
        issue(keys, authority, job.party, [job.tls_name], VALID_DAYS)
    (authority / "ca.key").unlink()
    return keys


def _run(
    commands: Mapping[str, Sequence[str]], folder: Path, keys: Path
) -> tuple[list[int], dict[str, dict[str, Any] | None]]:
    """Run all parties on a free port until they end, or until the listener finds that another program has the port.

    Returns their exit codes and reports; raises NoPortError.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as exc:
            raise NoPortError(reason=reason(exc)) from exc
        port = probe.getsockname()[1]
    # Not on a command line, where another user could read it before the listener has bound the port. Whoever reads it
    # finds the port free.
    (keys / "port").write_text(str(port))
    processes = {party: _start(command, folder / party) for party, command in commands.items()}
    reports: dict[str, dict[str, Any] | None] = {}
    try:
        for party, process in processes.items():
            with signals.allowed():
                reports[party] = _report_of(process.communicate()[0])
            if _found_port_taken(reports[party]):
                break
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            with process:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT)
                process.kill()
    return [process.returncode for process in processes.values()], dict.fromkeys(processes) | reports


def _found_port_taken(report: dict[str, Any] | None) -> bool:
    error = (report or {}).get("error") or {}
    return error.get("class") == PortBusyError.__name__


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
        if task.input.is_stdin or task.output_path == "-":
            raise TaskFilesError(
                task=task.name,
                fault="standard input and output cannot be shared by both parties",
                advice="Name files as its input and output to simulate it.",
            )


def _start(command: Sequence[str], state: Path) -> subprocess.Popen[bytes]:
    # With its own process group, a terminal's Ctrl-C does not reach it; this process then sends one SIGTERM.
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_OPTIONS}
    environment["PSICLI_STATE_DIR"] = str(state)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0, env=environment)
