"""Schedules: units that systemd accepts, lines that cron and its shell read as meant, and the times of both."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from psicli.batch.unattended.cron import crontab
from psicli.batch.unattended.schedule import Schedule, install, timers, units
from psicli.batch.unattended.times import usual_age
from psicli.core.errors import ArgumentError, UnitDiffersError

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
# For a shell, for systemd and for cron, each of these characters means something.
AWKWARD = 'it\'s "50 %" of $HOME; \\n ${x} & é'


@pytest.fixture
def awkward(tmp_path: Path) -> Schedule:
    """A schedule whose paths and words are full of such characters; its program shows its arguments."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    program = folder / "psicli 100%"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$PSICLI_STATE_DIR" "$@"\nexit 65\n')
    program.chmod(0o755)
    return Schedule(
        name="nightly",
        file=folder / "batch.yaml",
        when="*-*-* 02:00",
        program=[str(program)],
        date="DATE",
        report_dir=folder / "reports",
        variables={"PSICLI_STATE_DIR": str(folder / "state")},
        alarm=["/bin/echo", AWKWARD],
        max_age="26h",
        hooks_time=300,
    )


@pytest.fixture
def plain(tmp_path: Path) -> Schedule:
    return Schedule("nightly", Path("/etc/psicli/nightly.yaml"), "Mon..Fri 02:00", ["/opt/psicli/bin/psicli"])


@needs_systemd
def test_systemd_accepts_the_units(awkward: Schedule, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    for schedule in (awkward, replace(awkward, date=None, hooks_time=None)):
        shutil.rmtree(folder, ignore_errors=True)
        paths = install(units(schedule), folder)
        assert len(paths) == 5
        command = ["systemd-analyze", "--user", "verify", *paths]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_units_of_a_plain_schedule(plain: Schedule) -> None:
    made = units(plain)
    assert [*made] == ["psicli-nightly.service", "psicli-nightly.timer"]
    assert timers(made) == ["psicli-nightly.timer"]
    service, timer = made.values()
    assert "Description=psicli: all jobs of nightly\n" in service
    assert "ExecStart=/opt/psicli/bin/psicli batch /etc/psicli/nightly.yaml\n" in service
    assert "WorkingDirectory=/etc/psicli\n" in service
    assert "KillMode=mixed\n" in service
    assert "NoNewPrivileges=yes\n" in service
    assert "OnCalendar=Mon..Fri 02:00\n" in timer
    assert "Persistent=true\n" in timer


def test_text_is_escaped_for_systemd(awkward: Schedule) -> None:
    service = units(replace(awkward, file=Path("/a b/100%$x\\y.yaml"), date=None))["psicli-nightly.service"]
    assert r'batch "/a b/100%%$$x\\y.yaml" --report-dir ' in service
    assert "WorkingDirectory=/a b\n" in service


def test_hooks_may_need_privileges_and_time(plain: Schedule) -> None:
    service = units(replace(plain, hooks_time=600))["psicli-nightly.service"]
    assert "NoNewPrivileges" not in service
    assert "TimeoutStopSec=660\n" in service


def test_an_alarm_is_told_what_happened(plain: Schedule) -> None:
    made = units(replace(plain, alarm=["/usr/bin/page", "on-call"], max_age="74h"))
    assert "OnFailure=psicli-nightly-alarm@failed.service\n" in made["psicli-nightly.service"]
    assert "OnFailure=psicli-nightly-alarm@missed.service\n" in made["psicli-nightly-missed.service"]
    assert "status --max-age 74h /etc/psicli/nightly.yaml\n" in made["psicli-nightly-missed.service"]
    assert timers(made) == ["psicli-nightly.timer", "psicli-nightly-missed.timer"]
    alarm = made["psicli-nightly-alarm@.service"]
    assert "Environment=PSICLI_BATCH=nightly PSICLI_BATCH_ALARM=%i\nExecStart=/usr/bin/page on-call\n" in alarm


@pytest.mark.parametrize("name", ["a\nExecStartPre=", "folder ", "folder\\", "\x85"])
def test_a_path_that_no_unit_can_hold(plain: Schedule, name: str) -> None:
    with pytest.raises(ArgumentError):
        units(replace(plain, file=Path("/etc") / name / "nightly.yaml"))


def test_units_are_written_once_and_never_replaced(plain: Schedule, tmp_path: Path) -> None:
    folder = tmp_path / "systemd" / "user"
    assert install(units(plain), folder) == [folder / "psicli-nightly.service", folder / "psicli-nightly.timer"]
    assert (folder / "psicli-nightly.timer").read_text() == units(plain)["psicli-nightly.timer"]
    assert install(units(plain), folder) == []
    (folder / "psicli-nightly.service").unlink()
    with pytest.raises(UnitDiffersError) as caught:
        install(units(replace(plain, when="daily")), folder)
    assert caught.value.message.startswith(f"{folder}/psicli-nightly.timer: the file is there")
    assert [path.name for path in folder.iterdir()] == ["psicli-nightly.timer"]


def cron_lines(schedule: Schedule) -> list[str]:
    """Return the lines of a crontab that run something."""
    return [line for line in crontab(schedule).splitlines() if line[0] in "0123456789*"]


def test_the_shell_of_cron_reads_the_words_as_meant(awkward: Schedule) -> None:
    batch, missed = cron_lines(awkward)
    assert batch.startswith("0 2 * * *  ")
    for line, words in (
        (batch, ["batch", awkward.file, "--report-dir", awkward.report_dir, "--quiet", "--set"]),
        (missed, ["status", "--max-age", "26h", awkward.file, "--quiet"]),
    ):
        # cron ends a command at a %, and removes the \ before one.
        assert "%" not in line.replace("\\%", "")
        command = line.split("  ", 1)[1].replace("\\%", "%")
        said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
        assert said[: len(words) + 1] == [str(awkward.file.parent / "state"), *map(str, words)]
        assert said[-1] == AWKWARD


@pytest.mark.parametrize(
    ("when", "fields"),
    [
        ("*-*-* 02:00", "0 2 * * *"),
        ("02:05:00", "5 2 * * *"),
        ("Mon..Fri 22:30", "30 22 * * 1-5"),
        ("Mon-Fri 22:30", "30 22 * * 1-5"),
        ("Sat,Sun *-*-* 6:00", "0 6 * * 6,0"),
        ("Fri..Sun 06:00", "0 6 * * 5-7"),
        ("*-*-01 00/6:15", "15 0-23/6 1 * *"),
        ("*-1..3-1,15 8,20:00", "0 8,20 1,15 1-3 *"),
        ("hourly", "0 * * * *"),
        ("weekly", "0 0 * * 1"),
    ],
)
def test_the_times_of_cron(plain: Schedule, when: str, fields: str) -> None:
    assert cron_lines(replace(plain, when=when))[0].startswith(f"{fields}  /opt")


@pytest.mark.parametrize(
    "when",
    ["*-*-* 02:00 UTC", "2026-*-* 02:00", "*-*-* 02:00:30", "Mon *-*-01 02:00", "Sat..Mon 02:00", "*-*~1 02:00", "now"],
)
def test_times_that_cron_does_not_have(plain: Schedule, when: str) -> None:
    with pytest.raises(ArgumentError, match="--on-calendar: cron has no such times"):
        crontab(replace(plain, when=when))


@needs_systemd
@pytest.mark.parametrize(
    ("when", "age"),
    [
        ("*-*-* 02:00", "26h"),
        ("Mon..Fri 02:00", "74h"),
        ("weekly", "170h"),
        ("*:0/10", "3h"),
        ("2099-01-01 02:00", None),
    ],
)
def test_how_old_the_last_run_may_become(when: str, age: str | None) -> None:
    assert usual_age(when) == age


@needs_systemd
@pytest.mark.parametrize(
    ("when", "fault"), [("25:00", "Failed to parse"), ("2020-01-01 02:00", "never comes"), ("--help", "Failed to")]
)
def test_times_that_systemd_refuses(when: str, fault: str) -> None:
    with pytest.raises(ArgumentError, match=f"^--on-calendar: .*{fault}"):
        usual_age(when)


def test_a_time_as_cron_writes_it(plain: Schedule) -> None:
    ways = [lambda when: crontab(replace(plain, when=when))]
    for way in [*ways, usual_age] if shutil.which("systemd-analyze") else ways:
        with pytest.raises(ArgumentError) as caught:
            way("0 2 * * *")
        assert 'write "*-*-* 02:00"' in caught.value.advice


def test_without_systemd_a_run_is_due_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert usual_age("anything") == "26h"
