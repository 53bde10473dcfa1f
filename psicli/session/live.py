"""A running task, and the interface through which a session drives a task of the job."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from psicli.core.records import dataclass
from psicli.core.stages import Stages
from psicli.exchange.task_exchange import Prepared, TaskExchange
from psicli.items.partitions import Matches
from psicli.protocol.messages import Kept
from psicli.protocol.task import Progress, TaskParty


@dataclass(frozen=True)
class TaskResult:
    """The figures of one finished exchange; message_bytes: (sent, received)."""

    peer_items: int
    message_bytes: tuple[int, int]
    warning: str | None = None


class TaskPlan(Protocol):
    """A task of the job. The session calls these methods in the order in which they are listed."""

    name: str
    receives: bool
    broadcast: bool
    # Whether the receiver learns only how many items match.
    counts: bool
    # How the bins are exchanged: RR22, or empty for ECDH.
    protocol: str
    stages: Stages

    def find(self) -> Kept | None:
        """Return what an earlier run left to resume from, or None; runs in the background."""

    def settled(self, party: TaskParty) -> None:
        """Handle the decision of both parties on what to resume."""

    def skip_for(self, failure: BaseException) -> int | None:
        """Return the failure class for the peer if this party goes on without the task, else None.

        failure: why `find` or `prepare` failed; it is recorded if this party goes on.
        """

    def peer_skips(self, failure_class: int) -> None:
        """Record that the peer cannot take part in the task.

        Raises a PsicliError, as `opened` does, if this party does not go on without the task.
        """

    def prepare(self, partition_sid: bytes) -> Prepared:
        """Read the input and partition it into bins under this id; runs in the background."""

    def opening(self, party: TaskParty) -> None:
        """Record that this party opens the task, before its Open is sent.

        Raises a PsicliError to stop here, as `opened` does; then the peer does not learn this party's count.
        """

    def opened(self, party: TaskParty) -> None:
        """Check both item counts before anything is masked.

        May be called before or after `started`. Raises a PsicliError, usually a PolicyError, to stop here: the session
        then completes the earlier tasks and ends with this error.
        """

    def started(self) -> None:
        """Note that this task's exchange begins."""

    def progress(self, progress: Progress) -> None:
        """Report how far the masking has got."""

    def exchanged(self, result: TaskResult) -> None:
        """Note that the exchange is complete for both parties."""

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        """Write a result that only this party receives; runs in the background and raises nothing."""

    def finish_count(self, count: Callable[[], int]) -> None:
        """Take note of how many items match, where only this party learns that; as `finish_alone`."""

    def close(self) -> None:
        """Close the files of a task that a party has skipped."""


class LiveTask:
    """A running task of a session.

    finding, reading: the background work that looks for a checkpoint and reads the input.
    """

    def __init__(self, index: int, plan: TaskPlan, exchange: TaskExchange, finding: Future[Kept | None]) -> None:
        self.index = index
        self.plan = plan
        self.exchange = exchange
        self.finding: Future[Kept | None] | None = finding
        self.reading: Future[Prepared] | None = None
        # Whether plan.settled() was called; whether plan.opened() accepted the task.
        self.settled = self.admitted = False
        self.bytes_sent = self.bytes_received = 0
        self._begun = False

    @property
    def party(self) -> TaskParty:
        return self.exchange.party

    @property
    def on_input(self) -> Future[Any] | None:
        """The background work whose result has not been collected yet."""
        return self.finding or self.reading

    @property
    def reads(self) -> bool:
        """Whether background work on the input is still running."""
        return self.on_input is not None and not self.on_input.done()

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.plan.started()

    def matches(self) -> Matches:
        """Return the matches; if an earlier run completed the exchange, this reads the input first."""
        if self.party.completed_before:
            self.exchange.use(self.plan.prepare(self.party.partition_sid))
        return self.exchange.matches()

    def result(self, warning: str | None = None) -> TaskResult:
        return TaskResult(self.party.peer_count, (self.bytes_sent, self.bytes_received), warning)
