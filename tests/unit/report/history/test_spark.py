"""The trend of a measure: a character for each run."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from psicli.report.history.jobs import PastNight
from psicli.report.history.series import Night
from psicli.report.history.text.spark import spark

TIME = datetime(2026, 11, 29, 2, tzinfo=UTC)


def past(outcome: str, rate: float | None = None, *, after_gap: bool = False) -> PastNight:
    return PastNight(Night(TIME.isoformat(), "", outcome, rate=rate), TIME, {}, after_gap)


@pytest.mark.parametrize(("ascii_only", "expected"), [(False, "▁▅█x·▅"), (True, "158x.5")])
def test_a_run_is_as_high_as_its_share_of_the_largest(ascii_only: bool, expected: str) -> None:
    values = [
        past("done", 0.0),
        past("done", 0.2),
        past("done", 0.4),
        past("failed"),
        past("done", 0.2, after_gap=True),
    ]
    assert spark(values, "rate", ascii_only=ascii_only) == expected


def test_a_run_without_a_value_has_not_failed() -> None:
    """The receiver has changed, or the run is still in progress: its number is not known."""
    nights = [past("done"), past("failed", 0.5), past("done", 0.4), past("unfinished")]
    assert spark(nights, "rate") == "-x█-"
    assert spark([past("done"), past("failed")], "rate", ascii_only=True) == "-x"
