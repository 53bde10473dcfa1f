"""Which lines of a ledger are usable: somebody may have edited it, or a disk may have damaged it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from psicli.storage.ledger.records import parsed

TIME = "2026-11-30T02:00:00+00:00"
LINES: dict[str, dict[str, Any]] = {
    "begin": {"run": "01", "job": "nightly", "party": "alice", "peer": "bob", "version": "1", "address": "h:1"},
    "open": {
        **{"job": "nightly", "task": "people", "peer": "bob", "task_sid": "ab", "input": "/in.csv", "keys": ["id"]},
        "distinct_items": 7,
    },
    "met": {"task_sid": "ab", "peer": "bob", "peer_items": 5, "peer_questions": 6},
    # A bin with a negative number stands for bits of a result.
    "answer": {"task_sid": "ab", "peer": "bob", "bin": -1, "items": 40},
    "close": {
        **{"task_sid": "ab", "peer": "bob", "outcome": "done", "matched": 3, "rows": 9, "seconds": 1.5},
        "drift_accepted": ["rows"],
    },
    "end": {"run": "01", "outcome": "failed", "code": 69, "error": "PeerLostError", "seconds": 2},
}


def line(event: str, **changes: Any) -> bytes:
    return json.dumps({"time": TIME, "event": event, **LINES[event], **changes}).encode()


@pytest.mark.parametrize("event", LINES)
def test_what_psicli_writes_is_usable(event: str) -> None:
    assert parsed(line(event)) is not None


@pytest.mark.parametrize(
    ("event", "name"),
    [
        *(("open", name) for name in ("distinct_items", "peer_items", "peer_questions")),
        *(("met", name) for name in ("peer_items", "peer_questions")),
        *(("close", name) for name in ("matched", "matched_percent", "rows", "seconds", "code")),
        ("answer", "items"),
        ("end", "seconds"),
        ("end", "code"),
    ],
)
def test_numbers_that_are_none(event: str, name: str) -> None:
    for value in (None, "7", -5, True, [], {}, float("inf"), float("nan"), 10**400, 10**20):
        assert parsed(line(event, **{name: value})) is None, value


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("begin", "job"),
        *(("open", name) for name in ("input", "keys", "protocol")),
        ("close", "drift_accepted"),
        ("end", "failure"),
    ],
)
def test_texts_that_are_none(event: str, name: str) -> None:
    for value in (None, 7, [1], {}):
        assert parsed(line(event, **{name: value})) is None, value


def test_outcomes_and_moments_that_are_none() -> None:
    for outcome in (None, "x", 1, []):
        assert parsed(line("close", outcome=outcome)) is None
    for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-30T02:00:00", "x", 7, None):
        assert parsed(line("begin", time=time)) is None
