"""What a check counts in the first rows of an input."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from psicli.check import sample
from psicli.check.sample import Distinct


def counter(numbers: np.ndarray[tuple[int], np.dtype[np.int64]], batch: int) -> Distinct:
    distinct = Distinct()
    for start in range(0, len(numbers), batch):
        keys = [
            None if number % 10 == 0 else f"{number}".encode() for number in numbers[start : start + batch].tolist()
        ]
        distinct.add(pa.array(keys, pa.large_binary()))
    return distinct


@pytest.mark.parametrize("batch", [7, 1000])
def test_distinct_items_are_counted_without_nulls(batch: int) -> None:
    numbers = np.random.default_rng(1).integers(0, 500, 3000)
    distinct = counter(numbers, batch)
    expected = len({each for each in numbers.tolist() if each % 10})
    assert (distinct.count, distinct.is_exact) == (expected, True)
    # To count changes nothing.
    assert distinct.count == expected
    assert Distinct().count == 0


def test_very_many_distinct_items_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_COUNTED_HASHES", 1 << 12)
    numbers = np.arange(40_000)
    distinct = counter(np.concatenate([numbers, numbers]), 3000)
    assert not distinct.is_exact
    # At least 2,048 hashes are counted, so the error is 2 % or so. Of the 40,000 items, 36,000 are no null.
    assert 0.85 * 36_000 < distinct.count < 1.15 * 36_000
