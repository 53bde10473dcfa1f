"""Whose turn it is: the tasks of a session in their order, and their bins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psicli.core.errors import PeerProtocolError, PsicliError
from psicli.protocol.messages import Frame, Offer, Stream, TaskMessage
from psicli.protocol.task import TaskParty
from psicli.session.live import LiveTask, TaskPlan

# Tasks under way with the peer at a time: one exchanges, one is read and opened, one commits its outputs.
MAX_LIVE_TASKS = 3
# Tasks whose points are not through: the one that exchanges, and the next one.
MAX_TASKS_AHEAD = 2
_POINTS = (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS)


class Turns:
    """The tasks of a session: those under way, in order, and which is next. Iterates over those under way."""

    def __init__(self, plans: Sequence[TaskPlan]) -> None:
        self._plans = plans
        self._live: dict[int, LiveTask] = {}
        self._started = 0
        # Offers of tasks that this side has not started, with their sizes [bytes].
        self._early: dict[int, tuple[Offer, int]] = {}
        # The first task this side does not go on with, and why.
        self._refused: tuple[int, PsicliError] | None = None

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(list(self._live.values()))

    def get(self, index: int) -> LiveTask | None:
        return self._live.get(index)

    @property
    def first(self) -> LiveTask | None:
        """The task whose turn it is."""
        return next(iter(self._live.values()), None)

    @property
    def over(self) -> bool:
        """Whether no task is under way, and none is left."""
        return not self._live and self._started == len(self._plans)

    # Tasks

    @property
    def next_plan(self) -> tuple[int, TaskPlan] | None:
        """The next task, where it may be started ahead of the one that exchanges.

        One-sided results that are still being written do not count: the peer could see in the pace of our messages how
        long that takes, and so whether anything matched.
        """
        if self._refused is not None or self._started == len(self._plans):
            return None
        exchanging = sum(live.party.exchanging for live in self)
        if len(self._live) >= MAX_LIVE_TASKS or exchanging >= MAX_TASKS_AHEAD:
            return None
        return self._started, self._plans[self._started]

    def start(self, live: LiveTask) -> None:
        """Let the next task be under way."""
        self._live[live.index] = live
        self._started += 1

    def retire(self, live: LiveTask) -> None:
        del self._live[live.index]

    def keep_early(self, message: TaskMessage, size: int) -> None:
        """Keep an Offer of a task that is soon to be started; raises PeerProtocolError for anything else."""
        ahead = message.task - self._started
        soon = 0 <= ahead < MAX_TASKS_AHEAD and message.task < len(self._plans) and message.task not in self._early
        if not (soon and isinstance(message, Offer)):
            raise PeerProtocolError(detail=f"a message about task number {message.task}, which is not under way")
        self._early[message.task] = message, size

    def early_offer(self, index: int) -> tuple[Offer, int] | None:
        """Hand over the Offer that came before its task was started, if one did."""
        return self._early.pop(index, None)

    # Refusals

    def refuse(self, live: LiveTask, failure: PsicliError) -> None:
        """Go on with the tasks before this one only."""
        self._refused = self._refused or (live.index, failure)

    def is_refused(self, index: int) -> bool:
        return self._refused is not None and index >= self._refused[0]

    @property
    def failure(self) -> PsicliError | None:
        """Why the task whose turn it is does not go on; those before it were not to blame for it."""
        if self._refused is None or self.first is None or self.first.index != self._refused[0]:
            return None
        return self._refused[1]

    # Points and bins

    def check_turn(self, message: TaskMessage) -> None:
        """Refuse points before all points of the tasks before: they would have to wait, and all behind them."""
        if isinstance(message, Frame) and message.stream in _POINTS:
            before = (live.party for live in self if live.index < message.task)
            if not all(party.all_points_arrived for party in before):
                raise PeerProtocolError(detail=f"a frame of task number {message.task}, whose turn has not come")

    @property
    def next_bin(self) -> LiveTask | None:
        """The task whose next bin may begin: two are under way at a time, in order, over all tasks."""
        for live in self:
            if not live.admitted:
                return None
            if live.party.bins.has_next:
                return live if self._may_begin_bin(live.party) else None
        return None

    def _may_begin_bin(self, party: TaskParty) -> bool:
        """Whether no bin is under way but the one that began last, in which this side plays the same role.

        Never two in which it plays different roles: two full directions could wait for each other.
        """
        begun = [live.party for live in self if live.party.bins.begun]
        busy = [each for each in begun if each.bins.never_through]
        if not busy:
            return True
        return busy == begun[-1:] and busy[0].bins.only_latest_under_way and busy[0].receives == party.receives

    @property
    def pieces(self) -> int:
        """Pieces of work under way."""
        return sum(live.exchange.pieces for live in self)

    @property
    def frames_under_way(self) -> int:
        """How many frames the work under way will send."""
        return sum(live.exchange.frames_under_way for live in self)

    @property
    def wants_input(self) -> bool:
        """Whether another message may be taken in now."""
        return all(live.party.wants_input for live in self)
