"""The command line: how the job file is named, variables that set options, completion, and readers that end early."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes.expectations import failed, marked_pair, the_object
from support.processes.runner import DIALER, LISTENER, Pair

from psicli.cli.options import PATH

ALONE = ("--wait", "0")


# The job file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check", "simulate"])
def test_the_job_file_is_named_once(pair: Pair, command: str) -> None:
    path = marked_pair(pair).job_file(LISTENER)
    twice = pair.start_command(command, path, "--config", path).result()
    assert (twice.code, "Name the job file once, as FILE or with --config." in twice.stderr) == (2, True)
    never = pair.start_command(command).result()
    assert (never.code, f"Name the job file: `psicli {command} FILE`." in never.stderr) == (2, True)


@pytest.mark.more
def test_the_job_file_as_an_argument(pair: Pair) -> None:
    """It overrides the variable, and ~ works in it wherever the shell leaves it."""
    path = marked_pair(pair).job_file(LISTENER)
    environment = {"HOME": str(path.parent), "PSICLI_CONFIG": "~/job.yaml"}
    for arguments, code in (((path,), 0), (("--config=~/job.yaml",), 0), ((), 0), (("absent.yaml",), 66)):
        assert pair.start_command("check", *arguments, *ALONE, env=environment).result().code == code, arguments


@pytest.mark.parametrize("name", ["absent.yaml", ".", "job.yaml/job.yaml"])
def test_a_job_file_that_cannot_be_read(pair: Pair, name: str) -> None:
    pair.job_file(LISTENER)
    result = pair.start_command("run", pair.path(LISTENER) / name).result()
    failed(result, 66, "no such job file|cannot read this job file: is a directory")


def test_a_job_file_without_permission_is_left_to_its_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As root, a test cannot make a file that it cannot read."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert PATH.convert(str(tmp_path), None, None) == tmp_path


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rnu",), "No such command 'rnu'"),
        (("job.yaml",), "Name a command before the file, as in `psicli run job.yaml`."),
        (("a.yaml", "b.yaml"), "Name a command before the file, as in `psicli batch a.yaml b.yaml`."),
        (("batch",), "Name a batch file or job files: `psicli batch FILE...`."),
        (("batch", "/"), "/ is a folder. Name the files in it, as in"),
        (("batch", "a.yaml", "--deadline", "soon"), "'soon' is not a duration; give for example 30s, 10m, 2h or 1d."),
        (("batch", "a.yaml", "--deadline", "0"), "'0' is not a duration"),
        (("batch", "a.yaml", "--memory", "3"), "'3' is too little; give at least 384MB."),
        (("run", "--confg", "job.yaml"), "--config"),
        (("completion", "tcsh"), "is not one of"),
    ],
)
def test_a_wrong_word(pair: Pair, arguments: tuple[str, ...], sentence: str) -> None:
    result = pair.start_command(*arguments).result()
    assert (result.code, result.stdout) == (2, b"")
    assert result.stderr.startswith("Usage: psicli ")
    assert sentence in result.stderr


# Variables --------------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize(("value", "is_set"), [("1", True), ("true", True), ("YES", True), ("0", False), ("", False)])
def test_variables_set_options_without_a_value(pair: Pair, value: str, is_set: bool) -> None:
    path = marked_pair(pair).job_file(LISTENER)
    result = pair.start_command("check", path, *ALONE, env={"PSICLI_JSON": value}).result()
    assert (result.code, result.stdout.startswith(b"{")) == (0, is_set)
    quiet = pair.start_command("check", path, *ALONE, env={"PSICLI_QUIET": value}).result()
    assert (quiet.code, quiet.text == "") == (0, is_set)


def test_a_variable_with_another_value_is_a_wrong_command_line(pair: Pair) -> None:
    result = pair.start_command("check", marked_pair(pair).job_file(LISTENER), env={"PSICLI_QUIET": "maybe"}).result()
    assert (result.code, "'maybe' is not a valid boolean" in result.stderr) == (2, True)


@pytest.mark.more
def test_a_variable_names_tasks(pair: Pair) -> None:
    path = marked_pair(pair).job_file(LISTENER)
    assert pair.start_command("check", path, *ALONE, env={"PSICLI_ONLY": "people"}).result().code == 0
    failed(pair.start_command("run", path, env={"PSICLI_ONLY": "people peple"}).result(), 2, "--only: 'peple' is not")


# Completion -------------------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(pair: Pair, shell: str) -> None:
    script = pair.start_command("completion", shell).result()
    assert (script.code, script.stderr) == (0, "")
    asked = pair.start_command(env={"_PSICLI_COMPLETE": f"{shell}_source"}).result()
    assert (asked.code, asked.stderr, asked.stdout.strip()) == (0, "", script.stdout.strip())
    if path := shutil.which(shell):
        subprocess.run([path, "-n", "/dev/stdin"], input=script.stdout, check=True)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("psicli sim", ["simulate"]),
        ("psicli completion ", ["bash", "zsh", "fish"]),
        ("psicli run --por", ["--port-offset"]),
        ("psicli run job.yaml --only peo", ["people"]),
        ("psicli run --config job.yaml --only ", ["people"]),
        ("psicli run absent.yaml --only ", []),
    ],
)
def test_completions(pair: Pair, words: str, expected: list[str]) -> None:
    folder = marked_pair(pair).job_file(LISTENER).parent
    asked = {"_PSICLI_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    result = pair.start_command(env=asked, cwd=folder).result()
    assert (result.code, result.stderr) == (0, "")
    assert [line.removeprefix("plain,") for line in result.stdout.decode().splitlines() if line] == expected


# Readers that end early -------------------------------------------------------------------------------------------


@pytest.fixture
def gone() -> Iterator[dict[str, Any]]:
    """Yield how to start a process whose standard output has no reader."""
    reading, writing = os.pipe()
    os.close(reading)
    # sh knows descriptors of one digit only.
    yield {"wrapper": ["bash", "-c", f'exec "$@" >&{writing}', "bash"], "pass_fds": [writing]}
    os.close(writing)


@pytest.mark.sample(2)
@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("config", "schema"), ("ledger",), ("status",)])
def test_a_reader_that_ends_early_is_no_error(pair: Pair, gone: dict[str, Any], arguments: tuple[str, ...]) -> None:
    result = pair.start_command(*arguments, **gone).result()
    assert (result.code, result.text) == (0, "")


def test_a_reader_of_rows_that_ends_early(pair: Pair, gone: dict[str, Any]) -> None:
    """Its rows are lost, so the run has failed, and not because of a disk."""
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "-"}
    runs = [pair.start(LISTENER, **gone), pair.start(DIALER, "--json")]
    alice, bob = (run.result() for run in runs)
    failed(alice, 74, "standard output: the program that reads it has ended")
    assert "disk" not in alice.stderr
    assert the_object(bob.stdout)["exit_code"] == bob.code


@pytest.mark.more
def test_a_trace_does_not_replace_a_file_of_the_job(pair: Pair, tmp_path: Path) -> None:
    path = marked_pair(pair).job_file(LISTENER)
    (tmp_path / "trace.json").hardlink_to(path)
    before = path.read_bytes()
    result = pair.start_command("run", path, "--trace", tmp_path / "trace.json").result()
    failed(result, 73, "the job itself uses this file")
    assert path.read_bytes() == before
