"""Check that what a job file says about outputs makes sense; psicli/config/checks.py says how checks work."""

from __future__ import annotations

from psicli.config.document import Document, Loc
from psicli.core.errors import shown


def check_output(document: Document, task: Loc) -> None:
    """Refuse an output of all rows that would not tell them apart, and a flag with the name of another column."""
    output = (*task, "output")
    flag = document.text(*output, "flag")
    if document.text(*output, "rows") == "all" and "flag" not in document.table(*output):
        what = "all rows without a flag would not tell which of them match"
        document.blame((*output, "rows"), what, "add a column that does, for example `flag: in_both`")
    for column in document.entries(*output, "columns"):
        if flag is not None and document.text(*column) == flag:
            what = f"{shown(flag)} is a column of the input too, which columns names"
            document.blame((*output, "flag"), what, "give the flag a name of its own")
