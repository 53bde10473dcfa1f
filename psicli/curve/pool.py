"""The thread pool of the kernel: divides a large call into parts, which several threads compute.

The parts are pure computation without the GIL. A process has one pool, which is created when it is first needed.
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

# The size of a part is a multiple of this, so that every part but the last fills its lanes and inversions [items].
PART_STEP = 256
# A smaller call is finished before another thread has started [items].
WORTH_SHARING = 512
# There are more parts than threads, so that a thread that loses its core does not delay the others much.
PARTS_A_THREAD = 4

T = TypeVar("T")

_wanted: int | None = None


def set_threads(count: int | None) -> None:
    """Set the number of threads that compute; None means one for each core of this process.

    Must not be called while in_parts runs.
    """
    global _wanted
    _wanted = count


def threads() -> int:
    """Return the number of threads that compute."""
    return len(os.sched_getaffinity(0)) if _wanted is None else _wanted


def in_parts(count: int, work: Callable[[int, int], T]) -> list[T]:
    """Call work(start, stop) for consecutive parts of `count` items, and return the results in order.

    If parts fail, raises the exception of the first of them, after all parts have ended.
    """
    workers = threads()
    if workers == 1 or count < WORTH_SHARING:
        return [work(0, count)]
    step = PART_STEP * -(-count // (PART_STEP * PARTS_A_THREAD * workers))
    parts: list[Future[T]] = [Future() for _ in range(0, count, step)]
    waiting = deque(range(len(parts)))

    def compute_parts() -> None:
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
    # If the system refuses to start another thread, the existing threads compute all parts.
    with suppress(RuntimeError):
        for _ in range(min(workers, len(parts)) - 1):
            pool.submit(compute_parts)
    try:
        # This thread computes too. It need not be woken, and on a busy machine it computes what the others cannot.
        compute_parts()
    finally:
        # After an exception in this thread, such as KeyboardInterrupt, no further part may start.
        with suppress(IndexError):
            while True:
                parts[waiting.popleft()].set_exception(CancelledError())
        wait(parts)
    return [part.result() for part in parts]


@lru_cache(maxsize=1)
def _shared_pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, "psicli-curve")


# A forked process does not inherit the threads of the pool.
os.register_at_fork(after_in_child=_shared_pool.cache_clear)
