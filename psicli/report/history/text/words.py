"""What is outside its usual range, in words and numbers."""

from __future__ import annotations

from typing import Any

from psicli.report.history.bands import Judged, Measure


def found_and_usual(measure: Measure, judged: Judged, peer: str, *, whole: bool = False) -> str:
    """Return what a run has, and what is usual. whole: whether rates are said in whole percent."""
    value = shown(measure, judged.value, whole=whole)
    low, high = (shown(measure, each, whole=whole) for each in (judged.band.low, judged.band.high))
    found = {
        Measure.ROWS: f"{value} rows",
        Measure.DISTINCT_ITEMS: f"{value} distinct items",
        Measure.PEER_ITEMS: f"{value} distinct items of {peer}",
        Measure.RATE: f"{value} of the distinct items matched",
        Measure.SECONDS: f"the task took {value}",
    }
    return f"{found[measure]}, usually {low} to {high}"


def shown(measure: Measure, value: float, *, whole: bool = False) -> str:
    """Return a value as people write it."""
    if measure is Measure.RATE:
        return f"{100 * value:.0f} %" if whole else f"{100 * value:.1f} %"
    if measure is Measure.SECONDS:
        return f"{value:.1f} s"
    return f"{round(value):,}"


def rounded_facts(measure: Measure, judged: Judged, *, whole: bool = False) -> dict[str, Any]:
    """Return the entry of a report about a measure outside its range. whole: whether rates are in whole percent."""
    band = judged.band
    numbers = {"value": judged.value, "usual": band.usual, "low": band.low, "high": band.high}
    digits = 2 if whole else 4
    if measure is Measure.RATE:
        told: dict[str, Any] = {name: round(number, digits) for name, number in numbers.items()}
    elif measure is Measure.SECONDS:
        told = {name: round(number, 3) for name, number in numbers.items()}
    else:
        told = {name: round(number) for name, number in numbers.items()}
    return {"measure": measure.value, **told, "distance": round(judged.distance, 2)}
