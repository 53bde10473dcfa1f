"""Who works beside the session's own thread: the thread pools of a session, and work that ends in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from psicli.protocol.messages import Message
from psicli.protocol.work import Lane, Work

T = TypeVar("T")


class WorkerPools:
    """The thread pools of a session, for all its tasks.

    depth: pieces of work a bin may have under way: one at work, its parts shared among the curve's threads, the others
    so that these never wait for the next. wake: called after each piece.
    """

    def __init__(self, depth: int, wake: Callable[[], None]) -> None:
        self.depth = depth
        self._wake = wake
        # Two, so that one's parts are at hand while the other's last ones are waited for.
        self._computing = ThreadPoolExecutor(2, "psicli-compute")
        self._matching = ThreadPoolExecutor(1, "psicli-matcher")
        self._committing = ThreadPoolExecutor(1, "psicli-committer")
        self._writing = ThreadPoolExecutor(1, "psicli-writer")

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._submit(self._computing, work, *arguments)

    def match(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a bin compared, one at a time; no frame waits for it, since how long it takes may tell of matches."""
        return self._submit(self._matching, work, *arguments)

    def commit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have file work done that the peer waits for, one piece at a time."""
        return self._submit(self._committing, work, *arguments)

    def write(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a one-sided result written, one at a time.

        Nothing the peer waits for may queue behind it: how long it takes tells of matches.
        """
        return self._submit(self._writing, work, *arguments)

    def dismiss(self) -> None:
        """Begin nothing more; what is at work goes on."""
        for executor in (self._computing, self._matching, self._committing, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, executor: Executor, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = executor.submit(work, *arguments)
        future.add_done_callback(lambda _: self._wake())
        return future


class WorkInOrder:
    """The work of one lane, begun as it comes and completed in the same order."""

    def __init__(self, lane: Lane, begin: Callable[[Work], Future[Any]]) -> None:
        self.lane = lane
        self.under_way: deque[tuple[Work, Future[Any]]] = deque()
        self._begin = begin

    def complete(self) -> list[Message] | None:
        """Complete the oldest work if it is through and return what to send; raises what it raised."""
        if not self.under_way or not self.under_way[0][1].done():
            return None
        work, future = self.under_way.popleft()
        result = future.result()
        return self.lane.completed(work, result if isinstance(result, bytes) else b"")

    def take_up(self, depth: int, *, room: bool) -> bool:
        """Begin another piece of work, if there is one; return whether there was."""
        work = self.lane.next_work(room=room) if len(self.under_way) < depth else None
        if work is not None:
            self.under_way.append((work, self._begin(work)))
        return work is not None


def done(result: bytes = b"") -> Future[bytes]:
    """Return work that is done already."""
    future: Future[bytes] = Future()
    future.set_result(result)
    return future
