"""Write the generated parts of the documentation: `make docs-generate`. A test compares them with the code.

A generated part is between `<!-- generated: NAME -->` and `<!-- end -->` in a page; the rest of the page is written by
hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner
from support.docs import forms, types
from support.docs.job_file import batch_reference, reference
from support.monitoring import documented

from psicli.cli.main import cli
from psicli.core.errors import EXIT_CODES
from psicli.items.spelling.remedies import KINDS

ROOT = Path(__file__).parents[3]
COMMAND = "make docs-generate"


def exit_codes() -> str:
    """Return the table of exit codes."""
    rows = "\n".join(f"| {code} | {name} | {meaning} |" for code, (name, meaning) in EXIT_CODES.items())
    return f"| code | name | meaning |\n|---|---|---|\n{rows}"


def commands() -> str:
    """Return a table of all commands and the help text of each, in the order in which `psicli --help` lists them."""
    table, sections = ["| command | what it does |", "|---|---|"], []
    for name, command in _commands("psicli", cli):
        text = CliRunner().invoke(cli, [*name.split()[1:], "--help"], prog_name="psicli", terminal_width=80).output
        table.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {_summary(command)} |")
        sections.append(f"## `{name}`\n\n```text\n{text.rstrip()}\n```")
    return "\n".join(table) + "\n\n" + "\n\n".join(sections)


def _commands(name: str, group: click.Group) -> list[tuple[str, click.Command]]:
    """Return every command by its full name; a group is followed by its commands."""
    found: list[tuple[str, click.Command]] = []
    for part, command in group.commands.items():
        full = f"{name} {part}"
        found += _commands(full, command) if isinstance(command, click.Group) else [(full, command)]
    return found


def _summary(command: click.Command) -> str:
    """Return the first paragraph of a command's help."""
    return (command.help or "").partition("\n\n")[0].replace("\n", " ")


def key_warnings() -> str:
    """Return the table of warnings about keys."""
    rows = "\n".join(f"| {kind.fault.format(words='`NULL`, `NA`, …')} | {kind.advice()} |" for kind in KINDS.values())
    return f"| rows have | what to do |\n|---|---|\n{rows}"


PARTS: dict[str, Callable[[], str]] = {
    "exit codes": exit_codes,
    "commands": commands,
    "job file": reference,
    "batch file": batch_reference,
    "types": types.table,
    "key warnings": key_warnings,
    "metrics": documented.table,
    "trimmed": forms.trimmed,
    "providers": forms.providers,
    "form vectors": forms.vectors,
    "form hashes": forms.hashes,
    "form probes": forms.probes,
}


def generated(text: str) -> str:
    """Return a page with its generated parts as the code is now."""
    for name in re.findall(r"^<!-- generated: (.*) -->$", text, re.MULTILINE):
        pattern = rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)"
        body = PARTS[name]()
        text = re.sub(pattern, lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def pages() -> list[Path]:
    """Return the pages that have generated parts."""
    return [page for page in sorted((ROOT / "docs").glob("*.md")) if "<!-- generated: " in page.read_text()]


def main() -> None:
    for page in pages():
        page.write_text(generated(page.read_text()))


if __name__ == "__main__":
    main()
