"""psicli schedule: what it prints and writes, and what it refuses before anything is scheduled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.job_files import SMALL, TASK

NIGHTLY = "--on-calendar=*-*-* 02:00"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a batch of one job, which is also the home folder."""
    (tmp_path / "job.yaml").write_text(SMALL + TASK.replace("in.csv", '"in/${DATE}.csv"'))
    (tmp_path / "nightly.yaml").write_text("jobs: [job.yaml]\n")
    return tmp_path


def schedule(folder: Path, *arguments: str, code: int = 0) -> str:
    """Return what the command prints; for a failure, its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "psicli", "schedule", "nightly.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": "", "DATE": "2026-11-29"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.more
def test_units_are_printed_and_then_installed(folder: Path) -> None:
    arguments = (NIGHTLY, "--date=DATE", "--alarm=/bin/echo 'it failed'")
    printed = schedule(folder, *arguments)
    units = folder / ".config" / "systemd" / "user"
    assert not units.exists()
    for name in ("nightly.service", "nightly.timer", "nightly-alarm@.service", "nightly-missed.timer"):
        assert f"# {units}/psicli-{name}\n" in printed
    said = schedule(folder, *arguments, "--install")
    assert "systemctl --user enable --now psicli-nightly.timer psicli-nightly-missed.timer\n" in said
    for unit in units.iterdir():
        assert f"# {unit}\n{unit.read_text()}" in printed
    assert "has all units already" in schedule(folder, *arguments, "--install")
    refused = schedule(folder, "--on-calendar=daily", "--date=DATE", "--install", code=73)
    assert re.search(r"psicli-nightly\.service: the file is there, and it is not what psicli would write", refused)


def test_lines_for_cron(folder: Path) -> None:
    printed = schedule(folder, NIGHTLY, "--date=DATE", "--cron")
    assert f'batch {folder}/nightly.yaml --quiet --set "DATE=$(date +\\%F)"\n' in printed


def test_a_variable_that_only_this_shell_has(folder: Path) -> None:
    assert "${DATE} is not defined" in schedule(folder, NIGHTLY, code=78)


@pytest.mark.more
@pytest.mark.parametrize(
    ("argument", "code", "fault"),
    [
        ("--alarm=no-such-program now", 2, "--alarm: there is no program 'no-such-program'"),
        ("--alarm=echo 'it", 2, '--alarm: "echo \'it" cannot be divided into words: no closing quotation'),
        ("--max-age=soon", 2, "--max-age"),
        ("--date=A-B", 2, "--date"),
        ("--on-calendar=*-*-* 02:00:30", 2, "--on-calendar: cron has no such times"),
    ],
)
def test_mistakes(folder: Path, argument: str, code: int, fault: str) -> None:
    assert fault in schedule(folder, NIGHTLY, "--date=DATE", "--cron", argument, code=code)


def test_a_hook_that_is_missing(folder: Path) -> None:
    (folder / "nightly.yaml").write_text("jobs: [job.yaml]\nhooks: {before: [[/nowhere/mount]], after: [[no-mail]]}\n")
    said = schedule(folder, NIGHTLY, "--date=DATE", code=78)
    assert "nightly.yaml: hooks.before: there is no program '/nowhere/mount'" in said
    assert "WARNING hooks.after: there is no program 'no-mail'" in said


def test_a_batch_file_that_others_can_write_to(folder: Path) -> None:
    batch = folder / "nightly.yaml"
    batch.write_text("jobs: [job.yaml]\nhooks: {before: [[/bin/true]]}\n")
    batch.chmod(0o666)
    assert "psicli runs no hooks from this file, because others can write to it" in schedule(
        folder, NIGHTLY, "--date=DATE", code=78
    )
