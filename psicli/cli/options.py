"""The options that several commands share."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource

from psicli.core.errors import PsicliError
from psicli.core.records import dataclass
from psicli.report.channel import SETTINGS, Channel
from psicli.report.console import Console
from psicli.report.metrics.file import SUFFIX
from psicli.report.pages.file import SUFFIXES
from psicli.storage.memory import check_address_space

if TYPE_CHECKING:
    from psicli.config import Given, Job, Simulation

# A command returns its exit code; None means 0.
Command: TypeAlias = Callable[..., int | None]
Decorator: TypeAlias = Callable[[Command], Command]


class _UserPath(click.Path):
    """A path, in which ~ works where the shell does not expand it: in --config=~/job.yaml and in variables."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


# Whoever opens the file says what is wrong with it.
PATH = _UserPath(path_type=Path, readable=False)


class Seconds(click.FloatRange):
    """A duration [s] in a range. Rejects nan, which passes every range because all comparisons with it are false."""

    # The word of messages: 'soon' is not a valid number of seconds.
    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


class Measure(click.ParamType[float]):
    """A text such as 8GB or 30s, which a file may hold too, turned into a number."""

    def __init__(self, name: str, number: Callable[[str], float]) -> None:
        self.name = name
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._number(str(value))
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


def _bytes(text: str) -> float:
    # Imported late because it is slow.
    from psicli.config.fields import to_bytes

    return to_bytes(text)


SIZE = Measure("size", _bytes)


class Workers(click.ParamType[str]):
    """`threads`, or where a Ray cluster is: `ray` for the one of this machine, or HOST:PORT."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Imported late because it is slow.
        from psicli.config.fields import ray_address

        try:
            return "threads" if value == "threads" else ray_address("auto" if value == "ray" else str(value))
        except ValueError as exc:
            fault = str(exc).partition("; ")[0]
            right = "give threads, ray, or HOST:PORT of the head of the Ray cluster, such as 10.0.0.1:6379"
            self.fail(f"{fault}; {right}.", param, ctx)


@dataclass(frozen=True)
class JobOptions:
    """The options of a command that takes a job file; an option that the command lacks has its default."""

    config: Path
    as_json: bool
    settings: Sequence[str]
    only: Sequence[str]
    quiet: bool
    verbose: bool
    party: str | None = None
    port_offset: int = 0
    memory: int | None = None
    workers: str | None = None
    simulation: Simulation | None = None
    no_bars: bool = False
    channel: Channel | None = None
    rendezvous: float | None = None
    given: Given | None = None

    def console(self) -> Console:
        """Set up the log and the progress of the command."""
        return Console(-1 if self.quiet else int(self.verbose), bars=not self.no_bars, channel=self.channel)

    def variables(self) -> dict[str, str]:
        """Return the values for ${NAME} in the job file; --set takes precedence over the environment."""
        of_batch = {} if self.channel is None else json.loads(os.environ.get(SETTINGS, "{}"))
        return {**os.environ, **of_batch, **pairs(self.settings)}

    def load_job(self) -> Job:
        """Read the job file; raises InputMissingError, JobFileError, ArgumentError and AddressSpaceError."""
        check_address_space()
        from psicli.config import load_job

        job = load_job(
            self.config,
            party=self.party,
            port_offset=self.port_offset,
            variables=self.variables(),
            only=self.only,
            simulation=self.simulation,
            memory=self.memory,
            workers=self.workers,
            rendezvous=self.rendezvous,
            given=self.given,
        )
        check_address_space(job.pipeline.memory)
        return job


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """Return the names and values of --set."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (equals and name.isascii() and name.isidentifier()):
            raise click.BadParameter("use NAME=VALUE with a name such as DATE", param_hint="--set")
        found[name] = value
    return found


def option(name: str, text: str, *names: str, **details: Any) -> Decorator:
    """Make an option that the environment can set too, in the variable PSICLI_NAME."""
    envvar = "PSICLI_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *names, help=text, envvar=envvar, show_envvar=True, **details)


def flag(name: str, text: str) -> Decorator:
    """Make an option without a value, which only the command line sets."""
    return click.option(name, is_flag=True, help=text)


def _not_both(context: click.Context, _: click.Parameter, value: bool) -> bool:
    """Refuse --quiet with --verbose on one command line; else --quiet takes precedence."""
    sources = {context.get_parameter_source(name) for name in ("quiet", "verbose")}
    if sources == {ParameterSource.COMMANDLINE}:
        raise click.UsageError("Use --quiet or --verbose, not both.")
    return value


quiet_option = option("--quiet", "Print only warnings and errors.", "-q", is_flag=True, callback=_not_both)
verbose_option = option(
    "--verbose", "Show details in the log and in the report.", "-v", is_flag=True, callback=_not_both
)
json_option = option("--json", "Print one JSON object instead of text.", "as_json", is_flag=True)
party_option = option("--party", "Run as this party. Overrides self_party in the job file.", metavar="PARTY")
port_option = option(
    "--port-offset",
    "Add N to the port in the job file. Use the same N on both sides to run several copies of a job at the same time.",
    type=int,
    default=0,
    metavar="N",
)
memory_option = option(
    "--memory",
    "Use at most this much memory, such as 512MB. Overrides pipeline.memory in the job file.",
    type=SIZE,
)
workers_option = option(
    "--workers",
    "Compute the bins with the threads of this process (threads), or on this party's own Ray cluster: the one of this "
    "machine (ray), or the one with its head at HOST:PORT. Overrides pipeline.workers in the job file.",
    type=Workers(),
    metavar="WORKERS",
)
keep_going_option = option(
    "--keep-going",
    "Leave out a task whose input or output is bad and run the others, like keep_going in the job file.",
    is_flag=True,
)


def seconds_option(name: str, text: str, default: float) -> Decorator:
    """Make an option that takes a duration [s]."""
    return option(name, text, type=Seconds(min=0), default=default, metavar="SECONDS", show_default=True)


def trace_option(text: str) -> Decorator:
    """Make the option that names the file for a trace."""
    return option("--trace", text, type=PATH, metavar="FILE")


def _metrics_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix != SUFFIX:
        raise click.BadParameter(f"the name must end in {SUFFIX}, because node_exporter reads no others.")
    return path


metrics_option = option(
    "--metrics",
    "Write metrics for Prometheus to FILE, whose name ends in .prom. Each run replaces the file, also if it fails.",
    type=PATH,
    metavar="FILE",
    callback=_metrics_file,
)


def _page_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise click.BadParameter("the name must end in .html, so that a browser shows the file as a page.")
    return path


report_option = option(
    "--report",
    "Write the report as a page to FILE, whose name ends in .html, also if the command fails. The page needs no other "
    "file.",
    "page",
    type=PATH,
    metavar="FILE",
    callback=_page_file,
)


def job_options(command: Command) -> Command:
    """Add the options of every command that takes a job file, and pass them to it as one JobOptions."""
    setting = "Replace ${NAME} in paths and addresses of the job file with VALUE. Repeat the option for several."
    task = "Use only this task of the job. Repeat the option for several."

    @click.argument("file", required=False, type=PATH, callback=_job_file)
    @option("--config", "Read the job from this YAML file. The same as FILE.", type=PATH, metavar="FILE", is_eager=True)
    @json_option
    @click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help=setting)
    @option("--only", task, multiple=True, metavar="TASK", shell_complete=_task_names)
    @quiet_option
    @verbose_option
    @wraps(command)
    def with_job_options(file: Path, **given: Any) -> int | None:
        given["config"] = file
        values = {field.name: given.pop(field.name) for field in fields(JobOptions) if field.name in given}
        return command(JobOptions(**values), **given)

    return with_job_options


def _job_file(context: click.Context, _: click.Parameter, file: Path | None) -> Path | None:
    """Return the job file, which is named once: as FILE or with --config. FILE overrides the variable PSICLI_CONFIG."""
    if file is not None and context.get_parameter_source("config") is ParameterSource.COMMANDLINE:
        raise click.UsageError("Name the job file once, as FILE or with --config.")
    # --config is eager, so its value is known here.
    found: Path | None = file or context.params["config"]
    if found is not None or context.resilient_parsing:
        return found
    raise click.UsageError(f"Name the job file: `{context.command_path} FILE`.")


def _task_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the tasks of the job file on an incomplete command line; none if it has errors."""
    from psicli.config import task_names

    # An argument before an incomplete option is still among the words that click has left.
    named = [context.params.get("file"), context.params.get("config"), *context.args]
    with suppress(PsicliError):
        return [name for name in task_names(Path(next(filter(None, named), ""))) if name.startswith(incomplete)]
    return []
