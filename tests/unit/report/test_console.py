"""What a run shows of its progress: bars on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from psicli.report import console
from psicli.report.console import Console

Start = Callable[..., Console]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test sets [s]."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a console whose standard error is kept, as a terminal or not."""
    logger = logging.getLogger("psicli")
    before = logger.handlers[:], logger.propagate, logger.level
    started: list[Console] = []

    def make(*, terminal: bool, verbosity: int = 0, tasks: int = 1) -> Console:
        monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
        made = Console(verbosity)
        made.job, made.tasks = "nightly", tasks
        started.append(made)
        return made

    yield make
    for each in started:
        each.close()
    logger.handlers[:], logger.propagate, logger.level = before


def written() -> str:
    assert isinstance(sys.stderr, io.StringIO)
    return sys.stderr.getvalue()


def bars(shown: Console) -> list[str]:
    """The bars as they stand there, the job's first."""
    meter = shown._meter
    assert isinstance(meter, console._Bars)
    return [str(bar) for bar in (meter._job_bar, meter._task_bar) if bar is not None]


# On a terminal ---------------------------------------------------------------------------------------------------


def test_a_bar_counts_both_directions(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("customers", (0, 3000, 0, 1000))
    shown.progress("customers", (1500, 3000, 500, 1000))
    (bar,) = bars(shown)
    assert re.match(r"customers: +50%\|.*\| 2\.00k/4\.00k \[00:\d\d<.*items/s, own 50 %, theirs 50 %\]", bar), bar
    assert "customers" in written()
    shown.progress("customers", (3000, 3000, 500, 1000))
    assert "own 100 %, theirs 50 %" in bars(shown)[0]
    assert " 88%|" in bars(shown)[0]


def test_a_job_of_several_tasks_has_a_bar_of_its_own(start: Start) -> None:
    shown = start(terminal=True, tasks=2)
    shown.progress("one", (100, 200, 0, 200))
    job, task = bars(shown)
    assert job.startswith("nightly: 0 of 2 tasks, 100 of 400 items known so far [")
    # A percentage or a time that is left would be of the first task alone.
    assert "%" not in job
    assert "<" not in job
    assert task.startswith("one:  25%|")
    shown.progress("one", (200, 200, 200, 200))
    shown.progress("two", (300, 300, 0, 300))
    job, task = bars(shown)
    assert re.match(r"nightly: 1 of 2 tasks: +70%\|.*\| 700/1\.00k \[.*<", job), job
    assert task.startswith("two:  50%|")


def test_a_task_that_only_commits_does_not_take_the_bar_back(start: Start) -> None:
    """The next task exchanges while this one still writes, and both tell their progress."""
    shown = start(terminal=True, tasks=2)
    done = (200, 200, 200, 200)
    shown.progress("one", done)
    shown.progress("two", (100, 300, 0, 300))
    shown.progress("one", done)
    assert bars(shown)[1].startswith("two:")


def test_nothing_is_shown_before_the_sizes_are_known(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("one", (0, 0, 0, 0))
    assert bars(shown) == []
    assert written() == ""


def test_a_line_does_not_break_a_bar(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("one", (100, 200, 0, 200))
    logging.getLogger("psicli.test").info("in session")
    assert "\rnightly: in session\n" in written().replace(" " * 2, "").replace("\x1b[A", "")


def test_closing_leaves_a_clean_terminal(start: Start) -> None:
    shown = start(terminal=True, tasks=2)
    shown.progress("one", (100, 200, 0, 200))
    shown.close()
    assert re.search(r"\r +\r$", written().replace("\n", "").replace("\x1b[A", "")), written()


# Elsewhere -------------------------------------------------------------------------------------------------------


def test_a_long_task_says_now_and_then_how_far_it_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "time", clock := Clock())
    shown = start(terminal=False, tasks=2)
    for seconds in range(0, 151, 10):
        clock.now = 1000.0 + seconds
        shown.progress("customers", (900_000 * seconds, 150_000_000, 100_000 * seconds, 50_000_000))
    lines = written().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == [
        "nightly customers: masked 30 % (own 36 %, theirs 12 %), 1.00M items/s, about 2 min left",
        "nightly customers: masked 60 % (own 72 %, theirs 24 %), 1.00M items/s, about 80 s left",
    ]
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 INFO ", lines[0])


def test_each_task_has_a_minute_of_its_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last frame says nothing: the next phase does."""
    monkeypatch.setattr(console, "time", clock := Clock())
    shown = start(terminal=False, tasks=3)
    for task in ("one", "two", "three"):
        for own in (0, 5, 9, 10):
            shown.progress(task, (own, 10, 0, 0))
            clock.now += 29.0
    assert written() == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "1 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (100_000, "27.8 h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert console.duration(seconds) == expected


def test_no_colour_gets_into_a_journal(start: Start) -> None:
    """A path may hold what a terminal would obey; a journal is read on one."""
    start(terminal=False)
    logging.getLogger("psicli.test").info("reading %s", "\x1b[31mq/a.csv")
    assert written().endswith(" INFO nightly: reading q/a.csv\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_no_progress(start: Start, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(console, "time", clock := Clock())
    shown = start(terminal=terminal, verbosity=-1)
    for own in (0, 1, 2):
        clock.now += 100
        shown.progress("one", (own, 4, 0, 4))
    assert written() == ""


def test_a_standard_error_that_is_gone_does_not_end_a_run(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("one", (1, 4, 0, 4))
    sys.stderr.close()
    for own in (2, 3, 4):
        shown.progress("one", (own, 4, 4, 4))
    shown.close()


# What went wrong -------------------------------------------------------------------------------------------------


def fail_over(row: str) -> None:
    raise ValueError(f"cannot convert {row}")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_is_shown_with_its_place_and_kind_and_without_its_words(start: Start, terminal: bool) -> None:
    """What a library says may quote the row it failed over."""
    start(terminal=terminal)
    # The lines of a source, which a traceback holds, do not show it.
    row = f"zq7-{1}"
    try:
        try:
            fail_over(row)
        except ValueError as exc:
            raise RuntimeError(f"in {row}") from exc
    except RuntimeError:
        logging.getLogger("psicli.test").exception("unexpected failure")
    assert re.search(r"in fail_over\n.*\nValueError\n(.*\n)+RuntimeError\b", written())
    assert written().count("Traceback") == 2
    assert row not in written()
