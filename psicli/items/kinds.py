"""The types of columns: in a file, in memory while psicli works with the rows, and in the output.

Extension types (UUID, JSON and others) are stored as simpler types, and pyarrow has few functions for them, for views
and for dictionaries inside other types. Between reading and writing, columns therefore have plain types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from psicli.items import compute as pc

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
# What the metadata of a field says about its type.
_ABOUT_TYPE = frozenset({b"PARQUET:field_id", b"ARROW:extension:name", b"ARROW:extension:metadata"})
_UUID, _JSON, _BOOL8 = "arrow.uuid", "arrow.json", "arrow.bool8"


def is_extension(kind: Any, name: str | None = None) -> bool:
    """Return whether a type is an extension type, with this name if one is given."""
    return isinstance(kind, pa.BaseExtensionType) and name in (None, kind.extension_name)


def is_uuid(kind: Any) -> bool:
    return is_extension(kind, _UUID)


def is_json(kind: Any) -> bool:
    return is_extension(kind, _JSON)


def is_bool8(kind: Any) -> bool:
    return is_extension(kind, _BOOL8)


def is_bytes(kind: Any) -> bool:
    """Return whether values are bytes without a meaning that the type names."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def is_text(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def value_type(kind: Any) -> Any:
    """Return the type of the values of a dictionary, and any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def stored(kind: Any) -> Any:
    """Return the type as which values of a type are stored: the same without extension types."""
    return _rebuilt(kind, lambda each: each.storage_type if is_extension(each) else each)


def as_numbers(kind: Any) -> Any:
    """Return the stored type, with times and milliseconds of dates as the numbers that they are."""
    numbers = {pa.time32("s"): pa.int32(), pa.time32("ms"): pa.int32(), pa.time64("us"): pa.int64()}
    numbers |= {pa.time64("ns"): pa.int64(), pa.date64(): pa.int64()}
    return _rebuilt(stored(kind), lambda each: numbers.get(each, each))


def plain(kind: Any) -> Any:
    """Return the type of a column's values in memory: without extension types, dictionaries and views."""

    def simpler(each: Any) -> Any:
        while is_extension(each) or pa.types.is_dictionary(each) or pa.types.is_run_end_encoded(each):
            each = each.storage_type if is_extension(each) else each.value_type
        return _VIEWS.get(each, each)

    return _rebuilt(kind, simpler)


def kept(kind: Any) -> Any:
    """Return the type of a column in the output, which can hold every value of the input's type.

    A dictionary inside another type becomes its values, because it would show values of rows that did not match.
    """

    def outer(each: Any) -> Any:
        if is_extension(each) and plain(each.storage_type) != each.storage_type:
            # Only JSON says what its text is stored as.
            return pa.json_(plain(each.storage_type)) if is_json(each) else plain(each.storage_type)
        if pa.types.is_dictionary(each):
            # pyarrow has few functions for dictionaries of views, and polars writes them.
            return pa.dictionary(each.index_type, plain(each.value_type), each.ordered)
        return each if is_extension(each) else plain(each) if pa.types.is_run_end_encoded(each) else each

    def inner(each: Any) -> Any:
        each = outer(each)
        return each if is_extension(each) else _VIEWS.get(each, plain(each) if pa.types.is_dictionary(each) else each)

    return outer(kind) if not pa.types.is_nested(kind) else _rebuilt(kind, inner)


def has_list_view(kind: Any) -> bool:
    """Return whether a type is a list view or has one inside it."""
    kind = stored(kind)
    inside = range(kind.num_fields) if pa.types.is_nested(kind) else ()
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return is_view or any(has_list_view(kind.field(index).type) for index in inside)


def with_types(schema: Any, change: Callable[[Any], Any]) -> Any:
    """Return a pa.Schema whose types are changed; names, metadata and nullability stay."""
    return pa.schema([field.with_type(change(field.type)) for field in schema], metadata=schema.metadata)


def bare(field: Any) -> Any:
    """Return a pa.Field without metadata that can say anything about the rows of a file."""
    metadata = field.metadata or {}
    return field.with_metadata({name: value for name, value in metadata.items() if name in _ABOUT_TYPE} or None)


def _rebuilt(kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return a type with `change` applied to it and to all types inside it."""
    kind = change(kind)

    def inside(field: Any) -> Any:
        return bare(field.with_type(_rebuilt(field.type, change)))

    if pa.types.is_struct(kind):
        return pa.struct([inside(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    for is_this, make in _LISTS:
        if is_this(kind):
            return make(inside(kind.value_field))
    return kind


_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)


class _Relabelled:
    """The buffers of a batch under another schema, in Arrow's C data interface."""

    def __init__(self, batch: Any, schema: Any) -> None:
        self._batch = batch
        self._schema = schema

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._schema.__arrow_c_schema__(), self._batch.__arrow_c_array__()[1]


def relabelled(batch: Any, schema: Any) -> Any:
    """Return a pa.RecordBatch under another schema that stores its values in the same way; copies nothing.

    pyarrow cannot cast all types inside other types to or from extension types.
    """
    return batch if batch.schema == schema else pa.record_batch(_Relabelled(batch, schema))


def pairs(values: Any) -> Any:
    """Return a pa.MapArray as a list of structs; copies nothing. A cast does not allow all types inside."""
    kind = values.type
    pair = pa.field("pair", pa.struct([kind.key_field, kind.item_field]), nullable=False)
    return relabelled(pa.record_batch([values], names=["v"]), pa.schema([("v", pa.list_(pair))])).column(0)


def cast(values: Any, kind: Any) -> Any:
    """Return a pa.Array or pa.ChunkedArray in another type; raises what pyarrow raises for types it cannot cast."""
    # pyarrow makes some arrays invalid when it casts them to their own type.
    return values if values.type == kind else pc.cast(values, kind)
