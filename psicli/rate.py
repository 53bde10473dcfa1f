"""How fast the kernel is on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import pyarrow as pa

from psicli import curve

# How long each of the two operations is measured [s].
_MEASURED_SECONDS = 0.1
_FIRST_POINTS = 64
_MOST_POINTS = 16_384


@dataclass(frozen=True)
class Rate:
    """What the kernel takes on this machine for an own item and for a point of the peer's [s]."""

    own: float
    peer: float


def measure(seconds: float = _MEASURED_SECONDS) -> Rate:
    """Measure the backend in use, each operation for about so many seconds [s].

    No secret is used. Raises SelfCheckError.
    """
    scalar, sid = bytes(range(32)), bytes(32)
    points = curve.hash_and_mask(_numbered(_FIRST_POINTS), sid, scalar)
    return Rate(
        own=_seconds_each(lambda count: curve.hash_and_mask(_numbered(count), sid, scalar), seconds),
        peer=_seconds_each(lambda count: curve.mask(points * (count // _FIRST_POINTS), scalar), seconds),
    )


def _numbered(count: int) -> pa.LargeBinaryArray:
    return pa.array([b"%d" % number for number in range(count)], pa.large_binary())


def _seconds_each(work: Callable[[int], object], most: float) -> float:
    """Return what one of many costs [s]: with twice as many each time, until they fill half of the time there is."""
    count = _FIRST_POINTS
    while True:
        started = perf_counter()
        work(count)
        seconds = perf_counter() - started
        if seconds >= most / 2 or count >= _MOST_POINTS:
            return seconds / count
        count *= 2
