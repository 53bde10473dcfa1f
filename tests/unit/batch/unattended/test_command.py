"""One command of a batch: how it ends, what it prints, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.waiting import DEADLINE, wait_until

from psicli.batch.unattended import command
from psicli.batch.unattended.command import MOST_CHARACTERS, MOST_LINES, run_command
from psicli.core.errors import TerminatedBySignal

# Writes its process id and that of a child that it starts, which ignores SIGTERM, then waits for ever.
STUBBORN = "trap '' TERM; sleep 600 & echo $! > child; echo $$ > own; wait; sleep 600"


def run(folder: Path, *arguments: str, seconds: float = DEADLINE) -> tuple[str | None, list[str]]:
    lines: list[str] = []
    return run_command(arguments, folder, {"GREETING": "good evening"}, seconds, lines.append), lines


def is_gone(pid_file: Path) -> bool:
    # A process may be reaped at any moment.
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE
    return True


def stands_still_until(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time that a command may take begin when it has written a file, however slow the machine is."""
    began = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() if ready.exists() else began, sleep=time.sleep)
    monkeypatch.setattr(command, "time", clock)


def test_a_command_runs_in_its_folder_with_its_variables_and_no_shell(tmp_path: Path) -> None:
    fault, lines = run(tmp_path, "sh", "-c", 'pwd; echo "$GREETING"; echo "$1" >&2; cat', "-", "$(id); *")
    assert (fault, lines) == (None, [str(tmp_path), "good evening", "$(id); *"])


def test_a_program_may_be_named_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("#!/bin/sh\necho mounted\n")
    (tmp_path / "mount").chmod(0o755)
    assert run(tmp_path, "./mount") == (None, ["mounted"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["sh", "-c", "exit 3"], "ended with exit code 3"),
        (["sh", "-c", "kill -SEGV $$"], "was ended by SIGSEGV"),
        (["./missing"], "cannot be started: no such file or directory"),
        (["./readme"], "cannot be started: permission denied"),
        (["./no-shebang"], "cannot be started: exec format error"),
    ],
)
def test_what_went_wrong_is_a_verb_phrase(tmp_path: Path, arguments: list[str], fault: str) -> None:
    (tmp_path / "readme").touch(0o600)
    (tmp_path / "no-shebang").write_text("echo hello\n")
    (tmp_path / "no-shebang").chmod(0o700)
    assert run(tmp_path, *arguments) == (fault, [])


def test_the_output_is_bounded(tmp_path: Path) -> None:
    fault, lines = run(tmp_path, sys.executable, "-c", f"print('x' * 10_000_000); print('y\\n' * {MOST_LINES + 5})")
    assert fault is None
    assert lines[0] == "x" * MOST_CHARACTERS + "…"
    assert lines[1] == "y"
    assert lines[MOST_LINES:] == ["… and 7 more lines"]


def test_any_octets_are_printable_lines(tmp_path: Path) -> None:
    _, lines = run(tmp_path, "printf", r"caf\303\251\r\n\n\033[31mred\377\nend")
    assert lines == ["café", "", r"\x1b[31mred\xff", "end"]


def test_after_the_timeout_the_whole_group_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    stands_still_until(tmp_path / "own", monkeypatch)
    fault, _ = run(tmp_path, "sh", "-c", STUBBORN, seconds=1)
    assert fault == "did not end within 1 s"
    wait_until(lambda: is_gone(tmp_path / "own") and is_gone(tmp_path / "child"), "both processes have ended")


def test_a_command_may_clean_up_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stands_still_until(tmp_path / "ready", monkeypatch)
    script = "trap 'echo unmounted; exit' TERM; echo > ready; sleep 600 & wait"
    fault, lines = run(tmp_path, "sh", "-c", script, seconds=0.5)
    assert (fault, lines) == ("did not end within 1 s", ["unmounted"])


def test_a_command_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    child = "trap 'echo unmounted; exit' TERM; echo mounted > ready; sleep 600 & wait"
    script = f"mkfifo ready; ({child}) & echo $! > child; read line < ready; exit 3"
    fault, lines = run(tmp_path, "sh", "-c", script)
    assert is_gone(tmp_path / "child")
    assert (fault, lines) == ("ended with exit code 3", ["unmounted"])


def test_a_process_that_stays_on_purpose_delays_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    fault, lines = run(tmp_path, "sh", "-c", "sleep 600 & echo $! > child; echo mounted")
    try:
        assert (fault, lines) == (None, ["mounted"])
        assert time.monotonic() - started < DEADLINE / 2
        assert not is_gone(tmp_path / "child")
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_command_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    fault, _ = run(tmp_path, "sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 4")
    assert fault == "ended with exit code 4"


# A batch of one hook.
BATCH = f"""
import sys
from pathlib import Path
from psicli.batch.unattended.command import run_command
from psicli.core import signals
from psicli.core.errors import {TerminatedBySignal.__name__}
signals.install()
try:
    run_command(["sh", "-c", sys.argv[1]], Path(sys.argv[2]), {{}}, 600, print)
except {TerminatedBySignal.__name__}:
    sys.exit(143)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)], ids=["ended", "killed"]
)
def test_a_hook_and_what_it_started_end_with_its_batch(tmp_path: Path, number: int, code: int) -> None:
    script = "sleep 600 & echo $! > child; echo $$ > new; mv new own; wait"
    with subprocess.Popen([sys.executable, "-c", BATCH, script, str(tmp_path)]) as batch:
        wait_until((tmp_path / "own").exists, "the hook runs")
        batch.send_signal(number)
        assert batch.wait(DEADLINE) == code
    wait_until(lambda: is_gone(tmp_path / "own") and is_gone(tmp_path / "child"), "the hook has ended")
