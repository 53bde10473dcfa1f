"""psicli init: the job files of a first job."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psicli.cli.options import PATH, flag
from psicli.cli.screen import write
from psicli.core import signals
from psicli.core.errors import PsicliError, UnknownFormatError, printable, shown
from psicli.core.formats import Compression, file_format
from psicli.core.records import dataclass

if TYPE_CHECKING:
    from psicli.setup.looks import Table
    from psicli.setup.plan import Plan, PlannedTask
    from psicli.setup.propose import Given

_LOOPBACK = "127.0.0.1:9560"
# Where data files usually are, and how many of them a question names.
_FOLDERS = (".", "in")
_FILES_SHOWN = 20
_NONE = "none"


def _name(value: str) -> str:
    from psicli.config import NAME

    if not re.fullmatch(NAME, value):
        raise click.BadParameter(f"{shown(value)} is not a name; use 1 to 63 characters of a-z, 0-9 and -.")
    return value


def _address(value: str) -> str:
    from psicli.config.fields import split_address

    try:
        split_address(value)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.") from exc
    return value


def _form(value: str) -> str:
    from psicli.config.fields import form_text

    try:
        return form_text(value)
    except ValueError as exc:
        text = str(exc)
        raise click.BadParameter(text if text.endswith("?") else f"{text}.") from exc


def _region(value: str) -> str:
    from psicli.items.forms.rules.phones import region_exists

    if not region_exists(value.upper()):
        raise click.BadParameter(f"{shown(value)} is not a region; give two letters, such as DE or US.")
    return value.upper()


def _several(name: str, text: str, kind: Any, metavar: str) -> Callable[[Any], Any]:
    return click.option(
        name, name.removeprefix("--").replace("-", "_"), multiple=True, type=kind, metavar=metavar, help=text
    )


def _checked(check: Callable[[str], str]) -> Callable[..., Any]:
    """Return the callback of an option that may be given several times, once or not at all."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        return tuple(map(check, value)) if isinstance(value, tuple) else value and check(value)

    return callback


@dataclass
class _Answers:
    """What the options say, and where they say nothing, what the user answers or the default is.

    asks: whether to ask for what has no default. asks_all: whether to ask for everything.
    """

    asks: bool
    asks_all: bool
    missing: list[str] = field(default_factory=list)

    def get(self, name: str, given: str | None, question: str, default: str | None, check: Callable[[str], str]) -> str:
        """Return the value of an option, the answer to a question, or the default; note it if there is none."""
        if given:
            return given
        if self.asks_all or (self.asks and default is None):
            return self.ask(question, default, check)
        if default is None:
            self.missing.append(name)
        return default or ""

    def ask(self, question: str, default: str | None, check: Callable[[str], str]) -> str:
        """Return the answer to a question; ask again until it passes the check. Raises click.UsageError at its end."""
        try:
            # Only a terminal is ever asked, and nothing has been written yet.
            with signals.allowed():
                return str(click.prompt(question, default=default, show_default=bool(default), value_proc=check))
        except click.Abort:
            raise click.UsageError("The answers ended early; nothing was written.") from None


@click.command()
@click.option("--party", metavar="NAME", callback=_checked(_name), help="Name your own party. A trial calls it alice.")
@click.option("--peer", metavar="NAME", callback=_checked(_name), help="Name the other party. A trial calls it bob.")
@_several("--input", "Read this file of your own party. Repeat the option for several tasks.", PATH, "FILE")
@_several("--peer-input", "For a trial: the other party's file for the same task, on this machine.", PATH, "FILE")
@click.option(
    "--address",
    metavar="HOST:PORT",
    callback=_checked(_address),
    help=f"Let the party that listens be reached here. A trial uses {_LOOPBACK}.",
)
@click.option("--listener", metavar="NAME", help="Let this party listen. The default is your own.")
@click.option("--receiver", metavar="NAME", help="Let this party learn the result. The default is your own.")
@_several("--key", "Compare this column of your files. Repeat the option for a key of several columns.", str, "COLUMN")
@_several("--peer-key", "Compare it with this column of the other party.", str, "COLUMN")
@click.option(
    "--form",
    "forms",
    multiple=True,
    metavar="FORM",
    callback=_checked(_form),
    help="Bring both columns into this form, such as email. One for each key column.",
)
@click.option(
    "--region", metavar="XX", callback=_checked(_region), help="Take phone numbers without a country code as from here."
)
@click.option(
    "--job", metavar="NAME", callback=_checked(_name), help="Name the job. The default is made of the parties."
)
@flag("--certs", "Make a certificate authority and a certificate for each party, in certs/.")
@click.option("--folder", type=PATH, default=".", metavar="DIR", help="Write here. The default is the current folder.")
@flag("--yes", "Ask nothing, and take the defaults.")
def init(**given: Any) -> None:
    """Write the job files of a first job, for both parties.

    Looks into the files, chooses the key columns and the form in which they are compared, and writes PARTY.yaml and
    PEER.yaml. It overwrites nothing. Without options, it asks. With --input and --peer-input, it needs no other option:
    the result is a trial for `psicli simulate`.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not given["yes"]
    answers = _Answers(terminal, terminal and not given["input"])
    from psicli.setup.files import write_files
    from psicli.setup.plan import UnfitError

    try:
        plan = _plan(given, answers)
        written = write_files(plan)
    except UnfitError as exc:
        text = str(exc)
        raise click.UsageError(f"{text[0].upper()}{text[1:]}.") from exc
    _say_written(plan, written)


# The plan --------------------------------------------------------------------------------------------------------


def _plan(given: dict[str, Any], answers: _Answers) -> Plan:
    """Return everything that the job files will say; raises click.UsageError, PsicliError and UnfitError."""
    from psicli.config.fields import MAX_NAME, is_loopback, split_address
    from psicli.setup.files import refuse_existing
    from psicli.setup.plan import Plan

    is_trial = bool(given["peer_input"])
    default = ("alice", "bob") if is_trial or answers.asks_all else (None, None)
    party = answers.get("--party", given["party"], "Name of your own party", default[0], _name)
    peer = answers.get("--peer", given["peer"], "Name of the other party", default[1], _other_than(party))
    _other_than(party)(peer or "")
    if party and peer:
        # Before the files are read, which may take a while.
        refuse_existing(given["folder"] / f"{name}.yaml" for name in (party, peer))
    inputs, peer_inputs = _inputs(given, answers, party, peer)
    here = _LOOPBACK if peer_inputs else None
    if not answers.asks and here is None and not given["address"]:
        answers.missing.append("--address")
    _complete(answers, inputs)
    listener = _one_of(party, peer, "--listener")(given["listener"] or party)
    as_receiver = _one_of(party, peer, "--receiver")
    as_receiver(given["receiver"] or party)
    if given["certs"]:
        _check_names(party, peer)
    tasks = _tasks(given, answers, (party, peer), inputs, peer_inputs)
    question = f"Address at which {listener} can be reached, HOST:PORT"
    address = answers.get("--address", given["address"], question, here, _address)
    receiver = answers.get(
        "--receiver", given["receiver"], "Party that learns which of its rows match", party, as_receiver
    )
    is_here = is_loopback(split_address(address)[0])
    with_certs = given["certs"]
    if answers.asks_all and not with_certs:
        usual = "n" if is_here else "y"
        with_certs = answers.ask("Make certificates for both parties? (y/n)", usual, _yes_or_no) == "y"
    if with_certs:
        _check_names(party, peer)
    job = given["job"] or f"{party}-{peer}"[:MAX_NAME]
    with_tls = with_certs or not is_here
    return Plan(job, party, peer, listener, address, receiver, given["folder"], tasks, with_tls, with_certs)


def _complete(answers: _Answers, inputs: Sequence[Path]) -> None:
    """Raise a usage error that names every option that is missing and has no default."""
    missing = [*answers.missing, *([] if inputs else ["--input"])]
    if missing:
        named = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise click.UsageError(
            f"Give {named}. For a trial with both files on this machine, --input and --peer-input are enough."
        )


def _other_than(party: str) -> Callable[[str], str]:
    """Return the check of the other party's name."""

    def check(value: str) -> str:
        if value and value == party:
            raise click.BadParameter("the two parties need different names.", param_hint="--peer")
        return value and _name(value)

    return check


def _one_of(party: str, peer: str, option: str) -> Callable[[str], str]:
    """Return the check of a name that must be one of the two parties'."""

    def check(value: str) -> str:
        if value not in (party, peer):
            raise click.BadParameter(f"{shown(value)} is neither {party} nor {peer}.", param_hint=option)
        return value

    return check


def _check_names(party: str, peer: str) -> None:
    if "ca" in (party, peer):
        raise click.UsageError("With certificates, no party can be called ca: the authority has this name.")


def _yes_or_no(value: str) -> str:
    if value.lower() not in ("y", "n", "yes", "no"):
        raise click.BadParameter("answer y or n.")
    return value.lower()[0]


def _inputs(given: dict[str, Any], answers: _Answers, party: str, peer: str) -> tuple[list[Path], list[Path]]:
    """Return the files of both parties; none of the other party unless they are on this machine."""
    inputs, peers = [*given["input"]], [*given["peer_input"]]
    if answers.asks_all:
        found = _data_files()
        if found:
            write(f"Files here: {', '.join(map(printable, found[:_FILES_SHOWN]))}")
        first = str(found[0]) if found else None
        inputs = [Path(answers.ask(f"File of {party}", first, _readable))]
        others = [path for path in found if path != inputs[0]]
        if not peers:
            usual = str(others[0]) if len(others) == 1 else _NONE
            question = f"File of {peer}, if it is on this machine for a trial; else {_NONE}"
            answer = answers.ask(question, usual, lambda value: value if value == _NONE else _readable(value))
            peers = [] if answer == _NONE else [Path(answer)]
    if inputs and peers and len(inputs) != len(peers):
        raise click.UsageError("Give --peer-input as often as --input, or not at all.")
    return inputs, peers


def _data_files() -> list[Path]:
    """Return the files that may be inputs, in the current folder and in `in`."""
    found = []
    for folder in map(Path, _FOLDERS):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            try:
                file_format(path)
            except UnknownFormatError:
                continue
            if path.is_file() and not path.name.startswith(".") and path.name.isprintable():
                found.append(path)
    return found


def _readable(value: str) -> str:
    from psicli.setup.looks import read_table

    try:
        read_table(Path(value).expanduser())
    except PsicliError as exc:
        raise click.BadParameter(f"{exc.message}. {exc.advice}") from exc
    return str(Path(value).expanduser())


def _tasks(
    given: dict[str, Any], answers: _Answers, parties: tuple[str, str], inputs: Sequence[Path], peers: Sequence[Path]
) -> tuple[PlannedTask, ...]:
    """Look into the files, and say what the keys are."""
    from psicli.setup.looks import described, read_table
    from psicli.setup.names import job_name
    from psicli.setup.propose import Given, propose

    options = Given(given["key"], given["peer_key"], given["forms"], given["region"] or "")
    tasks: dict[str, PlannedTask] = {}
    for at, path in enumerate(inputs):
        here = [path, *peers[at : at + 1]]
        tables = {party: read_table(each) for party, each in zip(parties, here, strict=False)}
        name = job_name(path.name.lstrip(".").partition(".")[0], tasks)
        choices = options
        task = propose(name, tables, parties, choices)
        for line in filter(None, map(described, tables.values())):
            write(line)
        _say_found(task)
        for ask in (_asked_columns, _asked_form, _asked_region):
            chosen = ask(answers, task, tables, choices)
            if chosen != choices:
                task = propose(name, tables, parties, choices := chosen)
                _say_found(task)
        tasks[name] = task
    return tuple(tasks.values())


def _asked_columns(answers: _Answers, task: PlannedTask, tables: dict[str, Table], choices: Given) -> Given:
    """Return the choices after the user has seen which columns are proposed. Other columns may need another form."""
    if not answers.asks_all or len(task.forms) > 1:
        return choices
    keys = []
    for party, side in task.sides.items():
        columns = tables[party].columns
        listed = ", ".join(map(shown, list(columns)[:_FILES_SHOWN]))

        def known(value: str, columns: Any = columns, listed: str = listed) -> str:
            if value not in columns:
                raise click.BadParameter(f"{shown(value)} is not one of {listed}.")
            return value

        keys.append((answers.ask(f"Key column of {party}", side.keys[0], known),))
    if keys == [side.keys for side in task.sides.values()]:
        return choices
    return replace(choices, keys=keys[0], peer_keys=keys[1] if len(keys) > 1 else choices.peer_keys)


def _asked_form(answers: _Answers, task: PlannedTask, _: dict[str, Table], choices: Given) -> Given:
    """Return the choices after the user has seen which form is proposed."""
    if not answers.asks_all or len(task.forms) > 1:
        return choices
    form = answers.ask("Form of the keys", task.forms[0], _form)
    return choices if form == task.forms[0] else replace(_fixed(task, choices), forms=(form,))


def _asked_region(answers: _Answers, task: PlannedTask, _: dict[str, Table], choices: Given) -> Given:
    """Return the choices with the region of phone numbers without a country code, if there are some."""
    if not answers.asks or not task.without_region or choices.region:
        return choices
    question = (
        f"Region of the {task.without_region:,} phone numbers without a country code, such as DE "
        "(Enter: leave them out, so that they match nothing)"
    )
    region = answers.ask(question, "", lambda value: value and _region(value))
    return replace(_fixed(task, choices), region=region) if region else choices


def _fixed(task: PlannedTask, choices: Given) -> Given:
    """Return the choices with the columns that the user has seen: another form must not change them."""
    keys = [side.keys for side in task.sides.values()]
    return replace(choices, keys=keys[0], peer_keys=keys[1] if len(keys) > 1 else choices.peer_keys)


# What the user reads ---------------------------------------------------------------------------------------------


def _say_found(task: PlannedTask) -> None:
    parts = [f"{', '.join(map(shown, side.keys))} of {party}" for party, side in task.sides.items()]
    lines = [f"task {task.name}: {' and '.join(parts)}, key_form {', '.join(task.forms)}"]
    lines += [f"  {line}" for line in (*task.why, *task.found) if line]
    write("\n".join(lines))


def _say_written(plan: Plan, written: Sequence[Path]) -> None:
    write(f"wrote {', '.join(map(printable, written))}\n")
    if plan.makes_certificates:
        _say_certificates(plan)
    elif plan.with_tls:
        folder = printable(plan.folder / "certs")
        write(f"Put the certificates into {folder} before the first run: docs/two-machines.md says how to make them.")
    own, other = (printable(shlex.quote(str(plan.job_file(party)))) for party in (plan.party, plan.peer))
    if plan.can_be_simulated:
        lines = ["Now type:", "", f"  psicli simulate {own}"]
        lines += [f"  {_showing(plan, task)}" for task in plan.tasks]
    elif all(len(task.sides) == 2 for task in plan.tasks):
        lines = [
            "The two CSV files are not written alike, so each party needs its own job file. Now type:",
            "",
            f"  psicli run --quiet {other} &",
            f"  psicli run {own}",
            *(f"  {_showing(plan, task)}" for task in plan.tasks),
        ]
    else:
        lines = [
            f"Send {other} to {plan.peer}, who changes the lines that say so. Now type:",
            "",
            f"  psicli check --wait 0 {own}",
            "",
            f"When {plan.peer} is ready, type `psicli run {own}`.",
        ]
    write("\n".join(lines))


def _showing(plan: Plan, task: PlannedTask) -> str:
    """Return the command that shows a result, or what to open."""
    path = plan.folder / plan.output(task)
    is_text = file_format(path).kind in ("csv", "tsv", "jsonl") and file_format(path).compression is Compression.NONE
    return f"{'cat' if is_text else 'ls -l'} {printable(shlex.quote(str(path)))}"


def _say_certificates(plan: Plan) -> None:
    certs = plan.folder / "certs"
    give = [plan.job_file(plan.peer), certs / "ca.pem", certs / f"{plan.peer}.pem", certs / f"{plan.peer}.key"]
    keep = [certs / "ca.key", certs / f"{plan.party}.key"]
    write(
        f"Give these to {plan.peer}, on a way that nobody else can read: {', '.join(map(printable, give))}\n"
        f"Never give these away: {', '.join(map(printable, keep))}\n"
        f"It is safer if {plan.peer} makes that key (psicli certs request {plan.peer}): see docs/two-machines.md.\n"
    )
