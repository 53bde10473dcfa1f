"""The worker pools of a session, and the queue that completes work in the order in which it began."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from psicli.exchange.worker import LocalWorkers, Workers
from psicli.protocol.messages import Message
from psicli.protocol.work import Lane, Work

T = TypeVar("T")


class WorkerPools:
    """The worker pools of a session, shared by all its tasks.

    depth: pieces of work that a bin may have in progress. The curve's threads share the parts of one piece; the others
    are ready so that these threads never wait. wake: called after each piece. workers: where the workers of bins run.
    """

    def __init__(self, depth: int, wake: Callable[[], None], workers: Workers | None = None) -> None:
        self.depth = depth
        self.workers = workers or LocalWorkers()
        self._wake = wake
        self._computing = ThreadPoolExecutor(self.workers.calls, "psicli-compute")
        self._matching = ThreadPoolExecutor(1, "psicli-matcher")
        self._committing = ThreadPoolExecutor(1, "psicli-committer")
        self._writing = ThreadPoolExecutor(1, "psicli-writer")

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._submit(self._computing, work, *arguments)

    def match(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Compare one bin at a time; no frame waits for it, because its duration may reveal matches."""
        return self._submit(self._matching, work, *arguments)

    def commit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Do file work that the peer waits for, one piece at a time."""
        return self._submit(self._committing, work, *arguments)

    def write(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Write one-sided results, one at a time.

        Work that the peer waits for must not queue behind it, because its duration reveals the number of matches.
        """
        return self._submit(self._writing, work, *arguments)

    def dismiss(self) -> None:
        """Start no more work; running work continues."""
        for executor in (self._computing, self._matching, self._committing, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, executor: Executor, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = executor.submit(work, *arguments)
        future.add_done_callback(lambda _: self._wake())
        return future


class WorkInOrder:
    """The work of one lane: begun in the order of the lane, and completed in the same order."""

    def __init__(self, lane: Lane, begin: Callable[[Work], Future[Any]]) -> None:
        self.lane = lane
        self.under_way: deque[tuple[Work, Future[Any]]] = deque()
        self._begin = begin

    def complete(self) -> list[Message] | None:
        """Complete the oldest work if it is done and return the messages to send, else None; raises what it raised."""
        if not self.under_way or not self.under_way[0][1].done():
            return None
        work, future = self.under_way.popleft()
        result = future.result()
        return self.lane.completed(work, result if isinstance(result, bytes) else b"")

    def begin_next(self, depth: int, *, room: bool) -> bool:
        """Begin the next piece of work, if there is one; return whether there was."""
        work = self.lane.next_work(room=room) if len(self.under_way) < depth else None
        if work is not None:
            self.under_way.append((work, self._begin(work)))
        return work is not None


def done(result: bytes = b"") -> Future[bytes]:
    """Return a future that is already done."""
    future: Future[bytes] = Future()
    future.set_result(result)
    return future
