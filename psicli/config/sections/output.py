"""The section `output` of a task in a job file."""

from __future__ import annotations

from typing import Annotated, Literal

from psicli.config import fields
from psicli.config.model import Model, field, optional
from psicli.config.model.kinds import SchemaWith

_Columns = Annotated[tuple[fields.ColumnName, ...], fields.DISTINCT, SchemaWith({"minItems": 1, "uniqueItems": True})]


class OutputSettings(Model):
    """What this party's output holds."""

    rows: Literal["matched", "unmatched", "all"] = field(
        "Which rows of the input the output holds: `matched`, whose keys the other party has too; `unmatched`, all "
        "others, also those with a null key, which match nothing; or `all`, which needs a `flag`.",
        "unmatched",
        default="matched",
    )
    flag: fields.ColumnName | None = optional(
        "Name of a column after the others that is true in the rows that match and false in the others. The input must "
        "not have a column of this name, or `columns` must leave it out.",
        "in_both",
    )
    columns: _Columns | None = optional(
        "Columns of the input to write, in this order; key columns may be left out. By default all.",
        ["mail", "segment"],
    )
    order: Literal["key", "input"] = field(
        "Order of the rows: `key` sorts them by their keys as they are compared, null last; `input` keeps the order of "
        "the input, needs no disk space for sorting, and shows that order to whoever reads the output.",
        "input",
        default="key",
    )
