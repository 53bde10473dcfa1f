"""Hooks and pings: the commands that a batch runs before and after its jobs, and the address that it tells how it ends.

A hook is a list of arguments, which no shell reads. Its arguments and the path of the address may hold secrets, so
messages show only the program and the host.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psicli.batch.plan import Plan
from psicli.batch.record import queued
from psicli.batch.unattended.command import run_command
from psicli.batch.unattended.ping import send
from psicli.config.batch import Batch, HooksEntry
from psicli.core.errors import (
    HookError,
    InterruptedBySignal,
    PlanError,
    PsicliError,
    UntrustedHooksError,
    printable,
    shown,
)
from psicli.report.batch import BatchReport, State
from psicli.report.batch.summary import not_begun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a batch tells its hooks. folder: where they run, the folder of the batch file."""

    batch: str
    folder: Path
    report_dir: Path | None = None


def has_commands(hooks: HooksEntry) -> bool:
    """Return whether there are hooks, and not only a ping."""
    return bool(hooks.before or hooks.after or hooks.on_error)


def check_hooks(batch: Batch) -> None:
    """Check whether the hooks of a batch can run, so that it does not fail at night; warn of the later ones.

    Raises UntrustedHooksError, and PlanError if a program of `before` does not exist.
    """
    if batch.path is None:
        return
    check_trust(batch.hooks, batch.path)
    faults = []
    for kind in ("before", "after", "on_error"):
        for program, *_ in getattr(batch.hooks, kind):
            # A program without a slash is found in PATH, and any other one from the folder of the batch file.
            if shutil.which(str(batch.path.absolute().parent / program) if "/" in program else program):
                continue
            fault = f"hooks.{kind}: there is no program {shown(program)} that this user can start"
            if kind == "before":
                faults.append(f"{printable(batch.path)}: {fault}; check its name and its mode")
            else:
                logger.warning("%s", fault)
    if faults:
        raise PlanError(mistakes="\n".join(faults))


def check_trust(hooks: HooksEntry, file: Path) -> None:
    """Raise UntrustedHooksError if the batch file has hooks and another user could have written them.

    Whoever can write to the file, or to a folder on the way to it, can run commands as this user.
    """
    if not has_commands(hooks):
        return
    real = Path(os.path.realpath(file))
    folders = dict.fromkeys([*Path(os.path.abspath(file)).parents, *real.parents])
    for path in (real, *folders):
        status, name = path.stat(), "it" if path == real else printable(path)
        # In a folder such as /tmp, only the owner of a file can replace it.
        is_sticky = path != real and status.st_mode & stat.S_ISVTX
        if status.st_uid not in (os.geteuid(), 0):
            fault, advice = f"{name} belongs to another user", "Copy the batch file into a folder of your own."
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
            fault, advice = f"others can write to {name}", f"Type `chmod go-w {printable(shlex.quote(str(path)))}`."
        else:
            continue
        raise UntrustedHooksError(path=file, fault=fault, advice=advice)


def surround(plan: Plan, report_dir: Path | None, run: Callable[[], BatchReport]) -> BatchReport:
    """Run a batch between its hooks and pings, and return its report; a hook that fails before ends it unbegun.

    Raises UntrustedHooksError, before anything is started, and what `run` raises.
    """
    hooks, file = plan.batch.hooks, plan.batch.path
    if file is not None:
        check_trust(hooks, file)
    facts = Facts(plan.batch.name, Path.cwd() if file is None else file.parent, report_dir)
    warnings: list[str | None] = []
    report: BatchReport | None = None
    code = PsicliError.code
    try:
        try:
            warnings.append(ping(hooks, "start"))
            run_before(hooks, facts)
            report = run()
        except (HookError, InterruptedBySignal) as exc:
            report = not_begun(exc, plan.batch.name)
            # They stay in the record, for `psicli retry`.
            jobs = map(queued, plan.jobs)
            report.jobs = [replace(job, state=State.NOT_RUN, why="the batch did not begin") for job in jobs]
        code = report.exit_code
    except PsicliError as exc:
        code = exc.code
        raise
    finally:
        failed = [] if report is None else [job.name for job in report.jobs if job.state is State.FAILED]
        try:
            warnings += run_after(hooks, facts, code, failed)
        except InterruptedBySignal as exc:
            code = exc.code
            warnings.append(f"{exc.message} before the hooks at the end had run")
        warnings.append(ping(hooks, str(code)))
    report.exit_code = code
    # The two pings may fail for one reason.
    report.warnings += filter(None, dict.fromkeys(warnings))
    return report


def run_before(hooks: HooksEntry, facts: Facts) -> None:
    """Run the commands of hooks.before in turn; raises HookError for the first one that fails."""
    for command in hooks.before:
        _run("before", command, hooks, facts, {})


def run_after(hooks: HooksEntry, facts: Facts, exit_code: int, failed: Sequence[str]) -> list[str]:
    """Run the commands of hooks.on_error if the exit code is not 0, then those of hooks.after; return warnings.

    failed: the names of the jobs that failed.
    """
    variables = {
        "PSICLI_BATCH_EXIT_CODE": str(exit_code),
        "PSICLI_BATCH_FAILED": " ".join(failed),
        "PSICLI_BATCH_REPORT_DIR": "" if facts.report_dir is None else str(facts.report_dir.absolute()),
    }
    warnings = []
    for kind, commands in (("on_error", hooks.on_error if exit_code else ()), ("after", hooks.after)):
        for command in commands:
            try:
                _run(kind, command, hooks, facts, variables)
            except HookError as exc:
                warnings.append(exc.message)
    return warnings


def ping(hooks: HooksEntry, event: str) -> str | None:
    """Tell hooks.ping, if there is one, that the batch starts ("start") or its exit code; return a warning or None."""
    return None if hooks.ping is None else send(hooks.ping, event)


def _run(kind: str, command: Sequence[str], hooks: HooksEntry, facts: Facts, variables: Mapping[str, str]) -> None:
    """Run one command, and log what it prints; raises HookError, and what `signals.check` raises."""
    program, last = printable(Path(command[0]).name), ""

    def tell(line: str) -> None:
        nonlocal last
        last = line or last
        logger.info("%s: %s", program, line)

    logger.info("hooks.%s: %s starts", kind, program)
    variables = {"PSICLI_BATCH": facts.batch, **variables}
    fault = run_command(command, facts.folder, variables, hooks.timeout, tell)
    if fault is not None:
        said = f"; it said {shown(last)}" if last else ""
        raise HookError(program=printable(command[0]), kind=kind, fault=fault, said=said)
