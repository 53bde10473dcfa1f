"""Who is served, who waits and who must go, while anybody may connect.

A guest, which is a connection that was accepted, is silent until its first octets arrive. Then it is ready, and waits
for its turn. Then it is served, until it is admitted or leaves; an admitted guest is the peer's, and counts no longer.
The number of silent, ready and served guests is limited. While others wait, the oldest guests have to go: a silent one
soon, because a dialer speaks as soon as it is connected, and a served one after a few round trips. If nobody has to go
yet, no more connections are accepted. They queue in the kernel, so everybody has a turn, in the order of arrival.

Nothing here knows sockets or reads a clock.
"""

from __future__ import annotations

import resource
from typing import Generic, TypeVar

# A guest that makes no progress for this long has to go, even if nobody else waits [s].
LONGEST_STAY = 20.0
# While others wait: how long a guest may be silent, and how long it may be served without progress [s].
SILENT_STAY = 0.25
SERVED_STAY = 0.4
# How many connections are accepted, and how many guests are served, at most [per second, and at once].
ACCEPTED = (500.0, 64.0)
SERVED = (250.0, 32.0)

# How much of an accepted connection one counts that had ended before: it costs little.
_GONE = 0.1
# How long a guest may take to read our last octets [s].
LEAVING_STAY = 1.0

# Half of this number of descriptors is for guests, the others for the run. A served guest takes up to three: for its
# connection, and for the two ends of the one to gRPC.
_MOST_DESCRIPTORS = 1024
# More descriptors than this are of no use to a run.
_ENOUGH_DESCRIPTORS = 1 << 16

T = TypeVar("T")


def descriptors() -> int:
    """Raise this process's limit of open files as far as the system lets it, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


class _Group(Generic[T]):
    """Guests of one kind: at most so many, the oldest first; how long each may stay when others wait, and at most."""

    def __init__(self, most: int, stay: float, longest: float = LONGEST_STAY) -> None:
        self.stay, self.longest = stay, longest
        self.since: dict[T, float] = {}
        self._most = most

    def put(self, guest: T, now: float) -> None:
        self.since[guest] = now

    @property
    def full(self) -> bool:
        return len(self.since) >= self._most

    @property
    def oldest(self) -> T:
        return next(iter(self.since))


class Rate:
    """Allows a number of events per second, and a number of them at once."""

    def __init__(self, per_second: float, at_once: float) -> None:
        self._per_second, self._most = per_second, at_once
        self._left, self._at = at_once, 0.0

    def wait(self, now: float) -> float:
        """Return how long to wait for the next event [s]."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._per_second)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._per_second)

    def take(self, events: float = 1.0) -> None:
        self._left -= events


class Admission(Generic[T]):
    """The guests that are not admitted, each with the time of its last progress [s]."""

    def __init__(self, limit: int) -> None:
        """limit: how many files this process may open."""
        unit = max(1, min(limit, _MOST_DESCRIPTORS) // 64)
        self._silent, self._ready = _Group[T](8 * unit, SILENT_STAY), _Group[T](5 * unit, LONGEST_STAY)
        self._served, self._leaving = _Group[T](5 * unit, SERVED_STAY), _Group[T](4 * unit, 0.0, LEAVING_STAY)
        self._groups = self._silent, self._ready, self._served, self._leaving
        self._accepting, self._serving = Rate(*ACCEPTED), Rate(*SERVED)

    @property
    def has_room(self) -> bool:
        """Whether another connection may be accepted, as soon as `accepts` says that it is not too early."""
        return not self._silent.full and not self._ready.full

    def accepts(self, now: float) -> bool:
        """Return whether another connection may be accepted now, and count it."""
        if not self.has_room or self._accepting.wait(now):
            return False
        self._accepting.take()
        return True

    def was_gone(self) -> None:
        """Note that the connection that was just accepted had ended before: such ones may be accepted faster."""
        self._accepting.take(_GONE - 1.0)

    def come(self, guest: T, now: float) -> None:
        """Add a connection that was accepted."""
        self._silent.put(guest, now)

    def speak(self, guest: T, now: float) -> None:
        """Note that the first octets of a guest have arrived."""
        self._move(guest, self._ready, now)

    def serve(self, now: float) -> T | None:
        """Return the next guest to be served, if any."""
        if not self._ready.since or self._served.full or self._serving.wait(now):
            return None
        self._serving.take()
        guest = self._ready.oldest
        self._move(guest, self._served, now)
        return guest

    def renew(self, guest: T, now: float) -> None:
        """Note progress of a served guest, or that one that was admitted is no longer the peer's."""
        self._move(guest, self._served, now)

    def dismiss(self, guest: T, now: float) -> None:
        """Note that a guest only has to read our last octets."""
        self._move(guest, self._leaving, now)

    def forget(self, guest: T) -> None:
        """Forget a guest that was admitted or has gone."""
        for each in self._groups:
            each.since.pop(guest, None)

    def _move(self, guest: T, group: _Group[T], now: float) -> None:
        self.forget(guest)
        group.put(guest, now)

    @property
    def others_are_ready(self) -> bool:
        """Whether guests wait to be served."""
        return bool(self._ready.since)

    def overdue(self, now: float, *, others_wait: bool) -> T | None:
        """Return a guest that has to go, if any. others_wait: whether connections wait to be accepted."""
        for group, stay in self._stays(others_wait):
            if group.since and now - group.since[group.oldest] >= stay:
                return group.oldest
        return None

    def wait(self, now: float, *, others_wait: bool) -> float:
        """Return for how long there is nothing to do, unless something arrives [s]."""
        stays = self._stays(others_wait)
        waits = [group.since[group.oldest] + stay - now for group, stay in stays if group.since]
        if self._ready.since and not self._served.full:
            waits.append(self._serving.wait(now))
        if others_wait and self.has_room:
            waits.append(self._accepting.wait(now))
        return max(0.0, min(waits, default=LONGEST_STAY))

    def _stays(self, others_wait: bool) -> list[tuple[_Group[T], float]]:
        """Return the groups, each with how long a guest may stay in it now [s]."""
        crowded = {
            self._silent: others_wait and self._silent.full,
            self._served: bool(self._ready.since) and self._served.full,
            self._leaving: self._leaving.full,
        }
        return [(each, each.stay if crowded.get(each) else each.longest) for each in self._groups]
