"""Check the code blocks that are not run: job files, schedules, units, and the commands in them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import click
import yaml
from support.docs.blocks import Block
from support.job_files import SAMPLE
from support.monitoring.documented import check_rules

from psicli.cli.main import cli
from psicli.config import load_job
from psicli.config.batch import load_batch
from psicli.config.models import JobFile

ROOT = Path(__file__).parents[3]
LANGUAGES = {"", "sh", "test", "python", "yaml", "csv", "text", "ini", "crontab", "json"}
# What fits on a page of the site and in a terminal.
WIDTH = 80
# A line of a picture that looks like a command, which would escape the tests.
COMMAND = re.compile(r"^\s*(?:\w+)?[$#]? ?(?:psicli|make|pip|python3?|git|pytest|sh|cat) +[a-z./-]", re.MULTILINE)
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Five fields of a time, then the command.
CRON_LINE = re.compile(r"(?:[\d*/,-]+\s+){5}(.*)|@\w+\s+(.*)")

# What some fields of a task need of other fields, which the sample has otherwise.
NEEDS = {
    "per_file": {"output_path": {"alice": "out/*.csv"}},
    "query": {"input_path": {"alice": "duckdb:crm.duckdb"}},
    "result": {"output_path": {}},
}


class _TextLoader(yaml.SafeLoader):
    """Leaves every value text, as psicli does, and merges `<<`."""

    yaml_implicit_resolvers: ClassVar = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


def check(block: Block) -> None:
    """Check a block as far as it can be checked without running it. Raises AssertionError."""
    assert block.language in LANGUAGES, f"line {block.line}: no test knows the language {block.language}"
    if block.language not in ("", "test") and not block.not_run:
        widest = max(map(len, block.text.splitlines()), default=0)
        assert widest <= WIDTH, f"line {block.line}: a line of {widest} characters"
    if block.language in ("sh", "test"):
        check_commands(block.text)
    elif block.language == "yaml":
        check_yaml(block.text)
    elif block.language == "ini":
        check_unit(block.text)
    elif block.language == "crontab":
        check_crontab(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "":
        assert not COMMAND.search(block.text), f"line {block.line}: commands belong into a block of the language sh"


# Commands ----------------------------------------------------------------------------------------------------------


def check_commands(text: str) -> None:
    """Check the options of psicli, the targets of make and the paths of pytest in a script."""
    for words in commands(text):
        program, arguments = Path(words[0]).name, words[1:]
        if program == "psicli":
            check_psicli(arguments)
        elif program == "make":
            assert {word for word in arguments if re.fullmatch(r"[a-z-]+", word)} <= TARGETS, words
        elif program == "pytest":
            for word in arguments:
                assert not word.startswith("tests/") or (ROOT / word.partition("::")[0]).exists(), word


def commands(text: str) -> Iterator[list[str]]:
    """Give the simple commands of a script as words, without redirections and variables set for one command."""
    text = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", re.sub(r"<<'?(\w+)'?\n.*?^\1$", "\n", text, flags=re.DOTALL | re.M))
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();&|"):
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield words[: next((n for n, each in enumerate(words) if re.match(r"\d?[<>]", each)), len(words))]
            words = []


def check_psicli(arguments: list[str]) -> None:
    """Check that psicli understands its arguments. Raises click.UsageError."""
    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"psicli has no command {name}"
        command = command.commands[name]
    if not {"--help", "-h", "--version"} & set(rest):
        # Commands inherit the names of the help option, and keep them from the first time they are used.
        command.make_context("psicli", rest, parent=click.Context(cli, **cli.context_settings))


# Schedules ---------------------------------------------------------------------------------------------------------


def check_crontab(text: str) -> None:
    """Check that every line is empty, a comment, a variable or a schedule with commands that exist."""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#") or re.fullmatch(r"[A-Z_]+=\S.*", line):
            continue
        found = CRON_LINE.fullmatch(line)
        assert found, line
        check_commands((found[1] or found[2]).replace("\\%", "%"))


def check_unit(text: str) -> None:
    """Check the syntax of a systemd unit, and the command that it starts."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    assert unit.sections()
    for section in unit.values():
        for name in ("ExecStart", "ExecStartPre", "ExecStopPost"):
            if name in section:
                check_commands(section[name])


# Job files and batch files -----------------------------------------------------------------------------------------


def check_yaml(text: str) -> None:
    """Check a job file or a batch file, or a fragment of one, or rules of alarms for Prometheus.

    An object of Kubernetes only has to be YAML.
    """
    fields = set(yaml.load(text, Loader=_TextLoader))
    if fields == {"groups"}:
        check_rules(yaml.load(text, Loader=_TextLoader))
    elif "apiVersion" not in fields:
        (check_job_file if fields <= set(JobFile.model_fields) else check_batch_file)(text)


def check_batch_file(text: str) -> None:
    """Check a batch file; a fragment with one job may name others, which are made for it."""
    document = {"jobs": ["jobs/bob.yaml"], **yaml.load(text, Loader=_TextLoader)}
    if len(document["jobs"]) == 1:
        first = document["jobs"][0]
        others = first.get("after", []) if isinstance(first, dict) else []
        document["jobs"] = [first, *({"config": f"{other}.yaml", "name": other} for other in others)]
    with tempfile.TemporaryDirectory() as folder:
        for job in document["jobs"]:
            path = Path(folder, job if isinstance(job, str) else job["config"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SAMPLE.replace("job: nightly-overlap", f"job: nightly-{path.stem}"))
        path = Path(folder) / "batch.yaml"
        path.write_text(yaml.safe_dump(document))
        load_batch([path], settings={}, environment={})


def check_job_file(text: str) -> None:
    """Check a job file, for each party where it is made for both; a fragment is put into a complete job file."""
    document = fragment = yaml.load(text, Loader=_TextLoader)
    if "job" not in document or "cluster" not in document:
        document = merged(yaml.load(SAMPLE, Loader=yaml.BaseLoader), fragment)
        for task, part in zip(document["tasks"], fragment.get("tasks", ()), strict=False):
            # The forms of one party's columns need not fit those that another party has in the sample.
            task["keys"] = part.get("keys", task["keys"])
            for name in NEEDS.keys() & part.keys():
                task.update({other: part.get(other, value) for other, value in NEEDS[name].items()})
        if document["psi"].get("result") == "count":
            document["tasks"][0].update(NEEDS["result"])
    parties = [node["party"] for node in document["cluster"]["nodes"]]
    parties = [document["self_party"]] if "self_party" in document else parties
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(yaml.safe_dump(document))
        for party in parties:
            load_job(path, party=party, variables=variables)


def merged(base: Any, fragment: Any) -> Any:
    """Return a base with a fragment put into it, field by field; lists of tables are merged entry by entry."""
    if isinstance(base, dict) and isinstance(fragment, dict):
        return {**base, **{name: merged(base.get(name), value) for name, value in fragment.items()}}
    if isinstance(base, list) and isinstance(fragment, list) and all(isinstance(each, dict) for each in fragment):
        pairs = [merged(old, new) for old, new in zip(base, fragment, strict=False)]
        return [*pairs, *fragment[len(pairs) :], *base[len(fragment) :]]
    return fragment
