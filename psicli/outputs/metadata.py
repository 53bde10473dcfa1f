"""Keeps the metadata of a file that other tools need, as far as it is true for an output with fewer rows.

pandas and GeoPandas store in it how to read the columns, but also facts about the rows of the input: how many there
are, how many categories, and where the places are. Those are corrected or removed. All other metadata of a file is
dropped, because psicli cannot know what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def with_metadata(
    output: Any,
    given: Mapping[bytes, bytes] | None,
    dictionaries: Mapping[str, Any],
    rows: int,
    flag: str | None = None,
) -> Any:
    """Return the pa.Schema of an output of `rows` rows with as much of the input's metadata as stays true.

    flag: the column that the input has not.
    """
    kept = {}
    for name, correct in ((b"pandas", _of_pandas), (b"geo", _of_geo)):
        try:
            found = json.loads((given or {})[name])
            kept[name] = json.dumps(correct(found, output, dictionaries, rows, flag)).encode()
        # Without valid metadata, there is nothing to keep.
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return output.with_metadata(kept or None)


def _of_pandas(
    found: dict[str, Any], schema: Any, dictionaries: Mapping[str, Any], rows: int, flag: str | None
) -> dict[str, Any]:
    is_written = {*schema.names}.__contains__
    index = [_range(rows, each["name"]) if isinstance(each, dict) else each for each in found["index_columns"]]
    index = [each for each in index if isinstance(each, dict) or is_written(each)]
    written = [each for each in found["columns"] if is_written(each["field_name"]) and each["field_name"] != flag]
    columns = [_of_column(each, schema, dictionaries) for each in written]
    if flag is not None:
        kinds = {"pandas_type": "bool", "numpy_type": "bool", "metadata": None}
        columns.append({"name": flag, "field_name": flag, **kinds})
    # The attributes of a data frame can say anything.
    return {**found, "index_columns": index, "columns": columns, "attributes": {}}


def _range(rows: int, name: Any) -> dict[str, Any]:
    return {"kind": "range", "name": name, "start": 0, "stop": rows, "step": 1}


def _of_column(column: dict[str, Any], schema: Any, dictionaries: Mapping[str, Any]) -> dict[str, Any]:
    values = dictionaries.get(column["field_name"])
    if values is None:
        return column
    kind = schema.field(column["field_name"]).type
    counts = {"num_categories": len(values), "ordered": kind.ordered}
    return {**column, "numpy_type": str(kind.index_type), "metadata": counts}


def _of_geo(found: dict[str, Any], schema: Any, *others: Any) -> dict[str, Any]:
    *_, flag = others
    places = [name for name in schema.names if name in found["columns"] and name != flag]
    if not places:
        raise ValueError("no column of the output holds places")
    columns = {name: _of_places(found["columns"][name], schema) for name in places}
    primary = found.get("primary_column")
    return {**found, "columns": columns, "primary_column": primary if primary in columns else places[0]}


def _of_places(column: dict[str, Any], schema: Any) -> dict[str, Any]:
    # The covering names other columns, which hold the bounding boxes of rows.
    paths = [path for paths in column.get("covering", {}).values() for path in paths.values()]
    dropped = {"bbox"} if all(path[0] in schema.names for path in paths) else {"bbox", "covering"}
    # An empty list of types means that they are not known (GeoParquet 1.1).
    return {key: value for key, value in column.items() if key not in dropped} | {"geometry_types": []}
