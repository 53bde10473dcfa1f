"""A task under way, and what a session needs of a task."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from psicli.core.stages import Stages
from psicli.exchange.task_exchange import Prepared, TaskExchange
from psicli.items.partitions import Matches
from psicli.protocol.messages import Kept
from psicli.protocol.task import Progress, TaskParty


@dataclass(frozen=True)
class TaskResult:
    """What one task's exchange came to; message_bytes: sent and received."""

    peer_items: int
    message_bytes: tuple[int, int]
    warning: str | None = None


class TaskPlan(Protocol):
    """A task as the job sees it. The session calls, in this order:"""

    name: str
    receives: bool
    broadcast: bool
    stages: Stages

    def find(self) -> Kept | None:
        """Return what the task could continue from; runs in the background."""

    def settled(self, party: TaskParty) -> None:
        """Take note of what both sides have decided to continue from."""

    def prepare(self, partition_sid: bytes) -> Prepared:
        """Read the input and cut it into bins under this id; runs in the background."""

    def opened(self, party: TaskParty) -> None:
        """Decide whether to go on, now that both numbers are known; nothing has been masked yet.

        Before or after `started`. Raises a PsicliError, PolicyError above all, to end the session when the tasks
        before are through.
        """

    def started(self) -> None:
        """Take note that it is this task's turn."""

    def progress(self, progress: Progress) -> None:
        """Take note how far the masking is."""

    def exchanged(self, result: TaskResult) -> None:
        """Take note that both sides are through with it."""

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        """Write a one-sided result: the peer is told nothing any more. Runs in the background, raises nothing."""


class LiveTask:
    """A task under way in a session. finding, reading: the work on its input, in the background."""

    def __init__(self, index: int, plan: TaskPlan, exchange: TaskExchange, finding: Future[Kept | None]) -> None:
        self.index = index
        self.plan = plan
        self.exchange = exchange
        self.finding: Future[Kept | None] | None = finding
        self.reading: Future[Prepared] | None = None
        # Whether the plan knows of the decision on the offers, and lets the task go on that both have opened.
        self.settled = self.admitted = False
        self.bytes_sent = self.bytes_received = 0
        self._begun = False

    @property
    def party(self) -> TaskParty:
        return self.exchange.party

    @property
    def on_input(self) -> Future[Any] | None:
        """The work on its input that has not been taken up."""
        return self.finding or self.reading

    @property
    def reads(self) -> bool:
        """Whether its input is being worked on."""
        return self.on_input is not None and not self.on_input.done()

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.plan.started()

    def matches(self) -> Matches:
        """Return the result; the input is read now where an earlier run had all of the exchange."""
        if self.party.over_before:
            self.exchange.use(self.plan.prepare(self.party.partition_sid))
        return self.exchange.matches()

    def result(self, warning: str | None = None) -> TaskResult:
        return TaskResult(self.party.peer_count, (self.bytes_sent, self.bytes_received), warning)
