"""Hooks and pings: the commands that a batch runs before and after its jobs, and the address that it tells how it ends.

A hook is a list of arguments, which no shell reads. Its arguments and the path of the address may hold secrets, so
messages show only the program and the host.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from psicli.batch.plan import Plan
from psicli.batch.record import queued
from psicli.batch.unattended.command import run_command
from psicli.config.batch import Batch, BatchDocument, HooksEntry
from psicli.core.errors import (
    HookError,
    InterruptedBySignal,
    PlanError,
    PsicliError,
    UntrustedHooksError,
    printable,
    reason,
    shown,
)
from psicli.core.records import dataclass
from psicli.report.batch import BatchReport, State
from psicli.report.batch.summary import not_begun

logger = logging.getLogger(__name__)

# As many links as Linux follows.
_MOST_LINKS = 40


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

    Whoever can write to the file, or to a folder or link on the way to it, can run commands as this user.
    """
    if not has_commands(hooks):
        return
    try:
        for path, status in _way(file):
            if (found := _fault(path, status, "it" if stat.S_ISREG(status.st_mode) else printable(path))) is not None:
                raise UntrustedHooksError(path=file, fault=found[0], advice=found[1])
    except OSError as exc:
        fault = f"the way to it cannot be checked: {reason(exc)}"
        raise UntrustedHooksError(path=file, fault=fault, advice="Name the file by its path.") from exc
    # Nobody else can exchange the file from now on, but somebody could until now, after it was read.
    if _hooks_of(file) != hooks:
        raise UntrustedHooksError(path=file, fault="it has just been changed", advice="Run the batch again.")


def _way(file: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each folder and link on the way to a file from the root, then the file; raises OSError.

    Whoever checks each of them before the next one needs no descriptors: nobody else can exchange what was checked.
    """
    at, rest, links = Path("/"), [*Path.cwd().joinpath(file).parts[1:]], 0
    yield at, at.stat()
    while rest:
        name = rest.pop(0)
        if name == "..":
            at = at.parent
            continue
        path = at / name
        status = path.lstat()
        yield path, status
        if not stat.S_ISLNK(status.st_mode):
            at = path
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = path.readlink()
        if target.is_absolute():
            at = Path("/")
        rest[:0] = target.parts[target.is_absolute() :]


def _fault(path: Path, status: os.stat_result, name: str) -> tuple[str, str] | None:
    """Return why another user could exchange a part of the way, and what to do; None if only this user and root can."""
    mode = status.st_mode
    if status.st_uid not in (os.geteuid(), 0):
        return f"{name} belongs to another user", "Copy the batch file into a folder of your own."
    # In a folder such as /tmp, only the owner of a file or link can replace it. The mode of a link means nothing.
    is_sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky and not stat.S_ISLNK(mode):
        return f"others can write to {name}", f"Type `chmod go-w {printable(shlex.quote(str(path)))}`."
    return None


def _hooks_of(file: Path) -> HooksEntry | None:
    """Return the hooks of a batch file; None if it can no longer be read."""
    with suppress(PsicliError, ValueError):
        return HooksEntry.model_validate(BatchDocument(file).table("hooks"))
    return None


def surround(plan: Plan, report_dir: Path | None, run: Callable[[], BatchReport]) -> BatchReport:
    """Run a batch between its hooks and pings, and return its report; a hook that fails before ends it unbegun.

    Raises UntrustedHooksError, before anything is started, and what `run` raises.
    """
    hooks, file = plan.batch.hooks, plan.batch.path
    if file is not None:
        check_trust(hooks, file)
    # The links on the way are as they were checked now, but hooks may run hours later.
    folder = Path.cwd() if file is None else Path(os.path.realpath(file.parent))
    facts = Facts(plan.batch.name, folder, report_dir)
    warnings: dict[str, None] = {}

    def warn(text: str | None) -> None:
        # The two pings may fail for one reason. The report may not be read, or may not come at all.
        if text is not None and text not in warnings:
            warnings[text] = None
            logger.warning("%s", text)

    report: BatchReport | None = None
    code = PsicliError.code
    try:
        try:
            warn(ping(hooks, "start"))
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
            for text in run_after(hooks, facts, code, failed):
                warn(text)
        except InterruptedBySignal as exc:
            code = exc.code
            warn(f"{exc.message} before the hooks at the end had run")
        warn(ping(hooks, str(code)))
    report.exit_code = code
    report.warnings += warnings
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
    if hooks.ping is None:
        return None
    # Imported late because it is slow.
    from psicli.batch.unattended.ping import send

    return send(hooks.ping, event)


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
