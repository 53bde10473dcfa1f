"""What a run returns: the report of `psicli run --json`, and the rows of each task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from psicli.api.errors import told
from psicli.api.frames import MAKERS, Types
from psicli.core.errors import TaskFilesError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class TaskResult:
    """One task of a run. A count is None if this party does not know it.

    name: of the task. status: `done`, `failed` or `not started`. rows: those of the input. distinct_items: different
    keys in it. peer_items: those of the other party. matched: the items that both have. output_rows: the rows of the
    result. output: the file that holds the result, None if only this object does. warnings: what is unusual.
    """

    def __init__(self, facts: Mapping[str, Any], types: Types, read: Callable[[], Any] | None) -> None:
        """read: returns the rows of the result as a pa.Table; None if this party has no such rows."""
        self._facts = facts
        self._types = types
        self._read = read
        self.name: str = facts["name"]
        self.status: str = facts["status"]
        self.rows: int | None = facts["rows"]
        self.distinct_items: int | None = facts["distinct_items"]
        self.peer_items: int | None = facts["peer_items"]
        self.matched: int | None = facts["matched"]
        self.output_rows: int | None = facts["output_rows"]
        self.output: str | None = facts["output"]

    @property
    def warnings(self) -> list[str]:
        one = [self._facts["warning"]] if self._facts["warning"] else []
        return [*self._facts["warnings"], *one]

    @property
    def has_rows(self) -> bool:
        """Whether this party has rows as a result: the task is done, and this party learns which of its rows match."""
        return self._read is not None

    def to_arrow(self) -> pyarrow.Table:
        """Return the rows of the result as a pyarrow.Table; raises RunError if this party has none."""
        return self._made("arrow")

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows of the result as a pandas.DataFrame; raises RunError if this party has none."""
        return self._made("pandas")

    def to_polars(self) -> polars.DataFrame:
        """Return the rows of the result as a polars.DataFrame; raises RunError if this party has none."""
        frame: polars.DataFrame = self._made("polars")
        return frame

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Let every library that knows Arrow read the rows of the result."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"TaskResult({self.name!r}, {self.status}, matched={self.matched}, output_rows={self.output_rows})"

    def like_the_input(self) -> Any:
        """Return the rows of the result as a data frame of the same library as the input."""
        return self._made(self._types.kind)

    def _made(self, kind: str) -> Any:
        with told():
            if self._read is None:
                raise TaskFilesError(task=self.name, **self._why_none())
            return MAKERS[kind](self._read(), self._types.of(kind))

    def _why_none(self) -> dict[str, str]:
        if self.status != "done":
            return {"fault": f"it is {self.status}, so there are no rows", "advice": "Look at the error of the run."}
        who = f"{self._facts['receiver']} learns the result, and this party none"
        if self._facts["matched"] is not None:
            who = "its result is a count"
        return {"fault": f"there are no rows, because {who}", "advice": "Read `matched`, or change the task."}


class Report:
    """The report of a run: the results of its tasks by their names, and the facts about the whole run."""

    def __init__(self, facts: Mapping[str, Any], results: Mapping[str, TaskResult]) -> None:
        self._facts = facts
        self._results = results
        self.exit_code: int = facts["exit_code"]
        self.seconds: float = facts["seconds"] or 0.0
        self.warnings: list[str] = list(facts["warnings"])

    def __getitem__(self, task: str) -> TaskResult:
        """Return the result of a task; raises KeyError."""
        return self._results[task]

    def __iter__(self) -> Iterator[TaskResult]:
        """Yield the results of all tasks, in the order of the job."""
        return iter(self._results.values())

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, task: object) -> bool:
        return task in self._results

    def to_dict(self) -> dict[str, Any]:
        """Return what `psicli run --json` prints, as a dict of its own."""
        return copy.deepcopy(dict(self._facts))

    def __repr__(self) -> str:
        results = ", ".join(map(repr, self._results.values()))
        return f"Report(exit_code={self.exit_code}, seconds={self.seconds:.1f}, [{results}])"
