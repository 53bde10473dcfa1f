"""The checkpoint of one task: saves finished bins for the next run and records answered bins in the ledger."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psicli.core.errors import AnsweredTwiceError, DurationError, InputChangedError, PsicliError
from psicli.core.records import dataclass
from psicli.exchange.finished import RECEIVED, FinishedBins, Manifest
from psicli.exchange.worker import Match
from psicli.protocol.bins import MOST_ANSWERS
from psicli.protocol.task import TaskParty
from psicli.storage.ledger import Ledger
from psicli.tables import Fingerprint, Source, fingerprint

# The bin number that stands for all bitmaps of a task in the ledger.
BITMAPS = -1
# Exit codes after which the task can be resumed, as after a DurationError; after any other, the checkpoint is removed.
_RESUMABLE = {69, 73, 74, 75, 80, 130, 143}
# Exit codes after which a task that is done stays done: the input of another task was bad.
_OF_ANOTHER_TASK = {65, 66}


@dataclass(frozen=True)
class Scope:
    """The task that a checkpoint belongs to, and whether there can be one.

    bound_to: values that must be the same in the next run, without the input; possible: whether the task can be resumed
    at all; only_task: whether it is the job's only task.
    """

    folder: Path
    bound_to: Mapping[str, str]
    input: Source | None
    peer: str
    receives: bool
    broadcast: bool
    possible: bool
    only_task: bool

    @property
    def task(self) -> str:
        return self.bound_to["task"]

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the input; raises like tables.fingerprint."""
        assert self.input is not None
        return fingerprint(self.input)


class Checkpoint:
    """The checkpoint of a task; thread-safe.

    saved: the finished bins, at first those of the run that this one resumes. answers: how often each bin was answered,
    in this run and in those that it resumes.
    """

    def __init__(self, scope: Scope, ledger: Ledger, saved: FinishedBins | None = None) -> None:
        self.saved = saved
        self.answers: Counter[int] = Counter()
        self.scope = scope
        self._ledger = ledger
        # Identifies the input file that was read.
        self._identity: tuple[int | str, ...] = ()
        self._manifest: Manifest | None = None
        # How many items the peer can ask about in the whole task [items].
        self._questions = 0
        # Once the run is over, nothing new is saved.
        self._ended = False
        self._guard = threading.RLock()

    @property
    def result(self) -> Mapping[str, Any] | None:
        """The task's entry in the report if the task is done, else None."""
        return None if self.saved is None else self.saved.manifest.result

    def confirm(self, identity: tuple[int | str, ...]) -> None:
        """Record which input was read; raises InputChangedError if the finished bins belong to a different one."""
        self._identity = identity
        if self.saved is not None and self.saved.manifest.bound_to["input"][:-1] != [*identity]:
            raise InputChangedError(path=self.scope.input and self.scope.input.name)

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        """Save bins from now on, if there are several; return the data of the bins that are finished already."""
        with self._guard:
            self._questions = party.questions
            self._manifest = Manifest(
                bound_to={**self.scope.bound_to, "input": [*self._identity]},
                created=time.time(),
                partition_sid=party.partition_sid.hex(),
                own_count=party.own_count,
                peer_count=party.peer_count,
                bins=party.number_of_bins,
                receives=self.scope.receives,
                broadcast=party.broadcast,
            )
            if self.saved is not None:
                return self.saved.data()
            if self.scope.possible and party.number_of_bins > 1:
                self.saved = self._create(self._manifest)
            return {}

    def _create(self, manifest: Manifest) -> FinishedBins | None:
        """Create a folder of finished bins, bound to the input that was read; None if the input has changed since."""
        if self._ended:
            return None
        found = self.scope.fingerprint()
        if found[:-1] != self._identity:
            return None
        bound_to = {**manifest.bound_to, "input": [*found]}
        return FinishedBins.create(self.scope.folder, replace(manifest, bound_to=bound_to))

    def answering(self, number: int, attempt: int) -> None:
        """Record on disk, before the first answer leaves, that this sender answers a bin.

        Raises StorageError, and AnsweredTwiceError for the third time: a dishonest receiver could ask again about bins
        whose answers it has already received.
        """
        assert self._manifest is not None
        if self.answers[number] >= MOST_ANSWERS:
            raise AnsweredTwiceError(task=self.scope.task, peer=self.scope.peer)
        self.answers[number] += 1
        if self.saved is None and not attempt:
            # Without a checkpoint there is only one answer, and the ledger's line of the task covers it.
            return
        items = self._questions // self._manifest.bins
        self._ledger.answer(self._manifest.partition_sid, self.scope.peer, number, items)

    def answered(self, number: int, order_secret: bytes) -> None:
        """Record on disk, before the end of the answers leaves, that this sender has answered a whole bin.

        A receiver cannot have finished a bin without its last answer, so this sender resumes no other bin as finished.
        """
        if self.saved is not None:
            self.saved.put(number, order_secret if self.saved.manifest.broadcast else b"")

    def received(self, number: int, order_secret: bytes) -> None:
        """Record on disk that the receiver no longer needs a bin."""
        if self.saved is not None:
            self.saved.put(number, order_secret if self.saved.manifest.broadcast else b"", state=RECEIVED)

    def matched(self, number: int, match: Match) -> None:
        """Save a receiver's result of a bin."""
        if self.saved is not None:
            own, _ = self.saved.manifest.capacities
            found = np.packbits(match.found).tobytes()
            self.saved.put(number, found + bytes(-(-own // 8) - len(found)) + match.bitmap)

    def answering_bitmaps(self) -> None:
        """Record on disk, before the first bit leaves, that this receiver sends its peer the result."""
        if self.saved is not None:
            self._ledger.answer(self.saved.manifest.partition_sid, self.scope.peer, BITMAPS, self._questions)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Save the result of a finished task, in case the job fails later; calls after the first do nothing."""
        with self._guard:
            if self.result is not None:
                return
            if self.saved is None and self._manifest is not None and self.scope.possible and not self.scope.only_task:
                with suppress(PsicliError):
                    # The input may be gone by now; then the task has no checkpoint.
                    self.saved = self._create(self._manifest)
            if self.saved is not None:
                self.saved.conclude(result)

    def end(self, error: PsicliError | None) -> None:
        """Leave the checkpoint for the next run if that may resume the task after this error; else remove it."""
        with self._guard:
            self._ended = True
            saved = self.saved
        if saved is None:
            return
        # A receiver whose run failed at the very end resumes and needs to hear that this sender is done.
        done = saved.manifest.result is not None
        peer_may_ask = done and not (self.scope.receives or self.scope.broadcast)
        resumable = _RESUMABLE | _OF_ANOTHER_TASK if done else _RESUMABLE
        may_resume = error is not None and (error.code in resumable or isinstance(error, DurationError))
        if may_resume or (error is None and peer_may_ask):
            saved.leave(run_succeeded=error is None)
        else:
            saved.discard()
