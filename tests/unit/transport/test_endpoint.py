"""Tests of what listener and dialer share: the notation of addresses, the backoff, and the log lines of a wait."""

from __future__ import annotations

from itertools import islice

import pytest

from psicli.transport.dialer import FIRST_PAUSE, backoff
from psicli.transport.endpoint import Endpoint, Ticker


@pytest.mark.parametrize(("host", "where"), [("10.0.0.1", "10.0.0.1:80"), ("::1", "[::1]:80")])
def test_the_notation_of_an_address(host: str, where: str) -> None:
    assert Endpoint(host, 80, "bob").where == where


def test_pauses_double_up_to_the_longest() -> None:
    longest = 5 * FIRST_PAUSE
    assert list(islice(backoff(longest), 5)) == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, longest, longest]
    assert list(islice(backoff(FIRST_PAUSE / 2), 2)) == [FIRST_PAUSE / 2] * 2


def test_a_line_is_written_when_it_is_due_or_hastened() -> None:
    lines: list[str] = []
    ticker = Ticker()
    ticker.tick(lines.append, "too early")
    assert ticker.left > 0
    ticker.hasten()
    ticker.tick(lines.append, "now")
    ticker.tick(lines.append, "too early again")
    assert lines == ["now"]
