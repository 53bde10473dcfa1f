"""Environments that lack something: psicli says what, or works nevertheless; it never ends with a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.job_files import SMALL
from support.processes.expectations import csv_data, failed
from support.processes.runner import Pair

COMMANDS = {"simulate": ("simulate",), "check": ("check", "--wait", "0"), "run": ("run",)}
TASK = """\
  - name: people
    keys: {alice: [id], bob: [id]}
    input_path: {alice: a.csv, bob: b.csv}
    output_path: {alice: out/people.csv}
"""


def whole_job(folder: bytes | Path) -> bytes:
    """Write the inputs and the job file of both parties into a new folder; return the path of the job file."""
    place = os.fsencode(folder)
    os.makedirs(place, exist_ok=True)
    for name, start in ((b"a.csv", 0), (b"b.csv", 2)):
        with open(os.path.join(place, name), "wb") as file:
            file.write(csv_data(["id"], [[str(row)] for row in range(start, start + 4)]))
    path = os.path.join(place, b"job.yaml")
    with open(path, "w") as job:
        job.write(SMALL + TASK)
    return path


def start(pair: Pair, *arguments: Any, **how: Any) -> Any:
    result = pair.start_command(*arguments, **how).result()
    assert "Traceback" not in result.text
    assert all(line.isprintable() for line in result.text.split("\n"))
    return result


@pytest.mark.sample(1)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_space_that_is_too_small(pair: Pair, command: str) -> None:
    """Libraries would end the process without a word."""
    job = whole_job(pair.folder)
    result = start(pair, *COMMANDS[command], job, before="ulimit -v 300000")
    assert result.code == 74
    assert "the address space of this process is limited to 307.2 MB, and psicli needs at least " in result.text
    for other in ("status", "ledger"):
        assert start(pair, other, before="ulimit -v 300000").code == 0


@pytest.mark.more
def test_an_address_space_that_is_too_small_for_the_memory_of_the_job(pair: Pair) -> None:
    job = whole_job(pair.folder)
    kilobytes = (700_000_000 + 600_000_000 + 64_000_000 * (os.cpu_count() or 1)) // 1024
    assert start(pair, "check", "--wait", "0", job, before=f"ulimit -v {kilobytes}").code == 0
    content = yaml.safe_load(Path(os.fsdecode(job)).read_text())
    content["pipeline"] = {"memory": "800MB"}
    Path(os.fsdecode(job)).write_text(yaml.safe_dump(content))
    result = start(pair, "run", job, before=f"ulimit -v {kilobytes}")
    failed(result, 74, "the address space of this process is limited to")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_current_folder_that_is_gone(pair: Pair, command: str) -> None:
    gone = pair.folder / "gone"
    gone.mkdir()
    result = start(pair, *COMMANDS[command], "job.yaml", before=f"cd '{gone}' && rmdir '{gone}'")
    assert result.code == 66
    assert "job.yaml: no such job file" in result.text


@pytest.mark.more
def test_names_that_are_too_long(pair: Pair) -> None:
    job = Path(os.fsdecode(whole_job(pair.folder)))
    content = job.read_text()
    for path, code in (("a.csv", 66), ("out/people.csv", 73)):
        job.write_text(content.replace(path, "x" * 300 + ".csv"))
        result = start(pair, *COMMANDS["check"], job)
        assert result.code == code
        assert "file name too long" in result.text


@pytest.mark.more
@pytest.mark.parametrize("name", [b"caf\xe9", b"line\nbreak\x1b[31m\x07", "身份证🔑".encode(), b"~", b"\xe2\x80\xae"])
def test_folders_with_any_name(pair: Pair, name: bytes) -> None:
    folder = os.path.join(os.fsencode(pair.folder), name)
    job = whole_job(folder)
    state = {"PSICLI_STATE_DIR": os.fsdecode(os.path.join(folder, b"state"))}
    assert start(pair, "simulate", job, env=state).code == 0
    assert start(pair, "check", "--wait", "0", job, env=state).code == 0
    report = json.loads(start(pair, "simulate", "--json", job, env=state).stdout)
    assert os.fsencode(report["parties"]["alice"]["tasks"][0]["output"]) == os.path.join(folder, b"out/people.csv")
    os.unlink(os.path.join(folder, b"a.csv"))
    result = start(pair, "simulate", job, env=state)
    assert result.code == 66
    assert "a.csv: no such file" in result.text


LOCALES: list[dict[str, str]] = [
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "ja_JP.eucJP"},
    {"LC_ALL": "", "LANG": ""},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1:strict"},
]


@pytest.mark.more
@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_locales(pair: Pair, locale: dict[str, str]) -> None:
    job = whole_job(pair.folder / "身份证🔑")
    for arguments in (("simulate", job), ("check", "--wait", "0", job), ("status",), ("ledger",)):
        assert pair.start_command(*arguments, env=locale).result().code == 0
    report = json.loads(pair.start_command("simulate", "--json", job, env=locale).result().stdout)
    # In an ASCII locale, Python takes the octets of a path for what they are.
    output = os.fsencode(report["parties"]["alice"]["tasks"][0]["output"])
    assert output.endswith("/身份证🔑/out/people.csv".encode())


def test_a_report_in_two_octets_a_character(pair: Pair) -> None:
    job = whole_job(pair.folder)
    result = pair.start_command("simulate", job, env={"PYTHONIOENCODING": "utf-16"}).result()
    assert (result.code, "alice with bob, done" in result.stdout.decode("utf-16")) == (0, True)


@pytest.mark.more
@pytest.mark.parametrize("folder", ["/tmp/" + "x" * 300, "/etc/passwd", "/proc/nowhere/x"])
def test_a_state_folder_that_cannot_be(pair: Pair, folder: str) -> None:
    job, state = whole_job(pair.folder), {"PSICLI_STATE_DIR": folder}
    for command in ("simulate", "check"):
        assert start(pair, *COMMANDS[command], job, env=state).code == 73
    assert start(pair, "status", env=state).code == 0
