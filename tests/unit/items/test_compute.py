"""Tests for the functions of Arrow without pyarrow.compute: they give what that module gives, and do not import it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from psicli.items import compute

TEXTS = pa.array(["b", None, "", "a.b", "a"], pa.large_string())
NUMBERS = pa.array([3, 1, None, 3], pa.int64())
MASK = pa.array([True, False, None, True, True])

CALLS: dict[str, Callable[[Any], Any]] = {
    "a value of Python beside a column": lambda c: c.equal(TEXTS, "a"),
    "a value of Python before a column": lambda c: c.greater(2, NUMBERS),
    "the other of two columns": lambda c: c.if_else(MASK, TEXTS, None),
    "options": lambda c: c.match_substring_regex(TEXTS, pattern="^a"),
    "options of a join": lambda c: c.binary_join_element_wise(
        TEXTS, TEXTS, pa.scalar(",", pa.large_string()), null_handling="replace", null_replacement=""
    ),
    "no options of a join": lambda c: c.binary_join_element_wise(TEXTS, pa.scalar("", pa.large_string())),
    "a filled null": lambda c: c.fill_null(NUMBERS, 7),
    "a position": lambda c: c.index(NUMBERS, 1),
    "no position": lambda c: c.index(NUMBERS, 9),
    "chunks": lambda c: c.sum(c.binary_length(pa.chunked_array([TEXTS, TEXTS]))),
    "an order": lambda c: c.sort_indices(TEXTS),
    "an order of rows": lambda c: c.sort_indices(
        pa.table({"a": NUMBERS, "b": TEXTS[:4]}), sort_keys=[("a", "ascending"), ("b", "descending")]
    ),
    "a set": lambda c: c.index_in(TEXTS, value_set=pa.array(["a", "b"], pa.large_string())),
    "taken rows": lambda c: c.take(pa.record_batch({"a": TEXTS}), pa.array([4, 0])),
    "counts": lambda c: c.value_counts(NUMBERS).field("counts"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_function_gives_what_it_gives_in_pyarrow_compute(call: str) -> None:
    assert CALLS[call](compute).equals(CALLS[call](pyarrow.compute))


def test_chosen_rows_of_a_table_are_those_of_its_own_method() -> None:
    table = pa.table({"a": TEXTS})
    assert compute.filter_(table, MASK).equals(table.filter(MASK))


@pytest.mark.parametrize(("kind", "safe"), [(pa.string(), True), (pa.large_binary(), False)])
def test_a_cast_is_that_of_a_column(kind: Any, safe: bool) -> None:
    assert compute.cast(TEXTS, kind, safe=safe).equals(TEXTS.cast(kind, safe=safe))


def test_a_cast_that_loses_something_is_refused_unless_it_may() -> None:
    with pytest.raises(pa.ArrowInvalid):
        compute.cast(pa.array([300]), pa.int8())
    assert compute.cast(pa.array([300]), pa.int8(), safe=False).to_pylist() == [44]


@pytest.mark.parametrize(
    "values", [np.arange(9), np.arange(9)[::2], np.arange(9) % 2 == 0, np.zeros(0, np.bool_), np.arange(3.0)]
)
def test_numbers_and_booleans_of_numpy_become_a_column(values: Any) -> None:
    assert compute.from_numpy(values).equals(pa.array(values))


def test_a_byte_is_among_others_or_not() -> None:
    assert bytes(np.flatnonzero(compute.among(b"b\xff\0")).tolist()) == b"\0b\xff"


def test_an_option_that_a_function_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError):
        compute.equal(TEXTS, "a", pattern="a")


# As in a run, pyarrow does not find pandas.
USE = """
import sys, numpy, pyarrow

class WithoutPandas:
    def find_spec(self, name, *_):
        if name == "pandas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, WithoutPandas())
from psicli.items import compute

column = compute.from_numpy(numpy.arange(5) > 2)
column = compute.filter_(column, compute.equal(column, True))
column = compute.take(column, compute.from_numpy(numpy.arange(2)))
print(compute.cast(column, pyarrow.int8()).to_pylist())
print(*{"pyarrow.compute", "numpy.ma", "dateutil"} & sys.modules.keys())
"""


def test_nothing_here_imports_the_modules_that_load_slowly() -> None:
    result = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[1, 1]\n\n", "")
