"""The log and the progress of a run: bars on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

from psicli.report import console
from psicli.report.bars import Bars
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
    """Start a console with a standard error that is kept in memory, as a terminal or not."""
    logger = logging.getLogger("psicli")
    before = logger.handlers[:], logger.propagate, logger.level
    started: list[Console] = []

    def make(*, terminal: bool, verbosity: int = 0, tasks: int = 1, bars: bool = True) -> Console:
        monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
        made = Console(verbosity, bars=bars)
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
    """Return the bars as they are shown, the job's first."""
    meter = shown._meter
    assert isinstance(meter, Bars)
    return [str(bar) for bar in (meter._job_bar, meter._task_bar) if bar is not None]


# On a terminal ---------------------------------------------------------------------------------------------------


def test_a_bar_counts_both_directions(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("customers", (0, 3000, 0, 1000))
    shown.progress("customers", (1500, 3000, 500, 1000))
    (bar,) = bars(shown)
    assert re.match(r"customers {10} +50% \|.*\| 2000 of 4000 items, .*/s, \S+ left$", bar), bar
    assert "customers" in written()
    shown.progress("customers", (3000, 3000, 500, 1000))
    assert " 88% |" in bars(shown)[0]


def test_a_job_with_several_tasks_has_its_own_bar(start: Start) -> None:
    shown = start(terminal=True, tasks=2)
    shown.progress("one", (100, 200, 0, 200))
    job, task = bars(shown)
    assert re.match(r"nightly {12} +12% \|.*\| \S+ so far, 0 of 2 tasks$", job), job
    # Nobody knows how long the second task will take.
    assert "left" not in job
    assert re.match(r"one +25% \|", task), task
    shown.progress("one", (200, 200, 200, 200))
    shown.progress("two", (300, 300, 0, 300))
    job, task = bars(shown)
    assert re.match(r"nightly +75% \|.*, 1 of 2 tasks$", job), job
    assert re.match(r"two +50% \|", task), task


def test_a_skipped_task_counts_as_over(start: Start) -> None:
    """Otherwise the bar of the job would never be full."""
    shown = start(terminal=True, tasks=4)
    shown.leave_out("two")
    shown.progress("one", (100, 200, 100, 200))
    assert re.match(r"nightly +38% \|.*, 1 of 4 tasks$", bars(shown)[0]), bars(shown)
    shown.progress("one", (200, 200, 200, 200))
    shown.leave_out("three")
    shown.leave_out("three")
    shown.progress("four", (300, 300, 300, 300))
    assert re.match(r"nightly +100% \|.*, 4 of 4 tasks$", bars(shown)[0]), bars(shown)


def test_the_bars_leave_room_for_a_bar(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a long name on a terminal of 80 columns."""
    # After a tenth of a second, tqdm would draw a bar again.
    monkeypatch.setattr("tqdm.std.time", lambda: 1000.0)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    shown = start(terminal=True, tasks=2)
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown.progress("customers-with-a-very-long-name", (10_000_000, 20_000_000, 0, 20_000_000))
        octets = b""
        while b" of 40.0M items" not in octets:
            octets += os.read(ours, 1 << 16)
        shown.close()
    os.close(ours)
    found = [line for line in re.split(r"[\r\n]|\x1b\[A", octets.decode()) if "|" in line]
    assert [line.split()[0] for line in found] == ["nightly", "customers…ong-name"]
    for line in found:
        assert len(line) <= 80
        assert len(line.split("|")[1]) >= 12, line


def test_the_second_party_of_a_simulation_shows_no_bars(start: Start) -> None:
    shown = start(terminal=True, bars=False)
    shown.progress("one", (100, 200, 0, 200))
    logging.getLogger("psicli.test").info("in session")
    # Its line replaces a bar that the first party may have left there.
    assert written() == "\r\x1b[Knightly: in session\n"


def test_the_bar_does_not_return_to_a_task_that_is_being_written(start: Start) -> None:
    """The next task exchanges while the first is still being written, and both report their progress."""
    shown = start(terminal=True, tasks=2)
    done = (200, 200, 200, 200)
    shown.progress("one", done)
    shown.progress("two", (100, 300, 0, 300))
    shown.progress("one", done)
    assert bars(shown)[1].startswith("two ")


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


def test_a_long_task_logs_its_progress_every_minute(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "time", clock := Clock())
    shown = start(terminal=False, tasks=2)
    for seconds in range(0, 151, 10):
        clock.now = 1000.0 + seconds
        shown.progress("customers", (900_000 * seconds, 150_000_000, 100_000 * seconds, 50_000_000))
    lines = written().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == [
        "nightly customers: exchanged 30 % (own 36 %, theirs 12 %), 1.00M items/s, about 2 min left",
        "nightly customers: exchanged 60 % (own 72 %, theirs 24 %), 1.00M items/s, about 80 s left",
    ]
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 INFO ", lines[0])


def test_a_short_task_logs_no_progress(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task has its own minute, and the last frame logs nothing because the next phase does."""
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


@pytest.mark.parametrize("terminal", [False, True])
def test_no_control_sequence_gets_into_the_log(start: Start, terminal: bool) -> None:
    """A path may hold one, and people read journals on terminals, too."""
    start(terminal=terminal)
    logging.getLogger("psicli.test").info("reading %s", "\x1b[31mq\r\u202e/身份证.csv")
    assert written().endswith("nightly: reading \\x1b[31mq\\r\\u202e/身份证.csv\n")


def test_each_line_of_a_message_has_its_time_and_level(start: Start) -> None:
    """`grep ERROR` finds all errors of a job file."""
    start(terminal=False)
    logging.getLogger("psicli.test").error("%s", "job.yaml:1: one\njob.yaml:2: two")
    (first, one), (second, two) = [line.split(" ERROR ") for line in written().splitlines()]
    assert (one, two) == ("nightly: job.yaml:1: one", "nightly: job.yaml:2: two")
    assert first == second


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_no_progress(start: Start, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(console, "time", clock := Clock())
    shown = start(terminal=terminal, verbosity=-1)
    for own in (0, 1, 2):
        clock.now += 100
        shown.progress("one", (own, 4, 0, 4))
    assert written() == ""


def test_a_closed_standard_error_does_not_end_a_run(start: Start) -> None:
    shown = start(terminal=True)
    shown.progress("one", (1, 4, 0, 4))
    sys.stderr.close()
    for own in (2, 3, 4):
        shown.progress("one", (own, 4, 4, 4))
    shown.close()


# Errors and warnings ---------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_kind_of_a_message_in_words_and_colour(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    start(terminal=True)
    logger = logging.getLogger("psicli.test")
    logger.warning("the certificate expires soon")
    logger.error("the disk is full")
    logger.error("hint: Free some space.", extra={console.HINT: True})
    assert written().splitlines() == [
        "\x1b[33mnightly: warning: the certificate expires soon\x1b[0m",
        "\x1b[31mnightly: error: the disk is full\x1b[0m",
        "nightly: hint: Free some space.",
    ]


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours(start: Start, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    start(terminal=True)
    logging.getLogger("psicli.test").error("the disk is full")
    assert written() == "nightly: error: the disk is full\n"


def test_a_long_message_wraps_between_words(start: Start) -> None:
    start(terminal=True)
    logging.getLogger("psicli.test").info("reading %s", "/data" + "/folder" * 20 + "/in.csv")
    first, *more = written().splitlines()
    assert all(len(line) <= 80 for line in (first, *more))
    assert all(line.startswith("  folder/") for line in more)
    assert first.endswith("/folder/")


def fail_over(row: str) -> None:
    raise ValueError(f"cannot convert {row}")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_holds_places_and_classes_but_no_text_of_an_exception(start: Start, terminal: bool) -> None:
    """A library may quote a row in the text of an exception."""
    start(terminal=terminal)
    # It is composed here so that the source lines in the traceback do not hold it.
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
