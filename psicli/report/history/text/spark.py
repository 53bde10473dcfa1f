"""A line of characters that shows how a measure went, a run a character."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.report.history.jobs import PastNight
from psicli.storage.ledger import FAILED

# From nothing to the largest value, and one or more runs that did not happen.
BLOCKS, GAP = "▁▂▃▄▅▆▇█", "·"
ASCII_BLOCKS, ASCII_GAP = "12345678", "."
# A failed run, and one that did not fail but has no value: it is not known, or not yet.
CROSS, UNKNOWN = "x", "-"


def spark(nights: Sequence[PastNight], measure: str, *, ascii_only: bool = False) -> str:
    """Return a block for each run, oldest first, as high as its share of the largest value.

    ascii_only: for a terminal that cannot show blocks; digits stand for their heights.
    """
    blocks, gap = (ASCII_BLOCKS, ASCII_GAP) if ascii_only else (BLOCKS, GAP)
    values = [getattr(each.night, measure) if each.night.is_done else None for each in nights]
    largest = max((value for value in values if value is not None), default=0)
    found = ""
    for each, value in zip(nights, values, strict=True):
        found += gap if each.after_gap and found else ""
        if value is None:
            found += CROSS if each.night.outcome == FAILED else UNKNOWN
        else:
            found += blocks[round((len(blocks) - 1) * value / largest)] if largest else blocks[0]
    return found
