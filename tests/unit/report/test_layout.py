"""Text that fits a terminal: tables, wrapped lines, colours, and the ledger as the widest table."""

from __future__ import annotations

import io
import os
import pty
import termios
from dataclasses import replace

import pytest

from psicli.report.history.records import to_text
from psicli.report.layout import PLAIN, Screen, in_words, shorten, table
from psicli.storage.ledger import Entry, Opening

ROWS = [
    ("task", "rows", "output"),
    ("customers", "1,000,000", "/srv/data/nightly/output/customers.csv"),
    ("airports", "7", "none"),
]


def test_a_table_in_a_pipe_is_as_wide_as_its_text() -> None:
    assert table(ROWS, right=[1]) == [
        ["task            rows  output"],
        ["customers  1,000,000  /srv/data/nightly/output/customers.csv"],
        ["airports           7  none"],
    ]


def test_a_table_on_a_narrow_screen_breaks_paths_behind_a_slash() -> None:
    assert table(ROWS, Screen(40), right=[1]) == [
        ["task            rows  output"],
        ["customers  1,000,000  /srv/data/nightly/", " " * 22 + "output/", " " * 22 + "customers.csv"],
        ["airports           7  none"],
    ]


@pytest.mark.parametrize("width", range(30, 100, 7))
def test_a_table_fits_and_keeps_its_numbers(width: int) -> None:
    lines = [line for lines in table(ROWS, Screen(width), right=[1]) for line in lines]
    assert all(len(line) <= width for line in lines)
    assert any("1,000,000" in line for line in lines)


def test_wrapped_lines_are_indented_and_end_between_words() -> None:
    text = "hint: Check the path /srv/data/nightly/in.csv in the job file.\n\n  field  ours  theirs"
    assert Screen(30).wrap(text) == (
        "hint: Check the path /srv/\n  data/nightly/in.csv in the\n  job file.\n\n  field  ours  theirs"
    )
    assert PLAIN.wrap(text) == text


def test_a_name_that_is_too_long_loses_its_middle() -> None:
    assert shorten("customers-of-the-north", 12) == "custom…north"
    assert shorten("customers", 9) == "customers"
    assert [line for (line,) in table([["customers-of-the-north", "1"]], Screen(15), right=[1])] == ["custom…north  1"]


def test_a_word_of_a_message_stays_whole_to_be_copied() -> None:
    assert Screen(12).wrap("in customers-of-the-north") == "in\n  customers-of-the-north"


def test_a_screen_is_that_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Screen.of(io.StringIO()) == PLAIN
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        # It does not say how wide it is.
        assert Screen.of(terminal) == Screen(80, colour=True)
        termios.tcsetwinsize(theirs, (24, 120))
        assert Screen.of(terminal) == Screen(120, colour=True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert Screen.of(terminal) == Screen(120)
    os.close(ours)


def test_times_for_people() -> None:
    assert in_words("2026-11-22T03:00:01+01:00") == "2026-11-22 02:00:01 UTC"
    # A lock file is another user's text: these have no date in UTC.
    for text in ("some time ago", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00"):
        assert in_words(text) == text


def test_the_ledger_has_a_line_for_each_task_where_there_is_room() -> None:
    opening = Opening(
        "nightly", "customers", "bob", "ab" * 32, "/data/customers.csv", ("id", "since"), 12, 3400, 3400, "alice"
    )
    entries = [
        Entry("2026-11-22T02:00:01+00:00", opening, "done", matched=9),
        Entry("2026-11-23T02:00:01+00:00", opening, "failed", code=79, error="MatchRateError", matched=9),
    ]
    assert len(to_text(entries, Screen(140)).splitlines()) == 3
    assert to_text(entries, Screen(140)) == to_text(entries)
    assert to_text(entries, Screen(80)).splitlines() == [
        "time (UTC)           task       own  peer's  matched  outcome",
        "2026-11-22 02:00:01  customers   12   3,400        9  done",
        "  nightly: alice with bob, /data/customers.csv (id, since)",
        "2026-11-23 02:00:01  customers   12   3,400        9  policy (79)",
        "  nightly: alice with bob, /data/customers.csv (id, since)",
    ]
    assert "\x1b[32mdone\x1b[0m" in to_text(entries, Screen(140, colour=True))
    named = [Entry("2026-11-22T02:00:01+00:00", replace(opening, job="done-daily", task="done"), "done", matched=9)]
    for width in (80, 140):
        assert "9  \x1b[32mdone\x1b[0m" in to_text(named, Screen(width, colour=True))
