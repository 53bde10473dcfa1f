"""The threads that compute: a large call is cut into parts, and a pool works on them.

The parts are pure computation without the GIL. There is one pool in a process, made when it is first needed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

from psicli.core import trace

# What a part holds is a multiple of this, so that no lane and no shared inversion is left half empty [items].
PART_STEP = 256
# A call below this is through before another thread has begun [items].
WORTH_SHARING = 512
# More parts than threads, so that a thread whose core is taken away holds up the others little.
PARTS_A_THREAD = 4

T = TypeVar("T")

_wanted: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many threads compute; None stands for every core this process may use. Not while a call is under way."""
    global _wanted
    _wanted = count


def threads() -> int:
    """Return how many threads compute."""
    return len(os.sched_getaffinity(0)) if _wanted is None else _wanted


def in_parts(count: int, work: Callable[[int, int], T]) -> list[T]:
    """Return work(start, stop) of consecutive parts that make up `count` items, in order.

    Raises what the first part that failed raised, once no part is at work any more.
    """
    workers = threads()
    if workers == 1 or count < WORTH_SHARING:
        return [work(0, count)]
    step = PART_STEP * -(-count // (PART_STEP * PARTS_A_THREAD * workers))
    parts: list[Future[T]] = [Future() for _ in range(0, count, step)]
    waiting = deque(range(len(parts)))

    def help_out() -> None:
        with suppress(IndexError):
            while True:
                at = waiting.popleft()
                try:
                    with trace.span("part"):
                        parts[at].set_result(work(at * step, min((at + 1) * step, count)))
                except BaseException as exc:
                    parts[at].set_exception(exc)
                    if not isinstance(exc, Exception):
                        raise

    pool = _shared_pool(workers - 1)
    # Where the system has no more threads for us, those there are do the work.
    with suppress(RuntimeError):
        for _ in range(min(workers, len(parts)) - 1):
            pool.submit(help_out)
    try:
        # This thread is one of them: it has not to be woken, and what a busy machine keeps others from, it does itself.
        help_out()
    finally:
        # An exception that was thrown at this thread ends the call, not only its own part of it.
        with suppress(IndexError):
            while True:
                parts[waiting.popleft()].set_exception(CancelledError())
        wait(parts)
    return [part.result() for part in parts]


@lru_cache(maxsize=1)
def _shared_pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, "psicli-curve")


# The threads of the pool are not in a forked process.
os.register_at_fork(after_in_child=_shared_pool.cache_clear)
