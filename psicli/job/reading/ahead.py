"""Reads the keys of an input as items; a part of them, or all, before the task begins."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from psicli.core.errors import PsicliError, counted
from psicli.core.stages import Stage, Stages
from psicli.items.encoding import encode_items
from psicli.items.spelling import Spellings
from psicli.tables import Input

logger = logging.getLogger(__name__)

# How long the end of a run waits for the batch that is being read [s].
_LAST_BATCH = 1.0


class Batch(NamedTuple):
    """Some rows of an input as items, and how many rows the whole input may have."""

    items: Any
    expected_rows: int


class Reading:
    """One reading of the keys of an input. One thread at a time reads.

    spellings: what is unusual about the keys that were read. seconds: how long it took to read ahead [s].
    """

    def __init__(
        self,
        opening: Callable[[], Input],
        spellings: Spellings,
        stages: Stages,
        touched: Callable[[], object] = lambda: None,
    ) -> None:
        """touched: returns when the files of the input were last changed in any way."""
        self.spellings = spellings
        self.seconds = 0.0
        self._opening, self._stages, self._touched = opening, stages, touched
        self._source: Input | None = None
        self._batches = self._read()
        # What was read ahead.
        self._held: deque[Batch] = deque()
        self._thread: threading.Thread | None = None
        self._stops = self._is_closed = self._failed = False
        # The state of the files when reading began, and until when reading ahead is not yet work of the task itself.
        self._state: object = None
        self._until = math.inf

    @property
    def source(self) -> Input:
        """The input, once a batch of it was asked for."""
        assert self._source is not None
        return self._source

    def begin(self, budget: int) -> None:
        """Read in a thread of its own, until the items take this much memory [bytes] or `goes_on` is called."""
        # A file that is gone is missed when the task begins.
        with suppress(OSError):
            self._state = self._touched()
        self._thread = threading.Thread(target=self._read_ahead, args=(budget,), name="psicli-early", daemon=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Stop reading ahead, and return whether `batches` can go on from there.

        It cannot if the input has changed since, or if anything went wrong: then another reading finds that again, and
        tells it at the right time.
        """
        self._stops, self._until = True, time.monotonic()
        if self._thread is not None:
            self._thread.join()
        if self._source is not None and not self._failed:
            try:
                with self._source.watched():
                    pass
                # The wait may have been long, and some programs write a file in place and set back its time.
                self._failed = self._touched() != self._state
            except (PsicliError, OSError):
                self._failed = True
        return not self._failed

    def batches(self) -> Iterator[Batch]:
        """Yield all batches: first those that were read ahead. Raises the first error of the input."""
        while self._held:
            yield self._held.popleft()
        yield from self._batches

    def close(self) -> None:
        """Close the input and forget what was read; may be called again."""
        self._stops = self._is_closed = True
        if self._thread is not None:
            self._thread.join(_LAST_BATCH)
            if self._thread.is_alive():
                # It closes the input itself.
                return
        self._release()

    def _release(self) -> None:
        # The thread of a task that has failed elsewhere may still be at a batch: only the input is taken away from it.
        self._held.clear()
        if self._source is not None:
            self._source.close()

    def _read_ahead(self, budget: int) -> None:
        began = time.monotonic()
        try:
            with self._stages.at(Stage.READING, "read input"):
                while budget > 0 and not self._stops and (batch := next(self._batches, None)) is not None:
                    self._held.append(batch)
                    budget -= batch.items.nbytes
            rows = counted(sum(len(batch.items) for batch in self._held), "row")
            logger.debug("read %s of %s ahead", rows, self.source.name)
        except Exception:
            self._failed = True
        self.seconds = max(min(time.monotonic(), self._until) - began, 0)
        if self._is_closed:
            self._release()

    def _read(self) -> Iterator[Batch]:
        self._source = source = self._opening()
        for key_texts in source.key_batches():
            items = encode_items(key_texts)
            self.spellings.add(key_texts, source.schema)
            yield Batch(items, source.expected_rows)
        # The processes that convert phone numbers have memory, which the exchange needs.
        source.columns.close()
