"""Flow control: the outbox and the inbox of a link, with a window on the octets in flight.

Messages are counted. Each party tells the other how many it has read, and keeps every message that the other has not
read yet, at most one window: after a reconnect it resends those that did not arrive. Each queue also knows whether its
direction has ended. There are no locks and no clocks here; Link holds the lock.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import End, Frame, Message

# The window: the most octets that may be sent but not read. It also bounds the memory of a party that is not reading
# [bytes].
WINDOW_BYTES = 4 << 20
# The approximate overhead of a message, so that the number of very small messages is bounded too [bytes].
MESSAGE_BYTES = 512


def cost(octets: int) -> int:
    """Return how much of the window a message of this many octets takes [bytes]."""
    return octets + MESSAGE_BYTES


class Outgoing(Enum):
    """The state of our direction: OPEN first, then one of the others, which is final."""

    OPEN = auto()
    # The queued messages are sent, and then Bye.
    CLOSING = auto()
    # The queued messages are sent; the last one is Abort.
    ABORTED = auto()


class Incoming(Enum):
    """The state of the peer's direction: OPEN, LAST_MESSAGE, ENDED; or OPEN, LOST."""

    OPEN = auto()
    # The peer sent Bye or Abort.
    LAST_MESSAGE = auto()
    # The link ended after Bye or Abort.
    ENDED = auto()
    # The link ended without either.
    LOST = auto()


class Outbox:
    """The outgoing messages that the peer has not confirmed as read: first those in flight, then those that wait.

    Its length is the number of waiting messages.
    """

    def __init__(self) -> None:
        self.state = Outgoing.OPEN
        self._kept: deque[bytes] = deque()
        # The number of the first kept message; how many of them are in flight, and their cost.
        self._first = 0
        self._in_flight = 0
        self._cost = 0
        # Messages with a lower number are sent even if the link is aborted.
        self._owed = 0
        # The octets that the peer has read [bytes].
        self.confirmed = 0

    def __len__(self) -> int:
        return len(self._kept) - self._in_flight

    def put(self, octets: bytes, *, owed: bool = False) -> None:
        """Append a message; an owed one, and all before it, are sent even if the link is aborted."""
        self._kept.append(octets)
        if owed:
            self._owed = self._first + len(self._kept)

    def abort(self, octets: bytes) -> None:
        """Append an Abort, the last message."""
        self.put(octets)
        self.state = Outgoing.ABORTED

    def close(self) -> None:
        """End the direction with Bye after the queued messages, unless it already ends with Abort."""
        if self.state is Outgoing.OPEN:
            self.state = Outgoing.CLOSING

    def take(self, *, freely: bool) -> bytes | None:
        """Return the next message to send; None if there is none, or if the window has no room and freely is false."""
        if not len(self):
            return None
        octets = self._kept[self._in_flight]
        if not freely and self._in_flight and self._cost + cost(len(octets)) > WINDOW_BYTES:
            return None
        self._in_flight += 1
        self._cost += cost(len(octets))
        return octets

    def confirm(self, messages: int) -> None:
        """Forget messages that the peer has read; messages: their total number since the beginning.

        Raises PeerProtocolError if that is more than was sent, or less than before.
        """
        self._check(messages)
        for _ in range(messages - self._first):
            octets = len(self._kept.popleft())
            self._cost -= cost(octets)
            self.confirmed += octets
        self._in_flight -= messages - self._first
        self._first = messages

    def resend_after(self, messages: int) -> None:
        """Send everything after this many messages again; raises PeerProtocolError like confirm."""
        self._check(messages)
        self._in_flight = messages - self._first
        self._cost = sum(cost(len(self._kept[each])) for each in range(self._in_flight))

    def drop(self) -> None:
        """Drop the waiting messages that are not owed."""
        while len(self) and self._first + len(self._kept) > self._owed:
            self._kept.pop()

    def _check(self, messages: int) -> None:
        if not 0 <= messages - self._first <= self._in_flight:
            raise PeerProtocolError(detail="it confirmed an impossible number of messages")


class Inbox:
    """The messages that have arrived and wait to be read, in order.

    An error in the queue stands for octets that are not a valid message. Its length is the number of waiting messages.
    """

    def __init__(self) -> None:
        self.state = Incoming.OPEN
        self.arrived = 0
        self._waiting: deque[tuple[Message | PsicliError, int]] = deque()
        # How much of the window the waiting messages take [bytes].
        self._cost = 0
        # How many messages were read; the cost of those not confirmed to the peer yet [bytes].
        self._read = 0
        self._unconfirmed_cost = 0
        # Tasks whose frames were dropped when the link ended.
        self._dropped: set[int] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ended(self) -> bool:
        return self.state in (Incoming.ENDED, Incoming.LOST)

    @property
    def has_last_message(self) -> bool:
        """Whether the peer has sent its last message."""
        return self.state in (Incoming.LAST_MESSAGE, Incoming.ENDED)

    @property
    def dropped_frames(self) -> bool:
        """Whether frames were dropped when the link ended."""
        return bool(self._dropped)

    @property
    def full(self) -> bool:
        """Whether reading must stop; a peer that respects the window never fills the inbox."""
        return self._cost >= 2 * WINDOW_BYTES

    @property
    def must_confirm(self) -> bool:
        """Whether a confirmation (Taken) to the peer is due."""
        return self._unconfirmed_cost >= WINDOW_BYTES // 4

    def put(self, message: Message | PsicliError, octets: int) -> None:
        """Append what has arrived, unless it would never be read."""
        self.arrived += 1
        if self._closed:
            self._note_read(octets)
        elif self.ended and isinstance(message, Frame | End):
            self._dropped.add(message.task)
        elif not (self.ended and self._is_dropped(message)):
            self._waiting.append((message, octets))
            self._cost += cost(octets)

    def pop(self) -> tuple[Message | PsicliError, int]:
        """Remove and return the next message and its size [bytes]."""
        message, octets = self._waiting.popleft()
        self._cost -= cost(octets)
        self._note_read(octets)
        return message, octets

    def confirmation(self) -> int:
        """Return how many messages were read, to confirm them to the peer."""
        self._unconfirmed_cost = 0
        return self._read

    def confirm_again(self) -> None:
        """Make a confirmation due, because the last one may not have arrived."""
        self._unconfirmed_cost = WINDOW_BYTES

    def note_last_message(self) -> None:
        if self.state is Incoming.OPEN:
            self.state = Incoming.LAST_MESSAGE

    def close(self) -> None:
        """Stop reading: drop the waiting messages and all that arrive later."""
        self._closed = True
        while self._waiting:
            self.pop()

    def end(self) -> None:
        """End the direction; drop frames, which are useless now, and all later messages of their tasks."""
        self.state = Incoming.ENDED if self.has_last_message else Incoming.LOST
        self._dropped = {message.task for message, _ in self._waiting if isinstance(message, Frame | End)}
        self._waiting = deque(each for each in self._waiting if not self._is_dropped(each[0]))

    def _note_read(self, octets: int) -> None:
        self._read += 1
        self._unconfirmed_cost += cost(octets)

    def _is_dropped(self, message: Message | PsicliError) -> bool:
        return getattr(message, "task", None) in self._dropped
