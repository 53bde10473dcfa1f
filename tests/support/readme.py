"""Write the generated parts of README.md: `python tests/support/readme.py`. A test holds them against the code."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from psicli.cli.main import cli
from psicli.core.errors import EXIT_CODES

README = Path(__file__).parents[2] / "README.md"
COMMANDS = [
    "run", "simulate", "check", "status", "ledger", "bench", "certs ca", "certs request", "certs issue", "certs show",
]  # fmt: skip


def exit_codes() -> str:
    rows = "\n".join(f"| {code} | {name} | {meaning} |" for code, (name, meaning) in EXIT_CODES.items())
    return f"| code | name | meaning |\n|---|---|---|\n{rows}"


def help_text() -> str:
    texts = [
        CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="psicli", terminal_width=100).output
        for name in COMMANDS
    ]
    return "\n".join(f"```\n{text.rstrip()}\n```" for text in texts)


def generated(text: str) -> str:
    """Return the README with its generated parts made anew."""
    for name, body in (("help", help_text()), ("exit codes", exit_codes())):
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        assert count == 1, name
    return text


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
