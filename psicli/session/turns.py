"""The schedule of a session: which tasks run, in which order, and when the next bin may begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import Frame, Offer, Skip, TaskMessage
from psicli.protocol.streams import POINTS
from psicli.protocol.task import TaskParty
from psicli.session.live import LiveTask, TaskPlan

# Tasks that run at the same time: one exchanges, one reads its input and opens, one commits its outputs.
MAX_LIVE_TASKS = 3
# Tasks that still have points to send or receive: the one that exchanges, and the next one.
MAX_TASKS_AHEAD = 2


class Turns:
    """The tasks of a session: those that run, in order, and the next one. Iterates over the running tasks."""

    def __init__(self, plans: Sequence[TaskPlan]) -> None:
        self._plans = plans
        self._live: dict[int, LiveTask] = {}
        self._started = 0
        # Offers for tasks that this party has not started yet, or Skips in their place, with their sizes [bytes].
        self._early: dict[int, tuple[Offer | Skip, int]] = {}
        # The first task that this party refuses, and why.
        self._refused: tuple[int, PsicliError] | None = None

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(list(self._live.values()))

    def get(self, index: int) -> LiveTask | None:
        return self._live.get(index)

    @property
    def first(self) -> LiveTask | None:
        """The earliest task that runs."""
        return next(iter(self._live.values()), None)

    @property
    def over(self) -> bool:
        """Whether all tasks are complete."""
        return not self._live and self._started == len(self._plans)

    # Tasks

    @property
    def next_plan(self) -> tuple[int, TaskPlan] | None:
        """The next task, if it may start while earlier ones still run.

        A one-sided result that is still being written does not delay the next task: the delay would show the peer how
        long writing takes, and so whether anything matched.
        """
        if self._refused is not None or self._started == len(self._plans):
            return None
        exchanging = sum(live.party.exchanging for live in self)
        if len(self._live) >= MAX_LIVE_TASKS or exchanging >= MAX_TASKS_AHEAD:
            return None
        return self._started, self._plans[self._started]

    def start(self, live: LiveTask) -> None:
        """Add the next task to those that run."""
        self._live[live.index] = live
        self._started += 1

    def retire(self, live: LiveTask) -> None:
        del self._live[live.index]

    def keep_early_offer(self, message: TaskMessage, size: int) -> None:
        """Keep an Offer, or a Skip, for a task that starts soon; raises PeerProtocolError for any other message."""
        ahead = message.task - self._started
        soon = 0 <= ahead < MAX_TASKS_AHEAD and message.task < len(self._plans) and message.task not in self._early
        if not (soon and isinstance(message, Offer | Skip)):
            raise PeerProtocolError(detail=f"it sent a message for task {message.task}, which is not running")
        self._early[message.task] = message, size

    def early_offer(self, index: int) -> tuple[Offer | Skip, int] | None:
        """Return and forget the Offer or Skip that arrived before its task started, or None."""
        return self._early.pop(index, None)

    # Refusals

    def refuse(self, live: LiveTask, failure: PsicliError) -> None:
        """Refuse this task and all later ones; earlier ones still run."""
        self._refused = self._refused or (live.index, failure)

    def is_refused(self, index: int) -> bool:
        return self._refused is not None and index >= self._refused[0]

    @property
    def failure(self) -> PsicliError | None:
        """Why the earliest running task was refused; None while tasks before the refused one still run."""
        if self._refused is None or self.first is None or self.first.index != self._refused[0]:
            return None
        return self._refused[1]

    # Points and bins

    def check_turn(self, message: TaskMessage) -> None:
        """Refuse points that arrive before all points of earlier tasks: they would block the connection.

        Raises PeerProtocolError.
        """
        if isinstance(message, Frame) and message.stream in POINTS:
            before = (live.party for live in self if live.index < message.task)
            if not all(party.all_points_arrived for party in before):
                raise PeerProtocolError(detail=f"it sent a frame of task {message.task} before that task's turn")

    @property
    def next_bin(self) -> LiveTask | None:
        """The task whose next bin may begin; at most two bins, of all tasks together, run at the same time."""
        for live in self:
            if not live.admitted:
                return None
            if live.party.bins.has_next:
                return live if self._may_begin_bin(live.party) else None
        return None

    def _may_begin_bin(self, party: TaskParty) -> bool:
        """Whether no bin runs, or only the latest one and this party has the same role in it.

        Two bins with different roles could deadlock: each direction of the connection would be full and wait for the
        other.
        """
        begun = [live.party for live in self if live.party.bins.begun]
        busy = [each for each in begun if each.bins.never_done]
        if not busy:
            return True
        return busy == begun[-1:] and busy[0].bins.only_latest_under_way and busy[0].receives == party.receives

    @property
    def pieces(self) -> int:
        """The number of pieces of work that are running."""
        return sum(live.exchange.pieces for live in self)

    @property
    def frames_under_way(self) -> int:
        """The number of frames that the running work will send."""
        return sum(live.exchange.frames_under_way for live in self)

    @property
    def wants_input(self) -> bool:
        """Whether the tasks can handle another message now."""
        return all(live.party.wants_input for live in self)
