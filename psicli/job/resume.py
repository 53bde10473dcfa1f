"""Whether a task continues from what an earlier run has left, and what this run leaves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from psicli import __version__
from psicli.config import Job, Task
from psicli.core.errors import AnsweredTwiceError, InputChangedError, PsicliError
from psicli.exchange.pipeline import Keeper
from psicli.exchange.worker import Match
from psicli.job.finished import RECEIVED, DoubtfulStateError, Facts, FinishedBins, look, read_slots
from psicli.protocol.bins import MOST_ANSWERS
from psicli.protocol.messages import SUITE, Kept
from psicli.protocol.task import TaskParty
from psicli.storage.files import sha256_of
from psicli.storage.ledger import Ledger
from psicli.storage.state import TaskFolder, state_folder, task_folder, task_folders
from psicli.tables import Fingerprint, fingerprint

logger = logging.getLogger(__name__)

# After these a run is worth another try from where it stopped; all others end what was kept.
_LASTING = {69, 73, 74, 75, 80, 130, 143}
# Stands for the bitmaps of a task in the ledger's count of answers.
BITMAPS = -1


class Mode(StrEnum):
    """When to resume: AUTO keeps the finished bins of every task of more than one bin."""

    AUTO = "auto"
    NEVER = "never"


def sweep(state: Path) -> list[Path]:
    """Remove what is too old or damaged, where no run has it, and return the folders.

    Raises CannotCreateError, StorageError.
    """
    removed = []
    for folder in task_folders(state):
        try:
            look(folder)
        except DoubtfulStateError as exc:
            if held := TaskFolder.hold(folder):
                held.remove()
                logger.info("what an earlier run has left in %s is removed: %s", folder, exc)
                removed.append(folder)
    return removed


def kept(state: Path) -> list[dict[str, Any]]:
    """Return what there is to continue from: folder, job, party, task, since when, how many bins of how many."""
    found = []
    for folder in task_folders(state):
        with suppress(DoubtfulStateError):
            facts = look(folder)
            finished = facts.bins if facts.result is not None else len(read_slots(folder, facts))
            since = datetime.fromtimestamp(facts.created, UTC).isoformat(timespec="seconds")
            names = {name: facts.bound_to[name] for name in ("job", "party", "task")}
            share = round(finished / facts.bins, 3) if facts.bins else 1.0
            bins = {"done": share, "bins": facts.bins, "finished_bins": finished}
            found.append({"folder": str(folder), **names, "since": since, **bins})
    return found


class TaskKeeper(Keeper):
    """What one task continues from, and what it leaves.

    describe: says what a task came to that is done, or None if that is not to be kept. For any thread.
    """

    def __init__(
        self, mode: Mode, job: Job, task: Task, ledger: Ledger, describe: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        self._bound_to = {"job": job.name, "party": job.party, "task": task.name, "terms": _terms(job, task)}
        self._task = task
        self._peer = job.peer
        # Standard input cannot be read again, nor standard output taken back.
        self._possible = mode is not Mode.NEVER and "-" not in (task.input_path, task.output_path)
        # A single task in a single bin is simply run again.
        self._only_task = len(job.tasks) == 1
        self._receives = task.receiver == job.party
        self._folder = task_folder(state_folder(), _name(job, task))
        self._ledger = ledger
        self._describe = describe
        # Of the input as it was read.
        self._identity: tuple[int, ...] = ()
        self._kept: FinishedBins | None = None
        self._facts: Facts | None = None
        # How often each bin was answered, in this run and in those it continues.
        self._answers: Counter[int] = Counter()
        # Nothing new is kept once the run is over.
        self._ended = False
        self._guard = threading.RLock()

    # Before the task is opened

    def find(self) -> Kept | None:
        """Return what an earlier run has left, unless something speaks against it.

        Raises InputMissingError, InputChangedError, StorageError, CannotCreateError.
        """
        try:
            self._kept = FinishedBins.load(self._folder)
            if self._kept is None:
                return None
            self._check(self._kept)
        except DoubtfulStateError as exc:
            self._drop(str(exc))
            return None
        facts, finished = self._kept.facts, self._kept.finished
        sid = bytes.fromhex(facts.partition_sid)
        return Kept(sid, facts.own_count, facts.peer_count, facts.bins, finished, facts.result is not None)

    def _check(self, kept: FinishedBins) -> None:
        """Raise DoubtfulStateError where this run cannot, or should not, continue from it."""
        facts, result = kept.facts, kept.facts.result
        if not self._possible:
            raise DoubtfulStateError("this run is not to resume")
        if facts.bound_to["terms"] != self._bound_to["terms"]:
            raise DoubtfulStateError("the job file or psicli is another one since")
        if facts.bound_to["input"] != [*self._fingerprint()]:
            raise DoubtfulStateError("the input has changed since")
        if result is not None and result["output_sha256"] is not None and not self._is_in_place(result):
            raise DoubtfulStateError("the output has changed since")
        self._answers = self._ledger.answers(facts.partition_sid, self._peer)
        often = [number for number, times in self._answers.items() if times >= MOST_ANSWERS]
        # Else the peer could ask about the same items for a third time under one run of the ledger.
        if result is None and any(self._receives or not kept.is_received(number) for number in often):
            raise DoubtfulStateError("some of it was answered twice already")

    def _fingerprint(self) -> Fingerprint:
        return fingerprint(Path(self._task.input_path), str(self._task.input_path))

    def _is_in_place(self, result: Mapping[str, Any]) -> bool:
        assert self._task.output_path is not None
        try:
            return bool(sha256_of(Path(self._task.output_path)) == result["output_sha256"])
        except OSError:
            return False

    def settle(self, *, resumed: bool) -> None:
        """Take note of what both sides have decided."""
        if self._kept is not None and not resumed:
            self._drop("the other side does not continue from it")

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the report says of the task if an earlier run is done with it."""
        return None if self._kept is None else self._kept.facts.result

    def confirm(self, identity: tuple[int, ...]) -> None:
        """Take note of the input as it was read; raises InputChangedError where bins of another one are kept."""
        self._identity = identity
        if self._kept is not None and self._kept.facts.bound_to["input"][:-1] != [*identity]:
            raise InputChangedError(path=self._task.input_path)

    # Once it is open

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        """Keep bins from now on, if there are several; return what is kept of those that are finished."""
        with self._guard:
            self._facts = Facts(
                bound_to={**self._bound_to, "input": [*self._identity]},
                created=time.time(),
                partition_sid=party.partition_sid.hex(),
                own_count=party.own_count,
                peer_count=party.peer_count,
                bins=party.number_of_bins,
                receives=self._receives,
                broadcast=party.broadcast,
            )
            if self._kept is not None:
                return self._kept.data()
            if self._possible and party.number_of_bins > 1:
                self._kept = self._create(self._facts)
            return {}

    def answering(self, number: int, attempt: int, order_secret: bytes) -> None:
        """Have it on disk that a sender answers a bin, before the first answer leaves.

        Raises StorageError, and AnsweredTwiceError for the third time: a receiver may ask again about what it has said
        it has received.
        """
        assert self._facts is not None
        if self._answers[number] >= MOST_ANSWERS:
            raise AnsweredTwiceError(task=self._task.name, peer=self._peer)
        self._answers[number] += 1
        if self._kept is None and not attempt:
            # The ledger's line of the task stands for the one answer there can be.
            return
        self._ledger.answer(self._facts.partition_sid, self._peer, number, self._facts.capacities[1])
        if self._kept is not None:
            self._kept.put(number, order_secret if self._facts.broadcast else b"")

    def received(self, number: int, order_secret: bytes) -> None:
        """Keep that the receiver needs a bin no more."""
        if self._kept is not None:
            self._kept.put(number, order_secret if self._kept.facts.broadcast else b"", state=RECEIVED)

    def matched(self, number: int, match: Match) -> None:
        """Keep a receiver's result of a bin."""
        if self._kept is not None:
            own, _ = self._kept.facts.capacities
            found = np.packbits(match.found).tobytes()
            self._kept.put(number, found + bytes(-(-own // 8) - len(found)) + match.bitmap)

    def answering_bitmaps(self) -> None:
        """Have it on disk that a receiver tells its peer the result, before any bit of it leaves."""
        if self._kept is not None:
            facts = self._kept.facts
            self._ledger.answer(facts.partition_sid, self._peer, BITMAPS, facts.bins * facts.capacities[1])

    def _create(self, facts: Facts) -> FinishedBins | None:
        """Keep something that is bound to the input as it was read; None where it has changed since."""
        if self._ended:
            return None
        found = self._fingerprint()
        if found[:-1] != self._identity:
            return None
        return FinishedBins.create(self._folder, replace(facts, bound_to={**facts.bound_to, "input": [*found]}))

    # At the end

    def conclude(self) -> None:
        """Keep that the task is done, in case the job is not."""
        result = self._describe()
        with self._guard:
            if result is None or self.result is not None:
                return
            if self._kept is None and self._facts is not None and self._possible and not self._only_task:
                with suppress(PsicliError):
                    # An input that is not there any more is no longer of interest.
                    self._kept = self._create(self._facts)
            if self._kept is not None:
                self._kept.conclude(result)

    def end(self, error: PsicliError | None) -> None:
        """Leave for the next run what it may continue from after this end of the run, and no more."""
        with self._guard:
            self._ended = True
            kept = self._kept
        if kept is None:
            return
        # The other side may still want to know that a sender is done.
        helps = kept.facts.result is not None and not (self._receives or self._task.broadcast_result)
        if helps if error is None else error.code in _LASTING:
            kept.let_go()
        else:
            kept.discard()

    def _drop(self, why: str) -> None:
        if self._kept is not None:
            self._kept.discard()
            self._kept = None
            self._answers.clear()
        logger.info("what an earlier run has left is not used: %s", why, extra={"task": self._task.name})


def _terms(job: Job, task: Task) -> str:
    """Return a digest of all that must be the same for a task to be the same task."""
    paths = [os.path.abspath(path) for path in (task.input_path, task.output_path) if path is not None]
    parties = [job.party, job.peer, job.peer_tls_name, task.receiver, task.broadcast_result]
    terms = [SUITE, __version__, job.name, *parties, task.name, task.keys, *paths]
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()


def _name(job: Job, task: Task) -> str:
    """Return what the task's folder is called."""
    return hashlib.sha256("\0".join((job.name, job.party, job.peer, task.name)).encode()).hexdigest()[:16]
