"""What a batch shows while it runs: bars on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tqdm import tqdm

from psicli.report.batch import JobState, State, view
from psicli.report.batch.view import View
from psicli.report.console import Console


class Clock:
    """A clock that a test sets [s]."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(view, "time", made)
    return made


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Console]]:
    """Make the log of a batch on what is standard error when the test calls it."""
    logger = logging.getLogger("psicli")
    before = logger.handlers[:], logger.propagate, logger.level
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    def make(verbosity: int) -> Console:
        made = Console(verbosity)
        made.job = "nightly"
        return made

    yield make
    logger.handlers[:], logger.propagate, logger.level = before


def jobs_of(*names: str, **facts: Any) -> list[JobState]:
    return [JobState(name, "bob", f"{name}.yaml", 2, **facts) for name in names]


def move(job: JobState, state: State, **facts: Any) -> JobState:
    job.state = state
    for name, value in {"why": "", **facts}.items():
        setattr(job, name, value)
    return job


def fail(job: JobState) -> JobState:
    return move(job, State.FAILED, exit_code=65, report={"error": {"message": "in.csv:3: bad row"}, "tasks": []})


# Elsewhere -------------------------------------------------------------------------------------------------------

Follow = Callable[..., View]


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, console: Callable[[int], Console]) -> Follow:
    def start(verbosity: int = 0) -> View:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        return View(console(verbosity))

    return start


def lines() -> list[str]:
    """Return the lines of the log without the time."""
    assert isinstance(sys.stderr, io.StringIO)
    return [line.split(" ", 1)[1] for line in sys.stderr.getvalue().splitlines()]


def test_a_line_for_each_change(follow: Follow) -> None:
    jobs = jobs_of("alice", "carol")
    shown = follow()
    carol = jobs[1]
    report = {"error": None, "tasks": [{"matched_rows": 1000}, {"matched_rows": None}]}
    for state, facts in (
        (State.QUEUED, {"why": "1.9 of 2 cores busy"}),
        (State.STARTING, {"starts": 1}),
        (State.WAITING, {}),
        (State.QUEUED, {"why": "bob is not there yet"}),
        (State.STARTING, {"starts": 2}),
        (State.RUNNING, {}),
        (State.DONE, {"seconds": 2.06, "exit_code": 0, "report": report}),
    ):
        shown.changed(move(carol, state, **facts), jobs)
    shown.changed(move(jobs[0], State.NOT_RUN, why="the deadline has passed"), jobs)
    shown.close()
    assert lines() == [
        "INFO nightly carol: waits: 1.9 of 2 cores busy",
        "INFO nightly carol: starts",
        "INFO nightly carol: waits for bob",
        "INFO nightly carol: waits: bob is not there yet",
        "INFO nightly carol: starts, attempt 2",
        "INFO nightly carol: in session with bob",
        "INFO nightly carol: done in 2.1 s, 1,000 matched rows",
        "WARNING nightly alice: not run: the deadline has passed",
    ]


def test_the_same_line_comes_again_after_ten_minutes_at_the_earliest(follow: Follow, clock: Clock) -> None:
    """A batch whose partner is late for hours must not fill the journal."""
    jobs = jobs_of("bob-1")
    shown = follow()
    for second in range(0, 1300, 10):
        clock.now = 1000.0 + second
        for state in (State.STARTING, State.WAITING, State.QUEUED):
            why = f"{second} of 2 cores busy" if state is State.QUEUED else ""
            shown.changed(move(jobs[0], state, why=why, starts=1), jobs)
    told = [line for line in lines() if " nightly bob-1: " in line]
    assert [line.split("bob-1: ")[1] for line in told] == [
        *("starts", "waits for bob", "waits: 0 of 2 cores busy"),
        *("starts", "waits for bob", "waits: 600 of 2 cores busy"),
        *("starts", "waits for bob", "waits: 1200 of 2 cores busy"),
    ]
    # The number of a job is not such a number.
    shown.changed(move(jobs[0], State.QUEUED, why="needs carol-1"), jobs)
    shown.changed(move(jobs[0], State.QUEUED, why="needs carol-2"), jobs)
    assert [line.split("needs ")[1] for line in lines()[-2:]] == ["carol-1", "carol-2"]


def test_a_line_about_the_progress_every_minute(follow: Follow, clock: Clock) -> None:
    jobs = jobs_of(*"abcdefgh", state=State.RUNNING)
    shown = follow()
    move(jobs[0], State.DONE)
    move(jobs[1], State.QUEUED)
    for second in range(0, 121, 10):
        clock.now = 1000.0 + second
        jobs[2].percent = second // 2
        shown.progressed(jobs)
    rest = "d 0 %, e 0 %, f 0 %, g 0 %, …"
    assert lines() == [
        f"INFO nightly: 1 of 8 jobs done, 6 in progress, 1 queued: c 30 %, {rest}",
        f"INFO nightly: 1 of 8 jobs done, 6 in progress, 1 queued: c 60 %, {rest}",
    ]


def test_what_a_process_logs_has_the_name_of_its_job(follow: Follow) -> None:
    jobs = jobs_of("carol")
    for verbosity, expected in ((0, []), (1, ["INFO nightly carol: reading in.csv"])):
        shown = follow(verbosity)
        shown.said(jobs[0], logging.INFO, "reading in.csv")
        shown.said(jobs[0], logging.WARNING, "the certificate expires soon")
        assert lines() == [*expected, "WARNING nightly carol: the certificate expires soon"]


def test_a_cause_is_logged_once(follow: Follow) -> None:
    """The process of a job logs it, unless it was killed."""
    jobs = jobs_of("carol", "dave")
    shown = follow()
    shown.said(jobs[0], logging.ERROR, "in.csv:3: bad row")
    shown.said(jobs[0], logging.ERROR, "in.csv:7: bad row")
    shown.changed(fail(jobs[0]), jobs)
    shown.changed(move(jobs[1], State.FAILED, exit_code=137, why="killed by SIGKILL"), jobs)
    assert lines() == [
        "ERROR nightly carol: in.csv:3: bad row",
        "ERROR nightly carol: in.csv:7: bad row",
        "ERROR nightly carol: failed with exit code 65",
        "ERROR nightly dave: failed with exit code 137: killed by SIGKILL",
    ]


def test_quiet_shows_only_warnings_and_errors(follow: Follow, clock: Clock) -> None:
    jobs = jobs_of("carol", "dave")
    shown = follow(-1)
    shown.changed(move(jobs[0], State.RUNNING), jobs)
    clock.now += 1000
    shown.progressed(jobs)
    shown.said(jobs[0], logging.INFO, "reading in.csv")
    shown.said(jobs[0], logging.WARNING, "the certificate expires soon")
    shown.changed(move(jobs[0], State.DONE), jobs)
    shown.changed(fail(jobs[1]), jobs)
    assert lines() == [
        "WARNING nightly carol: the certificate expires soon",
        "ERROR nightly dave: failed with exit code 65: in.csv:3: bad row",
    ]


# On a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal of a given size, and what it shows: the log, and the bars below it."""

    def __init__(self, height: int, width: int) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (height, width))
        self.file = os.fdopen(theirs, "w")
        self._octets = b""

    def shown(self) -> list[str]:
        """Return the lines of the terminal after all that was written."""
        self.file.write("\0")
        self.file.flush()
        while not self._octets.endswith(b"\0"):
            self._octets += os.read(self._ours, 1 << 16)
        self._octets = self._octets[:-1]
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[A|.|\n", self._octets.decode()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part == "\x1b[A":
                row -= 1
            else:
                lines[row] = f"{lines[row][:column]:{column}}{part}{lines[row][column + 1 :]}"
                column += 1
        return [line.rstrip() for line in lines]

    def close(self) -> None:
        self.file.close()
        os.close(self._ours)


Watch = Callable[..., tuple[View, Terminal]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, console: Callable[[int], Console]) -> Iterator[Watch]:
    opened: list[Any] = []

    def start(jobs: list[JobState], verbosity: int = 0, height: int = 24, width: int = 80) -> tuple[View, Terminal]:
        terminal = Terminal(height, width)
        monkeypatch.setattr(sys, "stderr", terminal.file)
        opened.append(terminal)
        opened.append(shown := View(console(verbosity)))
        shown.progressed(jobs)
        return shown, terminal

    yield start
    for each in reversed(opened):
        each.close()


def test_a_bar_for_each_running_job_and_one_for_all(
    watch: Watch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bars of another test may have started tqdm's monitor, which would not start again.
    monkeypatch.setattr(tqdm, "monitor", None)
    before = {*threading.enumerate()}
    jobs = jobs_of("customers", "planes", "a-job-with-a-very-long-name", "ships", "cars")
    shown, terminal = watch(jobs)
    move(jobs[0], State.RUNNING, percent=43, task="people")
    move(jobs[1], State.WAITING)
    move(jobs[2], State.QUEUED, why="1.9 of 2 cores busy")
    move(jobs[3], State.STARTING)
    fail(jobs[4])
    clock.now += 100
    shown.progressed(jobs)
    total, *others = terminal.shown()
    assert re.fullmatch(r"nightly {12} 29% \|█+.? *\| 0 of 5 jobs done, 1 failed, 2 min so far", total), total
    assert re.fullmatch(r"customers {10} 43% \|█+.? +\| people", others[0]), others[0]
    assert others[1:4] == [
        f"{'planes':18} waits for bob",
        f"{'ships':18} starts",
        "a-job-wit…ong-name waits: 1.9 of 2 cores busy",
    ]
    assert {len(total), len(others[0])} == {79}
    # tqdm's monitor would be a second thread.
    assert not any("TMonitor" in type(thread).__name__ for thread in {*threading.enumerate()} - before)


def test_lines_of_the_log_are_above_the_bars_and_the_end_is_clean(watch: Watch) -> None:
    jobs = jobs_of("carol", "dave", state=State.RUNNING)
    shown, terminal = watch(jobs)
    shown.said(jobs[0], logging.WARNING, "the certificate expires soon")
    shown.changed(move(jobs[0], State.DONE, seconds=2.0), jobs)
    first, second, total, dave, *rest = terminal.shown()
    assert first == "nightly carol: warning: the certificate expires soon"
    assert second == "nightly carol: done in 2.0 s"
    assert total.startswith("nightly             50% |")
    assert dave.startswith("dave                 0% |")
    assert not any(rest)
    shown.changed(fail(jobs[1]), jobs)
    shown.close()
    ended = "nightly dave: error: failed with exit code 65: in.csv:3: bad row"
    assert [line for line in terminal.shown() if line] == [first, second, ended]


def test_a_terminal_shows_changes_as_lines_only_with_verbose(watch: Watch) -> None:
    jobs = jobs_of("carol")
    shown, terminal = watch(jobs)
    shown.changed(move(jobs[0], State.STARTING), jobs)
    assert terminal.shown()[0].startswith("nightly  ")
    shown.close()
    shown, terminal = watch(jobs, verbosity=1)
    shown.changed(move(jobs[0], State.WAITING), jobs)
    assert terminal.shown()[0] == "nightly carol: waits for bob"


@pytest.mark.parametrize(
    ("height", "running", "queued", "bars", "last"),
    [
        (24, 2, 30, 13, "and 21 more"),
        (24, 30, 30, 23, "and 39 more"),
        (6, 3, 0, 4, "job-2"),
        (3, 3, 0, 2, "and 3 more"),
        (2, 3, 0, 1, "nightly"),
    ],
)
def test_there_are_never_more_bars_than_lines(
    watch: Watch, height: int, running: int, queued: int, bars: int, last: str
) -> None:
    jobs = jobs_of(*(f"job-{at}" for at in range(running + queued)))
    for job in jobs[:running]:
        move(job, State.RUNNING)
    shown, terminal = watch(jobs, height=height)
    found = [line for line in terminal.shown() if line]
    assert len(found) == bars < max(height, 2)
    assert found[-1].strip().startswith(last)
    # Once jobs end, their bars go.
    for job in jobs[1:]:
        move(job, State.DONE)
    shown.progressed(jobs)
    assert len([line for line in terminal.shown() if line]) == min(2, bars)


def test_quiet_has_no_bars(watch: Watch) -> None:
    jobs = jobs_of("carol", state=State.RUNNING)
    shown, terminal = watch(jobs, verbosity=-1)
    shown.progressed(jobs)
    assert terminal.shown() == [""]


def test_a_closed_terminal_does_not_end_a_batch(watch: Watch) -> None:
    jobs = jobs_of("carol", state=State.RUNNING)
    shown, terminal = watch(jobs)
    terminal.file.close()
    jobs[0].percent = 50
    shown.progressed(jobs)
    shown.changed(move(jobs[0], State.DONE), jobs)
