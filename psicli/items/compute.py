"""Arrow's functions on columns, without the module pyarrow.compute.

That module makes a Python function of each of Arrow's 300 functions when it is imported, which takes longer than to
import pyarrow. A run needs few of them. The methods of arrays and tables that compute, such as `take` and `cast`, also
import it. The functions here call Arrow directly. They have the names, options and results that they have there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

try:
    # pyarrow.compute has the same names, which it imports from here.
    from pyarrow import _compute as arrow
except ImportError:
    import pyarrow.compute as arrow

_COLUMNS = (pa.Array, pa.ChunkedArray, pa.Scalar)
_DATA = (*_COLUMNS, pa.RecordBatch, pa.Table)


def _no_options() -> None:
    """Raise TypeError if options are given to a function that has none."""


def _function(name: str, options: Callable[..., Any] = _no_options) -> Callable[..., Any]:
    """Return the function of Arrow with this name; its options are keyword arguments."""

    def call(*values: Any, **how: Any) -> Any:
        return arrow.call_function(name, _typed(values), options(**how) if how else None)

    return call


def _typed(values: Sequence[Any]) -> list[Any]:
    """Return values with scalars in place of Python's values, which get the type of the first column."""
    # Without a type, pyarrow imports dateutil to find out whether a value is one of its intervals.
    kind = next((value.type for value in values if isinstance(value, _COLUMNS)), None)
    return [value if isinstance(value, _DATA) else pa.scalar(value, kind) for value in values]


def from_numpy(values: npt.NDArray[Any]) -> Any:
    """Return numbers or booleans as a pa.Array; `pa.array` would import numpy.ma."""
    data = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(data)])


def among(octets: bytes) -> npt.NDArray[np.bool_]:
    """Return for each byte whether it is one of these; np.isin takes ten times as long, and imports numpy.ma."""
    table = np.zeros(256, np.bool_)
    table[list(octets)] = True
    return table


def cast(values: Any, kind: Any, *, safe: bool = True) -> Any:
    """Return values in another type; raises pa.ArrowInvalid, pa.ArrowNotImplementedError."""
    options = arrow.CastOptions.safe(kind) if safe else arrow.CastOptions.unsafe(kind)
    return arrow.call_function("cast", [values], options)


def if_else(condition: Any, left: Any, right: Any) -> Any:
    """Return values of the one or the other column, or of the same value in each row."""
    return arrow.call_function("if_else", [condition, *_typed([left, right])])


def index(values: Any, value: Any) -> Any:
    """Return the first position of a value as a pa.Scalar, which is -1 if there is none."""
    return arrow.call_function("index", [values], arrow.IndexOptions(pa.scalar(value, values.type)))


and_ = _function("and")
and_not = _function("and_not")
ascii_lower = _function("ascii_lower")
ascii_lpad = _function("ascii_lpad", arrow.PadOptions)
ascii_ltrim = _function("ascii_ltrim", arrow.TrimOptions)
ascii_rtrim = _function("ascii_rtrim", arrow.TrimOptions)
ascii_trim = _function("ascii_trim", arrow.TrimOptions)
binary_join = _function("binary_join")
binary_join_element_wise = _function("binary_join_element_wise", arrow.JoinOptions)
binary_length = _function("binary_length")
dictionary_encode = _function("dictionary_encode")
drop_null = _function("drop_null")
ends_with = _function("ends_with", arrow.MatchSubstringOptions)
equal = _function("equal")
fill_null = _function("coalesce")
filter_ = _function("filter")
greater = _function("greater")
index_in = _function("index_in", arrow.SetLookupOptions)
invert = _function("invert")
is_in = _function("is_in", arrow.SetLookupOptions)
is_null = _function("is_null")
is_valid = _function("is_valid")
less_equal = _function("less_equal")
list_value_length = _function("list_value_length")
match_substring = _function("match_substring", arrow.MatchSubstringOptions)
match_substring_regex = _function("match_substring_regex", arrow.MatchSubstringOptions)
min_max = _function("min_max")
not_equal = _function("not_equal")
or_ = _function("or")
replace_substring = _function("replace_substring", arrow.ReplaceSubstringOptions)
replace_substring_regex = _function("replace_substring_regex", arrow.ReplaceSubstringOptions)
replace_with_mask = _function("replace_with_mask")
sort_indices = _function("sort_indices", arrow.SortOptions)
starts_with = _function("starts_with", arrow.MatchSubstringOptions)
string_is_ascii = _function("string_is_ascii")
take = _function("take")
unique = _function("unique")
utf8_length = _function("utf8_length")
utf8_lower = _function("utf8_lower")
utf8_normalize = _function("utf8_normalize", arrow.Utf8NormalizeOptions)
utf8_rtrim = _function("utf8_rtrim", arrow.TrimOptions)
utf8_slice_codeunits = _function("utf8_slice_codeunits", arrow.SliceOptions)
utf8_trim = _function("utf8_trim", arrow.TrimOptions)
utf8_trim_whitespace = _function("utf8_trim_whitespace")
value_counts = _function("value_counts")
# Python's own functions of these names are not used here.
all = _function("all")
any = _function("any")
max = _function("max")
min = _function("min")
sum = _function("sum")
