"""The output of a task: matched rows, written only if this party's policy allows the result."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psicli import outputs
from psicli.config import Task
from psicli.core.errors import PolicyError, ReaderGoneError, StorageError, reason
from psicli.core.places import Url
from psicli.core.records import dataclass
from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.task_exchange import Storage
from psicli.items.partitions import Items, Matches
from psicli.job.policy import Policy
from psicli.report.report import TaskReport, whole_percent
from psicli.storage.files import AtomicFile, make_folder
from psicli.storage.state import run_folder, state_folder
from psicli.tables import Input

# The counts of a task in its report; `Found` holds the result.
COUNTED = ("rows", "distinct_items", "matchless_rows", "peer_items", "peer_questions")


@dataclass
class Found:
    """The result of a task. matched: how many of this party's items matched; the other fields describe the output."""

    matched: int | None = None
    matched_rows: int | None = None
    output_rows: int | None = None
    output_holds: str | None = None
    output: str | None = None
    output_sha256: str | None = None


def outcome(entry: TaskReport, found: Found) -> dict[str, Any]:
    """Return the fields that this run, or a later one that finds the task done, has found about a finished task."""
    facts = asdict(found)
    if found.matched is not None and entry.distinct_items is not None:
        facts["matched_percent"] = whole_percent(found.matched, entry.distinct_items)
    return {name: getattr(entry, name) for name in COUNTED} | facts


class TaskOutput:
    """The output of one task: a file that appears complete or not at all, or standard output for `-`.

    A sender must not show the peer whether its policy allows the result: the peer knows what matched, but not this
    party's limits. So a sender stages and confirms the rows in every case, and discards them instead of publishing them
    if its policy refuses the result.

    rules: the policy, and a check that raises PolicyError if so many matches are too unusual. entry: the task's entry
    in the report. refusal: why the output was not published, if it was refused.
    """

    def __init__(
        self,
        task: Task,
        source: Input,
        items: Items,
        storage: Storage,
        rules: tuple[Policy, Callable[[int], None]],
        entry: TaskReport,
        checkpoint: Checkpoint,
    ) -> None:
        assert task.output_path is not None
        assert task.output_format is not None
        self.found = Found(output=str(task.output_path), output_holds=task.output.rows)
        self.refusal: PolicyError | None = None
        self._input = source
        self._items = items
        self._storage = storage
        self._policy, self._check_rate = rules
        self._entry = entry
        self._checkpoint = checkpoint
        self._staging = ExitStack()
        self._place, self._format, self._settings = task.output_path, task.output_format, task.output
        if isinstance(self._place, Path):
            self._target = self._place
        else:
            # Rows in a pipe cannot be withdrawn, and a store takes them when all are there.
            self._target = self._staging.enter_context(run_folder(state_folder())) / "output"
        self._file: AtomicFile | None = None

    def check(self, matches: Matches) -> None:
        """Raise PolicyError if this party's policy does not allow these matches."""
        self.found.matched = matches.count
        self._policy.check_match_rate(matches.count, matches.items)
        if self._policy.limits.min_output_rows is not None:
            self._policy.check_output_rows(self._items.row_mask(matches).true_count)
        self._check_rate(matches.count)

    def stage(self, matches: Matches) -> None:
        """Write the rows of the matched items to a temporary file and sync it to disk."""
        if not self._checkpoint.scope.receives:
            try:
                self.check(matches)
            except PolicyError as exc:
                self.refusal = exc
        self.found.matched = matches.count
        row_mask = self._items.row_mask(matches)
        self.found.matched_rows = row_mask.true_count
        self._items.close()
        # Another run that failed may have removed the folder that it had made.
        make_folder(self._target)
        self._file = AtomicFile(self._target)
        assert self._storage.spool is not None
        with self._input:
            self.found.output_rows = outputs.write_matched(
                self._input,
                self._file.file,
                self._format,
                row_mask,
                self._settings,
                budget=self._storage.plan.sorting,
                spool=self._storage.spool,
            )
        self._file.seal()
        self.found.output_sha256 = self._file.sha256

    def publish(self) -> None:
        """Publish the staged rows unless the policy refused them, and record that the task is done."""
        assert self._file is not None
        if self.refusal is not None:
            self.discard()
            return
        self._file.publish()
        if isinstance(self._place, Url):
            # Imported late, because a run on local files does not need these libraries.
            from psicli.storage.places.writing import upload

            upload(self._target, self._place)
        if self.found.output == "-":
            try:
                with open(self._target, "rb") as staged:
                    shutil.copyfileobj(staged, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            except BrokenPipeError as exc:
                raise ReaderGoneError from exc
            except OSError as exc:
                raise StorageError(path="standard output", reason=reason(exc)) from exc
        # Do not wait for the other party's confirmation, which may never arrive.
        self._checkpoint.conclude(self._policy.told(outcome(self._entry, self.found)))

    def discard(self) -> None:
        """Remove everything that was not published."""
        if self._file is not None:
            self._file.discard()
        self._staging.close()
