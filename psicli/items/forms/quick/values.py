"""Chooses some of the values of a column, and puts others in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from psicli.items import compute as pc


def matching(texts: Any, pattern: str) -> Any:
    """Return which texts match a regular expression of RE2; null where there is no text."""
    return pc.match_substring_regex(texts, pattern=pattern)


def only(texts: Any, chosen: Any) -> Any:
    """Return the chosen texts, and null in place of the others."""
    return texts if chosen.true_count == len(texts) else pc.if_else(chosen, texts, pa.scalar(None, texts.type))


def changed(texts: Any, chosen: Any, change: Callable[[Any], Any]) -> Any:
    """Return the texts with the chosen ones changed; null chooses nothing."""
    count = chosen.true_count
    if count == 0:
        return texts
    if count == len(texts):
        return change(texts)
    chosen = pc.fill_null(chosen, False)
    return pc.replace_with_mask(texts, chosen, change(pc.filter_(texts, chosen)))


def without(pattern: str) -> Callable[[Any], Any]:
    """Return a function that removes what matches a pattern."""
    return lambda texts: pc.replace_substring_regex(texts, pattern=pattern, replacement="")
