"""Renders job files from the templates of this package."""

from __future__ import annotations

import os
import re
import string
import textwrap
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from psicli.core.errors import shown
from psicli.core.formats import PLAIN
from psicli.items.forms.names import HASHED, parse_form
from psicli.setup.plan import UNKNOWN, Plan, PlannedTask, Side, UnfitError, is_text

# Text that every reader of YAML takes for text.
_PLAIN_TEXT = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z_][a-z0-9_./-]*", re.IGNORECASE)
# How wide a comment in a task may be.
_WIDTH = 72
# What a partner should know about a form whose values nobody has seen here.
_ADVICE = {
    "phone": "If your numbers have no country code, write {column: NAME, normalize: phone/DE} for those in Germany.",
    "date": "If your dates begin with the day, write {column: NAME, normalize: date/DMY}, and with the month date/MDY.",
}
_ADVICE_ON_HASHES = f"If your column holds SHA-256 hashes already, write {{column: NAME, normalize: {HASHED}}}."
_ESCAPES = {'"': '\\"', "\\": "\\\\"}


class _Template(string.Template):
    """A template with @, since job files have variables with $."""

    delimiter = "@"


def quoted(text: str) -> str:
    """Return text as a scalar of YAML, also inside braces and brackets; everything unusual is in double quotes."""
    return text if _PLAIN_TEXT.fullmatch(text) else '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def path_text(path: Path, folder: Path) -> str:
    """Return a path as a job file in a folder holds it; raises UnfitError if no job file can hold it."""
    text = os.path.abspath(path)
    if Path(text).is_relative_to(start := os.path.abspath(folder)):
        text = os.path.relpath(text, start)
    if not text.isprintable() or "\ufffe" in text:
        raise UnfitError(f"no job file can hold the path {shown(text)}; rename the file or link to it")
    return ("./" if text.startswith(("~", "-")) else "") + text.replace("$", "$$")


def job_file(plan: Plan, party: str) -> str:
    """Return the text of a party's job file; raises UnfitError for a path that no job file can hold."""
    other = plan.peer if party == plan.party else plan.party
    listener, dialer = plan.parties
    tls = "plain"
    facts = {}
    if plan.with_tls:
        tls = "tls"
        facts = {"certificate": quoted(f"certs/{party}.pem"), "key": quoted(f"certs/{party}.key")}
    return _filled(
        "job",
        party=party,
        peer=other,
        peer_file=plan.job_file(other).name,
        job=quoted(plan.job),
        quoted_party=quoted(party),
        listener=quoted(listener),
        dialer=quoted(dialer),
        address=quoted(plan.address),
        tls=_filled(tls, **facts),
        receiver=quoted(plan.receiver),
        tasks="\n".join(_task(plan, task, party) for task in plan.tasks),
    )


def _task(plan: Plan, task: PlannedTask, party: str) -> str:
    keys, inputs, outputs = [], [], []
    # A partner elsewhere need not know the paths and columns of this party. On one machine, a simulation needs them.
    is_trial = len(task.sides) == 2
    for owner in plan.parties if is_trial else (party,):
        side = task.sides.get(owner)
        if side is not None:
            keys.append(_entry(owner, _columns(side.keys, side.normalize)))
            inputs.append(_entry(owner, quoted(path_text(side.path, plan.folder))))
        else:
            known = task.keys[owner]
            columns = known or _placeholders(len(task.forms))
            keys.append(_entry(owner, _columns(columns, ("",) * len(columns)), "" if known else "your key column"))
            inputs.append(_entry(owner, quoted(f"in/{UNKNOWN}.csv"), "the path of your file"))
        if owner == plan.receiver:
            outputs.append(_entry(owner, quoted(plan.output(task))))
    return _filled(
        "task",
        name=quoted(task.name),
        keys="\n".join(keys),
        form=_form(task, task.why if party in task.sides else _advice(task.forms)),
        inputs="\n".join(inputs),
        output="".join(f"\n{line}" for line in ["    output_path:", *outputs]) if outputs else "",
        csv=_csv(task.sides.get(party)),
    )


def _placeholders(count: int) -> tuple[str, ...]:
    return (UNKNOWN,) if count == 1 else tuple(f"{UNKNOWN}-{number + 1}" for number in range(count))


def _entry(owner: str, value: str, change: str = "") -> str:
    return f"      {quoted(owner)}: {value}" + (f"  # change this: {change}" if change else "")


def _columns(columns: Sequence[str], normalize: Sequence[str]) -> str:
    entries = [
        f"{{column: {quoted(column)}, normalize: {form}}}" if form else quoted(column)
        for column, form in zip(columns, normalize, strict=True)
    ]
    return f"[{', '.join(entries)}]"


def _form(task: PlannedTask, lines: Sequence[str]) -> str:
    """Return the forms of the keys after some lines about them; keys that are compared as text need none."""
    form = f"key_form: [{', '.join(task.forms)}]"
    if set(task.forms) == {"text"}:
        form = f"# {form}          # the default; see docs/key-forms.md"
    comments = [f"    # {each}" for line in lines for each in textwrap.wrap(line, _WIDTH, break_on_hyphens=False)]
    return "\n".join([*comments, f"    {form}"])


def _advice(forms: Sequence[str]) -> list[str]:
    """Return what a partner should know about the forms of the keys, each line once."""
    found = list(map(parse_form, forms))
    lines = [_ADVICE.get(form.base, "") for form in found]
    return list(dict.fromkeys([*lines, _ADVICE_ON_HASHES if any(form.sha256 for form in found) else ""]))


def _csv(side: Side | None) -> str:
    """Return how a party's file is written, as far as that is unusual."""
    if side is None or not is_text(side) or side.format.dialect == PLAIN:
        return ""
    dialect, lines = side.format.dialect, ["    csv:"]
    if dialect.delimiter is not None:
        lines.append(f"      delimiter: {'tab' if dialect.delimiter == chr(9) else quoted(dialect.delimiter)}")
    if dialect.encoding != PLAIN.encoding:
        lines.append(f"      encoding: {quoted(dialect.encoding)}")
    if not dialect.header:
        lines.append("      header: false")
    return "".join(f"\n{line}" for line in lines)


def _filled(template: str, **facts: str) -> str:
    text = resources.files("psicli.setup").joinpath("templates", f"{template}.yaml").read_text("utf-8")
    return _Template(text).substitute(facts)
