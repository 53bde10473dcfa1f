"""Decide, before a task's input is read, whether the task resumes from the checkpoint of an earlier run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from psicli import __version__
from psicli.config import Job, Task
from psicli.core.errors import InputMissingError, StorageError
from psicli.core.places import Url
from psicli.exchange.checkpoint import Checkpoint, Scope
from psicli.exchange.finished import DoubtfulStateError, FinishedBins
from psicli.job.meeting import task_terms
from psicli.protocol.bins import MOST_ANSWERS
from psicli.protocol.messages import COUNT, SUITE, Kept
from psicli.storage.ledger import Ledger
from psicli.storage.places.reading import sha256_of
from psicli.storage.state import state_folder, task_folder
from psicli.tables import Source

logger = logging.getLogger(__name__)


class Mode(StrEnum):
    """Whether to resume tasks: AUTO saves the finished bins of every task with more than one bin; NEVER saves none."""

    AUTO = "auto"
    NEVER = "never"


class Resume:
    """The decision whether to resume one task.

    checkpoint: the checkpoint that the exchange resumes from and adds to; a new one if the task starts over.
    done_before: the report of the earlier run that finished the task, if the peer agrees that it did.
    """

    def __init__(self, mode: Mode, job: Job, task: Task, source: Source | None, ledger: Ledger) -> None:
        self._scope = _scope(mode, job, task, source)
        self._output = task.output_path
        self._ledger = ledger
        self.checkpoint = Checkpoint(self._scope, ledger)
        self.done_before: Mapping[str, Any] | None = None

    def find(self) -> Kept | None:
        """Return what the checkpoint of an earlier run offers, or None if there is none that this run can use.

        Raises InputMissingError, InputChangedError, StorageError, CannotCreateError.
        """
        try:
            saved = FinishedBins.load(self._scope.folder)
            if saved is None:
                return None
            # Set this before the checks, so that the run releases or removes the checkpoint even if they fail.
            self.checkpoint = Checkpoint(self._scope, self._ledger, saved)
            self.checkpoint.answers = self._checked(saved)
        except DoubtfulStateError as exc:
            self._start_over(str(exc), exc.level)
            return None
        manifest, sid = saved.manifest, bytes.fromhex(saved.manifest.partition_sid)
        counts = manifest.own_count, manifest.peer_count, manifest.bins
        return Kept(sid, *counts, saved.finished, complete=manifest.result is not None)

    def settle(self, agreed: Kept | None) -> None:
        """Apply what both parties have agreed to resume from; None means that the task starts over."""
        if self.checkpoint.saved is not None and agreed is None:
            self._start_over("the other party does not resume from it")
        if agreed is not None and agreed.complete:
            self.done_before = self.checkpoint.result

    def _checked(self, saved: FinishedBins) -> Counter[int]:
        """Return how often each bin was answered.

        Raises DoubtfulStateError if this run must not resume from the checkpoint.
        """
        scope, manifest, result = self._scope, saved.manifest, saved.manifest.result
        if not scope.possible:
            raise DoubtfulStateError("this run does not resume the task")
        if manifest.bound_to["terms"] != scope.bound_to["terms"]:
            raise DoubtfulStateError("the job file or the version of psicli has changed since")
        if manifest.bound_to["input"] != [*scope.fingerprint()]:
            raise DoubtfulStateError("the input has changed since")
        if result is not None and result["output_sha256"] is not None and not self._is_in_place(result):
            raise DoubtfulStateError("the output has changed since")
        answers = self._ledger.answers(manifest.partition_sid, scope.peer)
        often = [number for number, times in answers.items() if times >= MOST_ANSWERS]
        # Otherwise the peer could ask about the same items a third time while the ledger counts one run.
        if result is None and any(scope.receives or not saved.is_received(number) for number in often):
            raise DoubtfulStateError("some of its bins were already answered twice")
        return answers

    def _is_in_place(self, result: Mapping[str, Any]) -> bool:
        assert isinstance(self._output, Path | Url)
        try:
            return bool(sha256_of(self._output) == result["output_sha256"])
        except (OSError, InputMissingError, StorageError):
            return False

    def _start_over(self, why: str, level: int = logging.INFO) -> None:
        if self.checkpoint.saved is not None:
            if self.checkpoint.saved.manifest.run_succeeded:
                # That run ended well, so nobody expects to resume it.
                level = logging.DEBUG
            self.checkpoint.saved.discard()
            self.checkpoint = Checkpoint(self._scope, self._ledger)
        text = "not resuming from the checkpoint of an earlier run: %s"
        logger.log(level, text, why, extra={"task": self._scope.task})


def _scope(mode: Mode, job: Job, task: Task, source: Source | None) -> Scope:
    """Return the scope of a task's checkpoint; source: its input, if it could be found."""
    return Scope(
        folder=task_folder(state_folder(), _name(job, task)),
        bound_to={"job": job.name, "party": job.party, "task": task.name, "terms": _terms(job, task)},
        input=source,
        peer=job.peer,
        receives=task.receiver == job.party,
        broadcast=task.broadcast_result,
        # Standard input cannot be read again, a query may give other rows, and rows on standard output cannot be
        # withdrawn. Two counts of lists that differ say more than one, so a task that counts always starts over, and
        # counts as another run.
        possible=mode is not Mode.NEVER
        and not task.input.is_copied
        and task.output_path != "-"
        and task.result != COUNT,
        # A job of one task in one bin needs no checkpoint: the next run repeats it.
        only_task=len(job.tasks) == 1,
    )


def _terms(job: Job, task: Task) -> str:
    """Return a digest of everything that must be unchanged for a run to resume a task."""
    used = [*task.input.paths, *filter(None, [task.output_path])]
    paths = [os.path.abspath(each) if isinstance(each, Path) else str(each) for each in used]
    parties = [job.party, job.peer, job.peer_tls_name, task.receiver, task.broadcast_result, task.protocol]
    reading, agreed = (task.input.dialect, task.input.query, task.output_format), task_terms(task)
    versions = agreed.forms_version, agreed.unicode_version, agreed.phone_version
    forms = [*map(str, task.forms), *agreed.key_form, *versions]
    terms = [SUITE, __version__, job.name, *parties, task.name, task.keys, *forms, *paths, *reading]
    # Without an output, its settings have no effect.
    terms.append(None if task.output_path is None else task.output.model_dump())
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()


def _name(job: Job, task: Task) -> str:
    """Return the name of the task's folder; runs side by side (--port-offset) have one each."""
    names, offset = [job.name, job.party, job.peer, task.name], job.listener.port_offset
    if offset:
        names.append(str(offset))
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
