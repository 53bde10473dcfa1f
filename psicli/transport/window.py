"""The two queues of a link, one for each direction: what may be sent ahead, what is kept to send again, what waits.

Every message has a number. The other side says how many it has read; so much more may be on its way at a time, and
what is on its way is kept, since a new stream goes on where the one that broke has stopped arriving. Each queue knows
how far its direction has come to its end. No lock, no clock.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from psicli.core.errors import PeerProtocolError, PsicliError
from psicli.protocol.messages import End, Frame, Message

# What may be on its way unread: it also bounds what a side that does not read has to hold [bytes].
WINDOW_BYTES = 4 << 20
# What a message takes beside its octets, about; so that very small ones are bounded too [bytes].
MESSAGE_BYTES = 512


def cost(octets: int) -> int:
    """Return what a message of so many octets takes of the window [bytes]."""
    return octets + MESSAGE_BYTES


class Outgoing(Enum):
    """How far our direction has come to its end: OPEN, then one of the others for good."""

    OPEN = auto()
    # What is queued goes out, and then Bye.
    CLOSING = auto()
    # What is queued goes out; the last of it is Abort.
    ABORTED = auto()


class Incoming(Enum):
    """How far the peer's direction has come to its end: OPEN, LAST_WORD, ENDED; or LOST from OPEN."""

    OPEN = auto()
    # The peer said Bye or Abort.
    LAST_WORD = auto()
    # The link ended, after the peer's last word or without one.
    ENDED = auto()
    LOST = auto()


class Outbox:
    """Messages that are not known to have been read, in order: first those on their way, then those that wait.

    Its length is the number of those that wait.
    """

    def __init__(self) -> None:
        self.state = Outgoing.OPEN
        self._kept: deque[bytes] = deque()
        # The number of the first one kept, how many of them are on their way, and what these take.
        self._first = 0
        self._under_way = 0
        self._cost = 0
        # Up to this number they go out whatever happens.
        self._owed = 0

    def __len__(self) -> int:
        return len(self._kept) - self._under_way

    def put(self, octets: bytes, *, owed: bool = False) -> None:
        """Append a message; one that is owed goes out whatever happens, and so does what stands before it."""
        self._kept.append(octets)
        if owed:
            self._owed = self._first + len(self._kept)

    def abort(self, octets: bytes) -> None:
        """Append an Abort; nothing is to come after it."""
        self.put(octets)
        self.state = Outgoing.ABORTED

    def close(self) -> None:
        """Have Bye follow what is queued, where no Abort does."""
        if self.state is Outgoing.OPEN:
            self.state = Outgoing.CLOSING

    def take(self, *, freely: bool) -> bytes | None:
        """Return the next message to send; None when there is none, or no room in the window and none to be taken."""
        if not len(self):
            return None
        octets = self._kept[self._under_way]
        if not freely and self._under_way and self._cost + cost(len(octets)) > WINDOW_BYTES:
            return None
        self._under_way += 1
        self._cost += cost(len(octets))
        return octets

    def confirm(self, messages: int) -> None:
        """Forget what was read: so many in all. Raises PeerProtocolError for more than was sent or less than before."""
        self._check(messages)
        for _ in range(messages - self._first):
            self._cost -= cost(len(self._kept.popleft()))
        self._under_way -= messages - self._first
        self._first = messages

    def go_on_after(self, messages: int) -> None:
        """Send again what came after so many of all; raises PeerProtocolError as confirm."""
        self._check(messages)
        self._under_way = messages - self._first
        self._cost = sum(cost(len(self._kept[each])) for each in range(self._under_way))

    def drop(self) -> None:
        """Drop what waits and is not owed."""
        while len(self) and self._first + len(self._kept) > self._owed:
            self._kept.pop()

    def _check(self, messages: int) -> None:
        if not 0 <= messages - self._first <= self._under_way:
            raise PeerProtocolError(detail="it speaks of messages it was never sent")


class Inbox:
    """Messages that have arrived and wait to be read, in order; a failure is what the peer sent instead of a message.

    Its length is the number of those that wait.
    """

    def __init__(self) -> None:
        self.state = Incoming.OPEN
        self.arrived = 0
        self._waiting: deque[tuple[Message | PsicliError, int]] = deque()
        # What waits takes so much of the window [bytes].
        self._cost = 0
        # Messages that were read; and what those took that the peer has not been told of [bytes].
        self._read = 0
        self._untold_cost = 0
        # Tasks whose frames were dropped when the link ended.
        self._dropped: set[int] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ended(self) -> bool:
        return self.state in (Incoming.ENDED, Incoming.LOST)

    @property
    def has_last_word(self) -> bool:
        """Whether the peer has said that it is through."""
        return self.state in (Incoming.LAST_WORD, Incoming.ENDED)

    @property
    def full(self) -> bool:
        """Whether no more is to be taken in; a peer that keeps to the window never sees it."""
        return self._cost >= 2 * WINDOW_BYTES

    @property
    def must_tell(self) -> bool:
        """Whether the peer is to be told how much was read."""
        return self._untold_cost >= WINDOW_BYTES // 4

    def put(self, message: Message | PsicliError, octets: int) -> None:
        """Append what has arrived, unless nobody will read it."""
        self.arrived += 1
        if self._closed:
            self._note_read(octets)
        elif self.ended and isinstance(message, Frame | End):
            self._dropped.add(message.task)
        elif not (self.ended and self._is_dropped(message)):
            self._waiting.append((message, octets))
            self._cost += cost(octets)

    def pop(self) -> tuple[Message | PsicliError, int]:
        """Return the next message and its size [bytes]."""
        message, octets = self._waiting.popleft()
        self._cost -= cost(octets)
        self._note_read(octets)
        return message, octets

    def tell(self) -> int:
        """Return how many messages were read, to be told to the peer."""
        self._untold_cost = 0
        return self._read

    def tell_again(self) -> None:
        """Have the peer told soon: what it was told last may not have arrived."""
        self._untold_cost = WINDOW_BYTES

    def hear_last_word(self) -> None:
        if self.state is Incoming.OPEN:
            self.state = Incoming.LAST_WORD

    def close(self) -> None:
        """Read nothing any more: what waits is dropped, and so is what comes."""
        self._closed = True
        while self._waiting:
            self.pop()

    def end(self) -> None:
        """Drop frames, which are of no use any more, and what was said after them; what else was said still counts."""
        self.state = Incoming.ENDED if self.has_last_word else Incoming.LOST
        self._dropped = {message.task for message, _ in self._waiting if isinstance(message, Frame | End)}
        self._waiting = deque(each for each in self._waiting if not self._is_dropped(each[0]))

    def _note_read(self, octets: int) -> None:
        self._read += 1
        self._untold_cost += cost(octets)

    def _is_dropped(self, message: Message | PsicliError) -> bool:
        return getattr(message, "task", None) in self._dropped
