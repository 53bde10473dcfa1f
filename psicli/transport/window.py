"""What one side may send ahead of the other, and what it keeps to send again: counts and bytes, nothing else.

Every message has a number. The other side says how many it has read; so much more may be on its way at a time, and
what is on its way is kept, since a new stream goes on where the one that broke has stopped arriving. No lock, no clock.
"""

from __future__ import annotations

from collections import deque

from psicli.core.errors import PeerProtocolError

# What may be on its way unread: it also bounds what a side that does not read has to hold [bytes].
WINDOW_BYTES = 4 << 20
# What a message takes beside its octets, about; so that very small ones are bounded too [bytes].
MESSAGE_BYTES = 512


def cost(octets: int) -> int:
    """Return what a message of so many octets takes of the window [bytes]."""
    return octets + MESSAGE_BYTES


class Outbox:
    """Messages that are not known to have been read, in order: first those on their way, then those that wait.

    Its length is the number of those that wait.
    """

    def __init__(self) -> None:
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
