"""The commands: flags in, exit code out.

Standard output carries the report, or the rows of a task that writes there, and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields
from functools import wraps
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

from psicli import __version__
from psicli.core import failpoints, signals
from psicli.core.errors import CannotCreateError, InterruptedBySignal, PsicliError, StorageError, reason, unexpected
from psicli.report.console import Console
from psicli.storage.locks import PortLock, hold_dial, hold_port, holders

if TYPE_CHECKING:
    from psicli.config import Job

logger = logging.getLogger(__name__)

# What a command returns is the exit code; None is 0.
Command: TypeAlias = Callable[..., int | None]
Decorator: TypeAlias = Callable[[Command], Command]

_PATH = click.Path(path_type=Path)
# The standard streams that were closed when we started.
_closed: set[str] = set()


class Seconds(click.FloatRange):
    """A time that is a number: every comparison with nan is false, so it passes a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is no time.", param, ctx)
        return seconds


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="psicli")
def cli() -> None:
    """Batch private set intersection between two organisations.

    Each side keeps its files; each gets its own rows whose key the other side also has.
    """


@dataclass(frozen=True)
class JobOptions:
    """What a command that takes a whole job was told; not all of them have all of these options."""

    config: Path
    as_json: bool
    settings: Sequence[str]
    only: Sequence[str]
    quiet: bool
    verbose: bool
    party: str | None = None
    port_offset: int = 0
    simulated_port: int | None = None

    def console(self) -> Console:
        return Console(-1 if self.quiet else int(self.verbose))

    def variables(self) -> dict[str, str]:
        """Return what ${NAME} may stand for: --set comes before the environment."""
        pairs = dict(os.environ)
        for setting in self.settings:
            name, equals, value = setting.partition("=")
            if not (name and equals):
                raise click.BadParameter("it must be NAME=VALUE", param_hint="--set")
            pairs[name] = value
        return pairs

    def load_job(self) -> Job:
        """Read the job file; raises JobFileMissingError, JobFileError."""
        from psicli.config import load_job

        return load_job(
            self.config,
            party=self.party,
            port_offset=self.port_offset,
            variables=self.variables(),
            only=self.only,
            simulated_port=self.simulated_port,
        )


def _option(name: str, text: str, *names: str, show_envvar: bool = True, **details: Any) -> Decorator:
    """Make an option that may come from the environment too, as PSICLI_ and its name."""
    envvar = "PSICLI_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *names, help=text, envvar=envvar, show_envvar=show_envvar, **details)


def _flag(name: str, text: str, *names: str) -> Decorator:
    return _option(name, text, *names, show_envvar=False, is_flag=True)


_json_option = _flag("--json", "Show one JSON object.", "as_json")
_party_option = _option("--party", "Who we are, instead of the file's self_party.")
_port_option = _option(
    "--port-offset",
    "Add N to every port, on both sides, to run several jobs at once.",
    type=int,
    default=0,
    metavar="N",
)


def _seconds_option(name: str, text: str, default: float, **details: Any) -> Decorator:
    return _option(name, text, type=Seconds(min=0), default=default, metavar="S", **details)


def _trace_option(text: str) -> Decorator:
    return _option("--trace", text, type=_PATH, metavar="FILE")


def _job_options(command: Command) -> Command:
    """Add the options of every command that takes a whole job, and pass on those there are as JobOptions."""

    @_option("--config", "The job file (YAML).", required=True, type=_PATH)
    @_flag("--json", "Report as one JSON object.", "as_json")
    @click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Fill ${NAME} in paths and addresses.")
    @_option("--only", "Run this task alone (repeatable).", show_envvar=False, multiple=True, metavar="TASK")
    @_flag("--quiet", "Say nothing unless something is wrong.", "-q")
    @_flag("--verbose", "Say more on standard error.", "-v")
    @wraps(command)
    def with_job_options(**given: Any) -> int | None:
        told = {field.name: given.pop(field.name) for field in fields(JobOptions) if field.name in given}
        return command(JobOptions(**told), **given)

    return with_job_options


@cli.command()
@_job_options
@_party_option
@_seconds_option("--lock-timeout", "Wait so many seconds for the port instead of giving up at once.", 0)
@_port_option
@_option(
    "--resume",
    "Continue where a killed run of this job was, from the bins it had finished.",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
)
@_trace_option("Write what the run does when to FILE, for https://ui.perfetto.dev.")
@click.option("--simulated-port", type=int, hidden=True)
def run(options: JobOptions, lock_timeout: float, resume: str, trace: Path | None) -> int:
    """Run a job with the other party and write the matched rows."""
    console = options.console()
    try:
        failpoints.arm()
        job = options.load_job()
        console.job, console.tasks = job.name, len(job.tasks)
        rows_on_stdout = any(task.output_path == "-" for task in job.tasks)
        if rows_on_stdout and "stdout" in _closed:
            raise CannotCreateError(path="standard output", reason="it is closed")
        with _hold(job, lock_timeout) as lock:
            # Only now the heavy part: a mistake in the job file or a busy port is told without it.
            from psicli.job.resume import Mode
            from psicli.job.run import run_job

            report = run_job(job, console, lock, trace, Mode(resume))
    except PsicliError as exc:
        return _refuse(exc, options.as_json)
    except click.ClickException:
        raise
    except Exception as exc:
        logger.exception("unexpected failure")
        return _refuse(unexpected(exc), options.as_json)
    finally:
        console.close()
    from psicli.report.report import to_json, to_text

    if report.error is not None:
        _tell(report.error)
    if options.as_json or report.error is not None or not options.quiet:
        _write(to_json(report, report.error) if options.as_json else to_text(report), to_stderr=rows_on_stdout)
    return report.exit_code


def _hold(job: Job, timeout: float) -> AbstractContextManager[PortLock]:
    """Lock what two runs must not share: the listener's port, the dialer's way to it."""
    if job.listens:
        return hold_port(job.name, job.party, job.listener.listen_host, job.listener.listen_port, timeout)
    return hold_dial(job.name, job.party, job.listener.address, timeout)


@cli.command()
@_job_options
@_trace_option("Write what each party does when to FILE, its name before the suffix, for https://ui.perfetto.dev.")
def simulate(options: JobOptions, trace: Path | None) -> int:
    """Run every party of a job on this machine, each as its own process.

    For trying a job out: self_party, tls, policy and listen_address are ignored, a free port is used, and the ledger
    is left alone.
    """
    options.console()
    try:
        from psicli.batch.simulate import simulate_job

        flags = [*(f"--set={setting}" for setting in options.settings), *(f"--only={task}" for task in options.only)]
        flags += ["--quiet"] * options.quiet + ["--verbose"] * options.verbose
        variables = options.variables()
        code, text = simulate_job(options.config, variables, options.only, flags, as_json=options.as_json, trace=trace)
    except PsicliError as exc:
        return _refuse(exc, options.as_json)
    if text:
        _write(text)
    return code


@cli.command()
@_job_options
@_party_option
@_port_option
@_seconds_option("--wait", "Wait so many seconds for the other side; with 0 it is left alone.", 30, show_default=True)
@_flag("--full", "Read all rows, not about the first 100,000.")
def check(options: JobOptions, wait: float, full: bool) -> int:
    """Find what would keep a job from running, and say what to do; no data is sent.

    Looks at the job file, inputs and outputs, key columns, disks, port, certificates, and at the other side where that
    runs or checks the same job. Ends with 0, with warnings too, or with what a run would end with.
    """
    console = options.console()
    from psicli.check.checklist import Checklist, to_json, to_text

    try:
        job = options.load_job()
        console.job = job.name
        from psicli.check.check import check_job

        found = check_job(job, _hold(job, 0), wait=wait, full=full)
    except InterruptedBySignal:
        raise
    except PsicliError as exc:
        found = Checklist.refused(exc)
    text = to_json(found) if options.as_json else to_text(found, quiet=options.quiet)
    if text:
        _write(text)
    return found.exit_code


@cli.command()
@_json_option
@_flag("--clean", "Remove what runs that were killed have left.")
def status(as_json: bool, clean: bool) -> None:
    """Show which jobs run on this machine, of all users: on which port, since when, how far.

    And what runs of this user that were killed have left in the state folder: what the next run of the same job
    continues from, and what it removes.
    """
    from psicli.storage.state import left_over, state_folder, task_folders

    running = holders()
    kept: list[dict[str, Any]] = []
    left: list[Path] = []
    # What runs can be told without a state folder.
    with nullcontext() if clean else suppress(CannotCreateError):
        left = left_over(state_folder(), remove=clean)
        if task_folders(state_folder()):
            # The heavy part, for those who need it: a run may end meanwhile.
            from psicli.job import resume

            if clean:
                left += resume.sweep(state_folder())
            else:
                kept = resume.kept(state_folder())
    if as_json:
        key, folders = "removed" if clean else "left_over", [*map(str, left)]
        _write(json.dumps({"running": [*map(vars, running)], key: folders, "kept": kept}, indent=2))
        return
    if not running:
        _write("no job runs on this machine")
    for holder in running:
        who = f"{holder.job} ({holder.party}, {holder.where})"
        at = f"{holder.task}: {holder.phase} {holder.percent} %" if holder.task else holder.phase
        _write(f"{who}, pid {holder.pid}, {holder.user}, since {holder.since}, {at}")
    for each in kept:
        what = "task {task} of job {job} ({party}), begun {since}".format(**each)
        bins = f"{each['finished_bins']} of {each['bins']} bins"
        _write(f"kept for the next run: {what}, {bins} finished, in {each['folder']}")
    for folder in left:
        _write(f"removed {folder}" if clean else f"left over: {folder}; `psicli status --clean` removes it")
    if clean and not left:
        _write("nothing is left over")


@cli.command()
@_json_option
@click.option("--peer", metavar="PARTY", help="Show the tasks with this party alone.")
def ledger(as_json: bool, peer: str | None) -> None:
    """Show every task that was opened with a peer: when, over which input, how many items, how it ended.

    The newest come last. The ledger is ledger.jsonl in the state folder: PSICLI_STATE_DIR, else
    $XDG_STATE_HOME/psicli, else ~/.local/state/psicli.
    """
    from psicli.storage.ledger import Ledger, to_text
    from psicli.storage.state import state_folder

    entries = [entry for entry in Ledger(state_folder()).entries() if peer in (None, entry.opening.peer)]
    text = to_text(entries) if entries else "the ledger holds no task"
    _write(json.dumps({"tasks": [entry.to_json() for entry in entries]}, indent=2) if as_json else text)


@cli.command()
@_option(
    "--seconds",
    "Measure each line of the table for so long.",
    type=Seconds(min=0, min_open=True, max=3600),
    default=0.5,
    show_default=True,
    show_envvar=False,
    metavar="N",
)
@_json_option
@click.option("--worker", is_flag=True, hidden=True)
def bench(seconds: float, as_json: bool, worker: bool) -> None:
    """Measure the curve backends on this machine, beside the package cryptography's X25519.

    hash_and_mask is what an own item costs, mask what a point of the other side costs.
    """
    # What there is to say, the process says that started this one.
    Console(-1 if worker else 0)
    from psicli.check.bench import measure, to_text, work_for_another_process

    if worker:
        work_for_another_process(sys.stdin, sys.stdout)
    else:
        facts = measure(seconds)
        _write(json.dumps(facts, indent=2) if as_json else to_text(facts))


@cli.group()
def certs() -> None:
    """Make and look at certificates: a small private authority for two companies that have none.

    One company runs the authority (ca) and issues a certificate to each party. The other one asks for its own with a
    request, so that its key never travels.
    """


def _matching(form: str, advice: str) -> Callable[[str], str]:
    """Return the type of a text that has a form that the job file knows, too."""

    def text(value: str) -> str:
        from psicli import config as job_file

        if not re.fullmatch(getattr(job_file, form), value):
            raise click.BadParameter(f"{value!r} is not a name; {advice}.")
        return value

    return text


_PARTY = _matching("NAME", "a party's name is 1 to 63 of a-z, 0-9 and -")
_DNS = _matching("DNS_NAME", "a DNS name has no wildcard and no port")


def _folder_option(name: str, text: str) -> Decorator:
    return click.option(name, type=_PATH, default=".", metavar="DIR", help=text)


def _days_option(text: str) -> Decorator:
    return click.option("--days", type=click.IntRange(1, 36500), metavar="N", help=text)


@certs.command()
@_folder_option("--out", "Where to write ca.pem and ca.key; by default here.")
@click.option("--name", help="What the authority calls itself; by default psicli CA and a number.")
@_days_option("How long it lasts; by default 5 years.")
def ca(out: Path, name: str | None, days: int | None) -> None:
    """Make a certificate authority: ca.pem, for both sides, and ca.key, which stays here."""
    from psicli.transport.certs import CA_DAYS, create_authority

    if name is not None and not 1 <= len(name.encode()) <= 64:
        raise click.BadParameter("it must have 1 to 64 characters", param_hint="--name")
    _say_written(create_authority(out, name, days or CA_DAYS))


@certs.command()
@click.argument("party", type=_PARTY)
@_folder_option("--out", "Where to write both files; by default here.")
def request(party: str, out: Path) -> None:
    """Make PARTY.key, which stays here, and PARTY.csr, for whoever runs the authority."""
    from psicli.transport import certs

    _say_written(certs.request(out, party))


@certs.command()
@click.argument("party", type=_PARTY)
@click.option("--dns", multiple=True, type=_DNS, metavar="NAME", help="A further name of the party (repeatable).")
@click.option("--csr", type=_PATH, metavar="FILE", help="The party's request; it keeps its key.")
@_folder_option("--ca", "The folder with ca.pem and ca.key; by default here.")
@_folder_option("--out", "Where to write the certificate; by default here.")
@_days_option("How long it lasts; by default a year, and never longer than the authority.")
def issue(party: str, dns: Sequence[str], csr: Path | None, ca: Path, out: Path, days: int | None) -> None:
    """Issue PARTY.pem, which names the party and every --dns; without --csr with a new key, PARTY.key.

    Of a request nothing but the public key is used: the names are those given here.
    """
    from psicli.transport import certs

    _say_written(certs.issue(out, ca, party, dns, days or certs.PARTY_DAYS, csr))


@certs.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_PATH)
@_json_option
def show(files: Sequence[Path], as_json: bool) -> None:
    """Show what certificates say: names, issuer, validity, days left, what they are for."""
    from psicli.transport.certs import describe, to_text

    found = [facts for path in files for facts in describe(path)]
    text = "\n".join(map(to_text, found))
    _write(json.dumps({"certificates": found}, indent=2, ensure_ascii=False) if as_json else text)


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        _write(f"wrote {path}{', a secret: keep it here' if path.suffix == '.key' else ''}")


@cli.group()
def config() -> None:
    """About the job file."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the job file."""
    from psicli.config import job_schema

    _write(json.dumps(job_schema(), indent=2))


class _WithoutPandas(MetaPathFinder):
    """Keep pyarrow from loading pandas, where it is installed, to look at the first value it gets: it takes 0.15 s."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("psicli does without pandas")


def main() -> NoReturn:
    """Run psicli and exit with its code."""
    _open_standard_streams()
    signals.install()
    sys.meta_path.insert(0, _WithoutPandas())
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except PsicliError as exc:
        _tell(exc)
        code = exc.code
    except BaseException:
        # click turns a broken pipe into SystemExit(1), which is none of our codes.
        logger.exception("unexpected failure")
        code = PsicliError.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Everything is released. A thread that still reads an input nobody wants any more must not keep the process.
    os._exit(code)


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: files we open must never land on fd 0, 1 or 2."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(name)
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _refuse(error: PsicliError, as_json: bool) -> int:
    """Report a run that never began."""
    from psicli.report.report import to_json

    _tell(error)
    if as_json:
        _write(to_json(None, error))
    return error.code


def _tell(error: PsicliError) -> None:
    logger.error("%s", error.message)
    if error.advice:
        logger.error("hint: %s", error.advice)


def _write(text: str, *, to_stderr: bool = False) -> None:
    """Write a report; a reader that has gone away is no reason to fail, any other failure is StorageError."""
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        with signals.allowed():
            click.echo(text, file=stream)
            stream.flush()
            failpoints.passage("report.written")
    except OSError as exc:
        # What is left in the buffer must not fail a second time at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise StorageError(path="standard output", reason=reason(exc)) from exc
