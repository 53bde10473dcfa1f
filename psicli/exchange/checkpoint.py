"""The checkpoint of one task: what its exchange leaves for the next run, and the ledger's count of answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from psicli.core.errors import AnsweredTwiceError, InputChangedError, PsicliError
from psicli.exchange.finished import RECEIVED, FinishedBins, Manifest
from psicli.exchange.worker import Match
from psicli.protocol.bins import MOST_ANSWERS
from psicli.protocol.task import TaskParty
from psicli.storage.ledger import Ledger
from psicli.tables import Fingerprint, fingerprint

# Stands for the bitmaps of a task in the ledger's count of answers.
BITMAPS = -1
# After these a run is worth another try from where it stopped; all others end what was kept.
_LASTING = {69, 73, 74, 75, 80, 130, 143}


@dataclass(frozen=True)
class Scope:
    """Whose checkpoint it is, and when there is one.

    bound_to: what must be the same in the next run, but for the input; possible: whether the task can be resumed at
    all; only_task: whether the job has no other.
    """

    folder: Path
    bound_to: Mapping[str, str]
    input: Path | str
    peer: str
    receives: bool
    broadcast: bool
    possible: bool
    only_task: bool

    @property
    def task(self) -> str:
        return self.bound_to["task"]

    def fingerprint(self) -> Fingerprint:
        """Return what tells the input from any other; raises as tables.fingerprint."""
        return fingerprint(Path(self.input), str(self.input))


class Checkpoint:
    """What a task continues from, and what it leaves. For any thread.

    saved: the finished bins, of the run it continues at first. answers: how often each bin was answered, in this run
    and in those it continues.
    """

    def __init__(self, scope: Scope, ledger: Ledger, saved: FinishedBins | None = None) -> None:
        self.saved = saved
        self.answers: Counter[int] = Counter()
        self.scope = scope
        self._ledger = ledger
        # Of the input as it was read.
        self._identity: tuple[int, ...] = ()
        self._manifest: Manifest | None = None
        # Nothing new is kept once the run is over.
        self._ended = False
        self._guard = threading.RLock()

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the report says of the task if it is done."""
        return None if self.saved is None else self.saved.manifest.result

    def confirm(self, identity: tuple[int, ...]) -> None:
        """Take note of the input as it was read; raises InputChangedError where the finished bins are of another."""
        self._identity = identity
        if self.saved is not None and self.saved.manifest.bound_to["input"][:-1] != [*identity]:
            raise InputChangedError(path=self.scope.input)

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        """Keep bins from now on, if there are several; return what there is of those that are finished."""
        with self._guard:
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
        """Make one that is bound to the input as it was read; None where that has changed since."""
        if self._ended:
            return None
        found = self.scope.fingerprint()
        if found[:-1] != self._identity:
            return None
        bound_to = {**manifest.bound_to, "input": [*found]}
        return FinishedBins.create(self.scope.folder, replace(manifest, bound_to=bound_to))

    def answering(self, number: int, attempt: int, order_secret: bytes) -> None:
        """Have it on disk that a sender answers a bin, before the first answer leaves.

        Raises StorageError, and AnsweredTwiceError for the third time: a receiver may ask again about what it has said
        it has received.
        """
        assert self._manifest is not None
        if self.answers[number] >= MOST_ANSWERS:
            raise AnsweredTwiceError(task=self.scope.task, peer=self.scope.peer)
        self.answers[number] += 1
        if self.saved is None and not attempt:
            # The ledger's line of the task stands for the one answer there can be.
            return
        self._ledger.answer(self._manifest.partition_sid, self.scope.peer, number, self._manifest.capacities[1])
        if self.saved is not None:
            self.saved.put(number, order_secret if self._manifest.broadcast else b"")

    def received(self, number: int, order_secret: bytes) -> None:
        """Keep that the receiver needs a bin no more."""
        if self.saved is not None:
            self.saved.put(number, order_secret if self.saved.manifest.broadcast else b"", state=RECEIVED)

    def matched(self, number: int, match: Match) -> None:
        """Keep a receiver's result of a bin."""
        if self.saved is not None:
            own, _ = self.saved.manifest.capacities
            found = np.packbits(match.found).tobytes()
            self.saved.put(number, found + bytes(-(-own // 8) - len(found)) + match.bitmap)

    def answering_bitmaps(self) -> None:
        """Have it on disk that a receiver tells its peer the result, before any bit of it leaves."""
        if self.saved is not None:
            manifest = self.saved.manifest
            items = manifest.bins * manifest.capacities[1]
            self._ledger.answer(manifest.partition_sid, self.scope.peer, BITMAPS, items)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Keep that the task is done and what it came to, in case the job is not; does nothing the second time."""
        with self._guard:
            if self.result is not None:
                return
            if self.saved is None and self._manifest is not None and self.scope.possible and not self.scope.only_task:
                with suppress(PsicliError):
                    # An input that is not there any more is no longer of interest.
                    self.saved = self._create(self._manifest)
            if self.saved is not None:
                self.saved.conclude(result)

    def end(self, error: PsicliError | None) -> None:
        """Leave for the next run what it may continue from after this end of the run, and no more."""
        with self._guard:
            self._ended = True
            saved = self.saved
        if saved is None:
            return
        # The other side may still want to know that a sender is done.
        helps = saved.manifest.result is not None and not (self.scope.receives or self.scope.broadcast)
        if helps if error is None else error.code in _LASTING:
            saved.let_go()
        else:
            saved.discard()
