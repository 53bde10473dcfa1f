"""Where a task's matched rows go, and whether our policy lets them."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from psicli import tables
from psicli.core.errors import PolicyError, StorageError, reason
from psicli.core.formats import file_format
from psicli.exchange.pipeline import Storage
from psicli.items.partitions import Items, Matches
from psicli.job.policy import Policy
from psicli.storage.files import AtomicFile
from psicli.storage.state import run_folder, state_folder
from psicli.tables import Input


class TaskOutput:
    """Where the matched rows of one task go: a file that appears whole or not at all, or standard output for `-`.

    All that the peer can see of a sender's output (receives: False) is the same whether it is allowed or not: the peer
    knows what matched, our own limits on that are none of its business. So the rows are staged and confirmed as always,
    and what our policy refuses is thrown away instead of published.

    matched: own items found, once known [items]; rows, sha256: of what was written. refusal: why it was not published.
    """

    def __init__(
        self, path: Path | str, source: Input, found: Items, storage: Storage, policy: Policy, *, receives: bool
    ) -> None:
        self.name = str(path)
        self.matched: int | None = None
        self.rows = 0
        self.sha256: str | None = None
        self.refusal: PolicyError | None = None
        self._input = source
        self._items = found
        self._storage = storage
        self._policy = policy
        self._receives = receives
        # Rows for standard output are staged in a file first, since a pipe cannot take anything back.
        self._staging = ExitStack()
        self._target = Path(path)
        if path == "-":
            self._target = self._staging.enter_context(run_folder(state_folder())) / "stdout.csv"
        self._file: AtomicFile | None = None

    def check(self, matches: Matches) -> None:
        """Raise PolicyError if our policy does not allow these matches."""
        self.matched = matches.count
        self._policy.check_match_rate(self.matched, matches.items)
        if self._policy.limits.min_output_rows is not None:
            self._policy.check_output_rows(self._items.row_mask(matches).true_count)

    def stage(self, matches: Matches) -> None:
        """Write the rows of the matched items and make them durable."""
        if not self._receives:
            try:
                self.check(matches)
            except PolicyError as exc:
                self.refusal = exc
        self.matched = matches.count
        row_mask = self._items.row_mask(matches)
        self._items.close()
        self._file = AtomicFile(self._target)
        assert self._storage.spool is not None
        with self._input:
            self.rows = tables.write_matched(
                self._input,
                self._file.file,
                file_format(self.name),
                row_mask,
                budget=self._storage.plan.sorting,
                spool=self._storage.spool,
            )
        self._file.seal()
        self.sha256 = self._file.sha256

    def publish(self) -> None:
        """Put the staged rows in place, unless they are refused."""
        assert self._file is not None
        if self.refusal is not None:
            self.discard()
            return
        self._file.publish()
        if self.name == "-":
            try:
                with open(self._target, "rb") as staged:
                    shutil.copyfileobj(staged, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            except OSError as exc:
                raise StorageError(path="standard output", reason=reason(exc)) from exc

    def discard(self) -> None:
        """Remove what is not published."""
        if self._file is not None:
            self._file.discard()
        self._staging.close()
