"""Where a task's matched rows go, and whether our policy lets them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from psicli.errors import PolicyError, StorageError
from psicli.files import AtomicFile, file_format
from psicli.partitions import Items, Matches
from psicli.pipeline import Storage
from psicli.policy import Policy
from psicli.state import RunFolder, state_folder
from psicli.tables import Input


class TaskOutput:
    """Where the matched rows of one task go: a file that appears whole or not at all.

    matched: own items found, once known [items]; rows, sha256: of what was written. refusal: why it was not published.
    """

    def __init__(self, path: Path | str, source: Input, found: Items, storage: Storage, policy: Policy) -> None:
        self.name = str(path)
        self.matched: int | None = None
        self.rows = 0
        self.sha256: str | None = None
        self.refusal: PolicyError | None = None
        self._format = file_format(path)
        self._input = source
        self._items = found
        self._storage = storage
        self._policy = policy
        self._file: AtomicFile | None = None

    def check(self, matches: Matches) -> None:
        """Raise PolicyError if our policy does not allow these matches."""
        self.matched = matches.count
        self._policy.check_match_rate(self.matched, matches.items)
        if self._policy.limits_output_rows:
            self._policy.check_output_rows(self._items.row_mask(matches).true_count)

    def stage(self, matches: Matches) -> None:
        """Write the rows of the matched items and make them durable."""
        self.matched = matches.count
        row_mask = self._items.row_mask(matches)
        self._items.close()
        self._file = AtomicFile(self._target())
        assert self._storage.spool is not None
        with self._input:
            self.rows = self._input.write_matched(
                self._file.file,
                self._format,
                row_mask,
                budget=self._storage.plan.sorting,
                spool=self._storage.spool,
            )
        self._file.seal()
        self.sha256 = self._file.sha256

    def publish(self) -> None:
        """Put the staged rows in place."""
        assert self._file is not None
        self._file.publish()

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _target(self) -> Path:
        return Path(self.name)


class StandardOutput(TaskOutput):
    """Rows for standard output: staged in a file first, since a pipe cannot take anything back."""

    def __init__(self, path: Path | str, source: Input, found: Items, storage: Storage, policy: Policy) -> None:
        super().__init__(path, source, found, storage, policy)
        self._folder = RunFolder(state_folder())

    def publish(self) -> None:
        super().publish()
        try:
            with open(self._target(), "rb") as staged:
                shutil.copyfileobj(staged, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as exc:
            raise StorageError(path="standard output", reason=(exc.strerror or "unknown").lower()) from exc

    def discard(self) -> None:
        super().discard()
        self._folder.remove()

    def _target(self) -> Path:
        return self._folder.path / "stdout.csv"


class SilentlyChecked:
    """The output of a broadcast's sender: all that the peer can see of it is the same whether it is allowed or not.

    The peer knows what matched; our own limits on that are still none of its business. So the rows are staged and
    confirmed as always, and what our policy refuses is thrown away instead of published.
    """

    def __init__(self, output: TaskOutput) -> None:
        self._output = output

    def check(self, matches: Matches) -> None:
        """Nobody asks a sender before its output is staged."""

    def stage(self, matches: Matches) -> None:
        try:
            self._output.check(matches)
        except PolicyError as exc:
            self._output.refusal = exc
        self._output.stage(matches)

    def publish(self) -> None:
        if self._output.refusal is None:
            self._output.publish()
        else:
            self._output.discard()
