"""Writes sorted rows as JSON Lines. The bytes depend only on the rows, not on how tables divide them.

Numbers and booleans are written as such; a floating-point number always has a fraction or an exponent. All other values
that are not nested are strings with their canonical text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from psicli.core.formats import FileFormat
from psicli.items import compute as pc
from psicli.items import kinds
from psicli.items.encoding import packed
from psicli.items.text import has_text, joined, text_of
from psicli.outputs.compressed import compressed

_TEXT = pa.large_string()
# The characters that JSON does not allow in a string, with their escape sequences; the backslash must come first.
_ESCAPES = {code: json.dumps(chr(code))[1:-1] for code in (*b'\\"', *range(0x20))}
# The numbers that JSON does not have, as Arrow writes them and as strings.
_NOT_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def write_jsonl(file: BinaryIO, fmt: FileFormat, schema: Any, line_column: str | None, tables: Iterable[Any]) -> int:
    """Write wide rows as JSON Lines, from tables whose columns are single chunks; return how many [rows].

    schema: the pa.Schema of the output; line_column: the column with whole lines, if the input is JSON Lines too. Then
    the only other column is the flag.
    """
    rows = 0
    with compressed(file, fmt.compression) as lines:
        for table in tables:
            if line_column is None:
                columns = [column.chunk(0) for column in table.columns]
                text = _objects([*zip(schema, columns, strict=True)], table.num_rows)
            else:
                text = table.column(line_column).chunk(0)
                for name in schema.names[1:]:
                    text = _with_flag(text, name, table.column(name).chunk(0))
            _, data = packed(joined(text, "\n"))
            lines.write(data.tobytes())
            rows += table.num_rows
    return rows


def _with_flag(objects: Any, name: str, flags: Any) -> Any:
    """Return JSON objects with one more member, which is true or false."""
    start = pc.utf8_rtrim(pc.utf8_slice_codeunits(objects, start=0, stop=-1), characters=" \t\r\n")
    comma = pc.if_else(pc.equal(start, "{"), pa.scalar("", _TEXT), ",")
    return joined(start, comma, f"{json.dumps(name, ensure_ascii=False)}:", pc.cast(flags, _TEXT), "}")


def has_json(kind: Any, *, nested: bool = False) -> bool:
    """Return whether values of an Arrow type can be written as JSON, in a column or nested in another value."""
    kind = _simple(kind)
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        distinct = len({field.name for field in fields}) == len(fields)
        return distinct and all(has_json(field.type, nested=True) for field in fields)
    if pa.types.is_map(kind):
        return has_json(kind.key_type, nested=True) and has_json(kind.item_type, nested=True)
    if _is_list(kind):
        return has_json(kind.value_type, nested=True)
    # Only in a column are bytes known to be text.
    return pa.types.is_floating(kind) or (has_text(kind) and not (nested and kinds.is_bytes(kind)))


def _simple(kind: Any) -> Any:
    """Return a type without what makes no difference in JSON; types inside it stay."""
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return kind.storage_type if kinds.is_extension(kind) and not has_text(kind) else kind


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return pa.types.is_fixed_size_list(kind) or any(test(kind) for test in tests)


def _json(values: Any, kind: Any) -> Any:
    """Return the JSON texts of a pa.Array in plain types, without nulls; kind: the type in the input."""
    kind = _simple(kind)
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        texts = _objects([(field, values.field(index)) for index, field in enumerate(fields)], len(values))
    elif pa.types.is_map(kind):
        pair = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        texts = _arrays(kinds.pairs(values), pair)
    elif _is_list(kind):
        texts = _arrays(values, kind.value_type)
    elif pa.types.is_floating(kind):
        # DuckDB takes a column for integers if it starts with many, and then rounds the other numbers.
        texts = pc.replace_substring_regex(pc.cast(values, _TEXT), pattern="^-?[0-9]+$", replacement=r"\0.0")
        for number, text in _NOT_NUMBERS.items():
            texts = pc.if_else(pc.equal(texts, number), text, texts)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind) or kinds.is_bool8(kind):
        texts = text_of(values, kind)
    else:
        texts = joined('"', _escaped(text_of(values, kind)), '"')
    return pc.cast(pc.if_else(pc.is_valid(values), texts, "null"), _TEXT)


def _objects(columns: Sequence[tuple[Any, Any]], rows: int) -> Any:
    """Return JSON objects. columns: the pa.Field and the pa.Array of each name."""
    pieces: list[Any] = []
    for field, values in columns:
        start = "," if pieces else "{"
        pieces += [f"{start}{json.dumps(field.name, ensure_ascii=False)}:", _json(values, field.type)]
    return joined(*pieces, "}") if pieces else pa.repeat(pa.scalar("{}", _TEXT), rows)


def _arrays(values: Any, kind: Any) -> Any:
    """Return JSON arrays of lists; kind: the type of their elements."""
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    elements = pa.LargeListArray.from_arrays(pc.from_numpy(offsets), _json(values.flatten(), kind))
    return joined("[", pc.binary_join(elements, pa.scalar(",", _TEXT)), "]")


def _escaped(text: Any) -> Any:
    _, data = packed(text)
    found = np.zeros(256, bool)
    found[data] = True
    for code, escape in _ESCAPES.items():
        if found[code]:
            text = pc.replace_substring(text, pattern=chr(code), replacement=escape)
    return text
