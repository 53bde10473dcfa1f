"""Whether a task goes on from what an earlier run has left, and whether this run leaves something to go on from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from psicli import __version__, curve
from psicli.checkpoint import Checkpoint, DoubtfulCheckpointError, Facts, remove
from psicli.config import Job, Task
from psicli.errors import InputChangedError, PsicliError
from psicli.files import sha256_of
from psicli.items import OrderedItems
from psicli.pipeline import Output
from psicli.protocol import SUITE, History, TaskParty
from psicli.rate import Rate, measure
from psicli.spool import in_units
from psicli.state import TaskFolder, task_folder, task_folders
from psicli.tables import Fingerprint, fingerprint

logger = logging.getLogger(__name__)

# With `auto` less work than that is done again: a fresh scalar is the safest resume [s].
WORTH_SECONDS = 60.0
# A task that keeps this side busy for so long keeps a checkpoint: the other side's machine may be the slower one, and
# both must have one [s].
KEPT_SECONDS = WORTH_SECONDS / 4
# How long either operation of the kernel is measured for that [s].
_MEASURED_SECONDS = 0.01
# Fewer items than that, both sides together, are masked sooner by any backend [items].
_NEVER_WORTH = 20_000
# What a checkpoint takes on the disk for an own item and for one of the peer's: two points, a product, a token [bytes].
_OWN_BYTES, _PEER_BYTES = curve.POINT_BYTES + curve.TOKEN_BYTES, 2 * curve.POINT_BYTES
# After these a run is worth another try with the same secrets; all others end them.
_LASTING = {69, 73, 74, 75, 80, 130, 143}
# Own points that are made once more, to see that secrets and items are those they were made of [items].
_REMADE = 64


class Mode(StrEnum):
    """When to resume: AUTO where more than a minute of work would be saved."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


class Resumer:
    """What the tasks of one run share for resuming: the mode, how fast this machine is, and what it has done so far."""

    def __init__(self, mode: Mode, state: Path) -> None:
        self.mode = mode
        self.state = state
        self._rate: Rate | None = None
        self._began = time.monotonic()
        # Results that have not been kept yet.
        self._waiting: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    def keep_result(self, keep: Callable[[], None]) -> None:
        """Keep that a task is through, with those before it, as soon as they were work worth being saved."""
        with self._guard:
            self._waiting.append(keep)
            if self.mode is not Mode.ALWAYS and time.monotonic() - self._began < WORTH_SECONDS:
                return
            due, self._waiting = self._waiting, []
        for each in due:
            each()

    def seconds(self, own: int, peer: int) -> float:
        """Return about how long it takes to mask so many own items and points of the peer's [s]."""
        if own + peer < _NEVER_WORTH:
            return 0.0
        self._rate = self._rate or measure(_MEASURED_SECONDS)
        return self._rate.own * own + self._rate.peer * peer

    def keeps(self, own: int, peer: int) -> bool:
        """Tell whether a task of so many items keeps a checkpoint."""
        return self.mode is Mode.ALWAYS or (self.mode is Mode.AUTO and self.seconds(own, peer) >= KEPT_SECONDS)

    def goes_on(self, spent: float) -> bool:
        """Tell whether work that took so long is worth being saved [s]; it took about as long on both sides."""
        return self.mode is Mode.ALWAYS or (self.mode is Mode.AUTO and spent >= WORTH_SECONDS)


def sweep(state: Path) -> list[Path]:
    """Remove checkpoints that are too old or damaged, where no run has them, and return their folders.

    Raises CannotCreateError, StorageError.
    """
    removed = []
    for folder in task_folders(state):
        try:
            Checkpoint.look(folder)
        except DoubtfulCheckpointError as exc:
            held = TaskFolder.hold(folder)
            if held is not None:
                remove(held)
                logger.info("what an earlier run has left in %s is removed: %s", folder, exc)
                removed.append(folder)
    return removed


def kept(state: Path) -> list[dict[str, Any]]:
    """Return what there is to go on from: folder, job, party, task, since when, how much is done, from 0 to 1."""
    found = []
    for folder in task_folders(state):
        with suppress(DoubtfulCheckpointError):
            facts = Checkpoint.look(folder)
            items = facts.own_count + facts.peer_count
            since = datetime.fromtimestamp(facts.created, UTC).isoformat(timespec="seconds")
            names = {name: facts.bound_to[name] for name in ("job", "party", "task")}
            share = round(sum(facts.masked) / items, 3) if items else 1.0
            found.append({"folder": str(folder), **names, "since": since, "done": share})
    return found


class NotRead:
    """The items of a task that an earlier run is through with: so many, and none of them at hand."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class TaskKeeper:
    """The checkpoint of one task: the one it goes on from, or the one it leaves.

    prepare: reads the input under the order secret there is then, and returns items and output. describe: says what a
    task came to that is through, or None if that is not to be kept.
    """

    def __init__(
        self,
        resumer: Resumer,
        job: Job,
        task: Task,
        prepare: Callable[[], tuple[Any, Output | None]],
        describe: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self._resumer = resumer
        self._names = {"job": job.name, "party": job.party, "task": task.name}
        self._task = task
        self._receives = task.receiver == job.party
        self._terms = _terms(job, task)
        self._folder = task_folder(resumer.state, _name(job, task))
        self._prepare = prepare
        self._describe = describe
        self._extra = {"task": task.name}
        self.checkpoint: Checkpoint | None = None
        self.history: History | None = None
        self.order_secret = b""
        # Of the input as it was read.
        self.identity: tuple[int, ...] = ()
        self._facts: Facts | None = None
        # No checkpoint is begun once the run is over.
        self._ended = False
        self._guard = threading.Lock()

    # Before the task is opened

    def find(self) -> None:
        """Take up what an earlier run has left, unless something speaks against it; else begin with a fresh secret.

        Raises InputMissingError, InputChangedError, StorageError, CannotCreateError.
        """
        self.order_secret = os.urandom(curve.ORDER_SECRET_BYTES)
        try:
            self.checkpoint = Checkpoint.load(self._folder)
        except DoubtfulCheckpointError as exc:
            self._say_unused(str(exc))
        if self.checkpoint is None:
            return
        try:
            self._check(self.checkpoint)
            self.history = self.checkpoint.history()
        except DoubtfulCheckpointError as exc:
            self._drop(str(exc))
        else:
            self.order_secret = self.checkpoint.order_secret

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise DoubtfulCheckpointError where this run cannot, or should not, go on from it."""
        facts, result = checkpoint.facts, checkpoint.facts.result
        if not self._possible:
            raise DoubtfulCheckpointError("this run is not to resume")
        if facts.bound_to["terms"] != self._terms:
            raise DoubtfulCheckpointError("the job file or psicli is another one since")
        if facts.bound_to["input"] != [*self._fingerprint()]:
            raise DoubtfulCheckpointError("the input has changed since")
        if result is not None and result["output_sha256"] is not None and not self._is_in_place(result):
            raise DoubtfulCheckpointError("the output has changed since")
        if not (checkpoint.scalar or facts.complete) or not (checkpoint.order_secret or result is not None):
            raise DoubtfulCheckpointError("a part of it is missing")
        if result is None and not self._resumer.goes_on(facts.spent):
            raise DoubtfulCheckpointError("less than a minute of work would be saved")

    @property
    def _possible(self) -> bool:
        """Whether there may be a checkpoint: standard input cannot be read again, nor standard output taken back."""
        streams = "-" in (self._task.input_path, self._task.output_path)
        return self._resumer.mode is not Mode.NEVER and not streams

    def _fingerprint(self) -> Fingerprint:
        return fingerprint(Path(self._task.input_path), str(self._task.input_path))

    def _is_in_place(self, result: Mapping[str, Any]) -> bool:
        assert self._task.output_path is not None
        try:
            return bool(sha256_of(Path(self._task.output_path)) == result["output_sha256"])
        except OSError:
            return False

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the report says of the task if an earlier run is through with it, None if it is not."""
        return self.checkpoint.facts.result if self.checkpoint is not None else None

    def confirm(self, ordered: OrderedItems) -> bool:
        """Tell whether the items are those the checkpoint is of, by file, number and a few points; else drop it."""
        if self.checkpoint is None:
            return True
        facts = self.checkpoint.facts
        same = len(ordered) == facts.own_count and facts.bound_to["input"][:-1] == [*self.identity]
        kept = next(self.checkpoint.own_points(), b"")
        if same and kept and self.checkpoint.scalar:
            sample = ordered.slice(0, min(_REMADE, len(kept) // curve.POINT_BYTES))
            points = curve.hash_and_mask(sample, bytes.fromhex(facts.task_sid), self.checkpoint.scalar)
            same = kept.startswith(points)
        if not same:
            self._drop("it does not fit the input")
        return same

    # Once it is open

    def start_over(self) -> tuple[Any, Output | None]:
        """Drop what the other side does not go on from, and read the input again under a fresh secret.

        Two lists in one order would tell the other side which of our items are in both. Raises InputChangedError too
        where the input is not the one any more whose number of items the other side has been told.
        """
        assert self.checkpoint is not None
        opened_with = self.checkpoint.facts.bound_to["input"][:-1]
        self._drop("the other side does not go on from it")
        prepared = self._prepare()
        if opened_with != [*self.identity]:
            raise InputChangedError(path=self._task.input_path)
        return prepared

    def begin(self, party: TaskParty, scalar: bytes) -> Checkpoint | None:
        """Begin a checkpoint of a task that both have opened, if it is worth the work."""
        own, peer = party.own_count, party.peer_count
        self._facts = Facts(
            bound_to={**self._names, "terms": self._terms, "input": [*self.identity]},
            created=time.time(),
            task_sid=party.task_sid.hex(),
            own_count=own,
            peer_count=peer,
            chunk_items=party.chunk_items,
            receives=self._receives,
        )
        if self._possible and self._resumer.keeps(own, peer) and self._has_room(own, peer):
            with self._guard:
                if not self._ended:
                    self.checkpoint = self._create(self._facts, scalar, self.order_secret)
        return self.checkpoint

    def _has_room(self, own: int, peer: int) -> bool:
        need = own * _OWN_BYTES + peer * _PEER_BYTES
        free = shutil.disk_usage(self._resumer.state).free
        if need > free:
            text = "no checkpoint is kept, this task could not be resumed: %s more would be needed in %s, %s are free"
            logger.warning(text, in_units(need), self._resumer.state, in_units(free), extra=self._extra)
        return need <= free

    def _create(self, facts: Facts, scalar: bytes = b"", order_secret: bytes = b"") -> Checkpoint | None:
        """Make a checkpoint that is bound to the input as it was read; None where it has changed since."""
        found = self._fingerprint()
        if found[:-1] != self.identity:
            return None
        bound_to = {**facts.bound_to, "input": [*found]}
        return Checkpoint.create(self._folder, replace(facts, bound_to=bound_to), scalar, order_secret)

    # At the end

    def conclude(self) -> None:
        """Keep that the task is through, in case the job is not, once there is enough work to be saved."""
        result = self._describe()
        if result is None or self.result is not None:
            return
        if self.checkpoint is not None:
            self.checkpoint.conclude(result)
        elif self._facts is not None and self._possible:
            self._resumer.keep_result(partial(self._keep_result, replace(self._facts, complete=True, result=result)))

    def _keep_result(self, facts: Facts) -> None:
        with suppress(PsicliError):
            # An input that is not there any more is no longer of interest.
            self.checkpoint = self._create(facts)

    def end(self, error: PsicliError | None) -> None:
        """Keep for the next run what it may go on from after this end of the run, and no more."""
        with self._guard:
            self._ended = True
            checkpoint = self.checkpoint
        if checkpoint is None:
            return
        # The other side may still want to know that a sender is through.
        helps = checkpoint.facts.complete and not (self._receives or self._task.broadcast_result)
        wanted = helps if error is None else error.code in _LASTING
        if wanted and checkpoint.usable:
            checkpoint.let_go()
        else:
            checkpoint.discard()

    def _drop(self, why: str) -> None:
        assert self.checkpoint is not None
        self.checkpoint.discard()
        self.checkpoint = self.history = None
        self.order_secret = os.urandom(curve.ORDER_SECRET_BYTES)
        self._say_unused(why)

    def _say_unused(self, why: str) -> None:
        logger.info("what an earlier run has left is not used: %s", why, extra=self._extra)


def _terms(job: Job, task: Task) -> str:
    """Return a digest of all that must be the same for a task to be the same task."""
    paths = [os.path.abspath(path) for path in (task.input_path, task.output_path) if path is not None]
    parties = [job.party, job.peer, job.other.tls_name, task.receiver, task.broadcast_result]
    terms = [SUITE, __version__, job.name, *parties, task.name, task.keys, *paths]
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()


def _name(job: Job, task: Task) -> str:
    """Return what the task's folder is called."""
    return hashlib.sha256("\0".join((job.name, job.party, job.peer, task.name)).encode()).hexdigest()[:16]
