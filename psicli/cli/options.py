"""The options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from psicli.report.console import Console

if TYPE_CHECKING:
    from psicli.config import Job

# What a command returns is the exit code; None is 0.
Command: TypeAlias = Callable[..., int | None]
Decorator: TypeAlias = Callable[[Command], Command]

PATH = click.Path(path_type=Path)


class Seconds(click.FloatRange):
    """A time that is a number: every comparison with nan is false, so it passes a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is no time.", param, ctx)
        return seconds


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
        """Read the job file; raises InputMissingError, JobFileError."""
        from psicli.config import load_job

        return load_job(
            self.config,
            party=self.party,
            port_offset=self.port_offset,
            variables=self.variables(),
            only=self.only,
            simulated_port=self.simulated_port,
        )


def option(name: str, text: str, *names: str, show_envvar: bool = True, **details: Any) -> Decorator:
    """Make an option that may come from the environment too, as PSICLI_ and its name."""
    envvar = "PSICLI_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *names, help=text, envvar=envvar, show_envvar=show_envvar, **details)


def flag(name: str, text: str, *names: str) -> Decorator:
    return option(name, text, *names, show_envvar=False, is_flag=True)


json_option = flag("--json", "Show one JSON object.", "as_json")
party_option = option("--party", "Who we are, instead of the file's self_party.")
port_option = option(
    "--port-offset",
    "Add N to every port, on both sides, to run several jobs at once.",
    type=int,
    default=0,
    metavar="N",
)


def seconds_option(name: str, text: str, default: float, **details: Any) -> Decorator:
    return option(name, text, type=Seconds(min=0), default=default, metavar="S", **details)


def trace_option(text: str) -> Decorator:
    return option("--trace", text, type=PATH, metavar="FILE")


def job_options(command: Command) -> Command:
    """Add the options of every command that takes a whole job, and pass on those there are as JobOptions."""

    @option("--config", "The job file (YAML).", required=True, type=PATH)
    @flag("--json", "Report as one JSON object.", "as_json")
    @click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Fill ${NAME} in paths and addresses.")
    @option("--only", "Run this task alone (repeatable).", show_envvar=False, multiple=True, metavar="TASK")
    @flag("--quiet", "Say nothing unless something is wrong.", "-q")
    @flag("--verbose", "Say more on standard error.", "-v")
    @wraps(command)
    def with_job_options(**given: Any) -> int | None:
        told = {field.name: given.pop(field.name) for field in fields(JobOptions) if field.name in given}
        return command(JobOptions(**told), **given)

    return with_job_options
