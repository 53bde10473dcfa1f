"""Workers of bins as actors of Ray: the head's side. It moves octets and never sees a scalar, a point that is not sent,
or the order of a bin.

Each node has one actor, or several with `worker_cpus`. An actor is made once and computes one bin after another. Ray
neither restarts a lost actor nor repeats a call, because that would mix two scalars: the protocol restarts its bins.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, field
from functools import partial
from typing import Any

import numpy as np
import ray
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psicli import curve
from psicli.core import errors, signals, trace
from psicli.core.errors import LocalProtocolError, PsicliError, WorkerLostError, counted
from psicli.core.peer_errors import PeerProtocolError
from psicli.core.records import dataclass
from psicli.exchange.worker import Match
from psicli.items.partitions import BinItems
from psicli.protocol.streams import Place
from psicli.ray.actor import (
    AT_ONCE,
    PARTS_A_CALL,
    BinActor,
    Header,
    items_of,
    number_of_parts,
    octets_of,
    parts_of,
    unsealed,
)  # fmt: skip
from psicli.ray.connection import Cluster
from psicli.ray.errors import ClusterBusyError, ItemsLostError, NoWorkerError, RayLostError, WorkerFailedError
from psicli.ray.items import BinSource
from psicli.ray.probe import Node

logger = logging.getLogger(__name__)

# How long a call may take before psicli asks whether the cluster is still there [s].
_WATCH = 2.0
# How many bins get their workers early at most: each takes a thread until its actor has its items.
_MOST_AHEAD = 16
# How long the other actors may take to start, so that the first bins are shared fairly [s].
_GRACE = 10.0
# How long psicli waits for a call while Ray's head is silent, which may only have been started again [s].
_PATIENCE = 30.0
# How long psicli waits for the first actor before it says so, and between two such lines [s].
_FIRST_LINE, _LINE_INTERVAL = 10.0, 60.0
# How often psicli looks for new nodes [s].
_LOOK_AGAIN = 5.0
# How long the calls in progress may take to end when the workers are dismissed [s].
_END_TIMEOUT = 2 * _WATCH
# The errors of a worker that the head raises again; it has the others as WorkerFailedError.
_KNOWN: dict[str, type[PsicliError]] = {
    each.__name__: each for each in (PeerProtocolError, errors.SelfCheckError, LocalProtocolError, ItemsLostError)
}


@dataclass
class Work:
    """What one node has done. seconds: how long it computed [s]; redone: bins that were lost with one of its actors."""

    node: str
    bins: int = 0
    seconds: float = 0.0
    points: int = 0
    redone: int = 0


@dataclass(eq=False)
class _Actor:
    """An actor as the head sees it."""

    handle: Any
    node: Node
    cpus: int
    # The results of its start, until they are known.
    starting: list[Any] | None
    lost: bool = False
    busy: int = 0
    # What to add to the clock of its node to get this one's [ns].
    offset: int = 0
    # The bins that it has, and how many it was given in all.
    held: set[int] = field(default_factory=set)
    given: int = 0


class RayWorkers:
    """Workers on the nodes of the cluster.

    cpus: the cores of an actor, by default all of its node; memory: what Ray reserves for an actor [bytes]; most: the
    most actors; depth: the pieces of work that a bin has in progress; patience: how long the first actor may take to
    start [s], while other programs have the cores of the cluster.
    """

    def __init__(
        self, cluster: Cluster, cpus: int | None, memory: int, most: int | None, depth: int, patience: float
    ) -> None:
        self._cluster = cluster
        self._cpus, self._memory = cpus, memory
        self._most = most or math.inf
        self._patience = patience
        self._opened = time.monotonic()
        self._next_line = self._opened + _FIRST_LINE
        # Those of two bins, and the making of the next ones.
        self.calls = 2 * depth + _MOST_AHEAD
        self._actors: list[_Actor] = []
        self._work: dict[str, Work] = {}
        self._numbers = itertools.count()
        self._looked = -math.inf
        self._closed = False
        self._in_progress = 0
        self._looking = threading.Lock()
        self._changed = threading.Condition()
        # Only this process can decrypt what is encrypted for this key.
        self._key = X25519PrivateKey.generate()

    @property
    def ahead(self) -> int:
        """The bins that get their workers early: one for each actor, whose points wait in its memory."""
        return min(len(self._actors), _MOST_AHEAD)

    def open(self) -> None:
        """Let Ray start the actors; the run has their cores from now on. Raises NoWorkerError, RayLostError."""
        self._opened = time.monotonic()
        self._look()

    def close(self) -> list[tuple[str, int, float, int, int]]:
        """End all actors; return what each node has done: node, bins, seconds, points, redone bins."""
        with self._changed:
            self._closed = True
            actors, self._actors = self._actors, []

        def kill() -> None:
            for actor in actors:
                ray.kill(actor.handle)

        # Without Ray's head this does not return. Then the actors end when they notice that this process has ended.
        killing = threading.Thread(target=kill, name="psicli-ray-kill", daemon=True)
        killing.start()
        killing.join(_END_TIMEOUT)
        with self._changed:
            self._changed.wait_for(lambda: not self._in_progress, _END_TIMEOUT)
        return [astuple(each) for each in self._work.values()]

    def make(self, at: Place, items: BinItems, own: int, peer: int, frame_items: int, **how: bool) -> RayWorker:
        """Return a worker with fresh secrets for one attempt at a bin, on the actor that holds the fewest bins."""
        number = next(self._numbers)
        actor = self._chosen(number)
        sizes = own, peer, frame_items
        worker = RayWorker(self, actor, number, at, sizes, len(items), receives=how["receives"], counts=how["counts"])
        if isinstance(items, BinSource):
            worker.call("begin", 0, at.sid, sizes, how, items.recipe, *items.refs)
        else:
            worker.give(items)
            worker.call("begin", 0, at.sid, sizes, how, partial(items_of, len(items)))
        return worker

    # Actors

    def _chosen(self, number: int) -> _Actor:
        """Return the actor that holds the fewest bins, and let it hold this one.

        Waits for the first actor to start, and a little for the others. Raises NoWorkerError, ClusterBusyError.
        """
        deadline = time.monotonic() + self._patience
        while True:
            self._look()
            ready = self._ready()
            with self._changed:
                if self._closed:
                    raise NoWorkerError(fault="the run has ended")
                starting = [each.starting[0] for each in self._actors if each.starting and not each.lost]
                if ready and (not starting or time.monotonic() > self._opened + _GRACE):
                    actor = min(ready, key=lambda each: (len(each.held), each.given))
                    actor.held.add(number)
                    actor.given += 1
                    return actor
            if not (ready or starting):
                raise NoWorkerError(fault="no node is left that could compute")
            if time.monotonic() > deadline:
                raise ClusterBusyError(address=self._cluster.address, seconds=self._patience)
            ray.wait(starting, timeout=signals.SLICE)
            self._tell_of_wait(ready)

    def _tell_of_wait(self, ready: Sequence[_Actor]) -> None:
        """Say now and then that no actor has started yet."""
        with self._changed:
            if not ready and time.monotonic() > self._next_line:
                self._next_line = time.monotonic() + _LINE_INTERVAL
                logger.info("waiting: other programs have the cores or the memory of the Ray cluster")

    def _ready(self) -> list[_Actor]:
        """Return the actors that have started."""
        with self._changed:
            for actor in self._actors:
                if actor.starting and not actor.lost and ray.wait(actor.starting[:1], timeout=0)[0]:
                    self._start(actor)
            return [each for each in self._actors if not each.lost and each.starting is None]

    def _start(self, actor: _Actor) -> None:
        try:
            header, facts = ray.get(actor.starting)
        except RayError:
            actor.lost = True
            return
        if header.failure is not None:
            raise _error(header.failure, actor.node)
        actor.offset = time.perf_counter_ns() - int(facts.split()[1])
        actor.starting = None
        logger.info("a worker with %s on node %s", counted(actor.cpus, "core"), actor.node.name)

    def _look(self) -> None:
        """Make actors on nodes that have fewer than they could have, such as new ones."""
        # One at a time, because others must not find that there is no actor before this has made one.
        with self._looking:
            self._look_for_nodes()

    def _look_for_nodes(self) -> None:
        with self._changed:
            if self._closed or time.monotonic() - self._looked < _LOOK_AGAIN:
                return
            self._looked = time.monotonic()
        try:
            nodes = self._cluster.nodes()
        except RayLostError:
            # The workers can go on without Ray's head. Each look for it delays a bin, so the next one is later.
            if self._ready():
                self._looked = time.monotonic() + _PATIENCE
                return
            raise
        if not any(node.is_head for node in nodes) and not self._ready():
            # Ray starts no actor for a driver whose node has ended, and never says so.
            raise NoWorkerError(fault="the Ray node of this machine has ended")
        with self._changed:
            if self._closed:
                return
            self._actors = [each for each in self._actors if not each.lost]
            # One actor on each node, then the second one on each, so that `max_workers` does not leave nodes idle.
            rooms = {node.id: node.room(self._cpus, self._memory) for node in nodes}
            for count in range(max(rooms.values(), default=0)):
                for node in nodes:
                    there = sum(each.node.id == node.id for each in self._actors)
                    if there == count < rooms[node.id] and len(self._actors) < self._most:
                        self._actors.append(self._made(node))

    def _made(self, node: Node) -> _Actor:
        cpus = self._cpus or node.cpus
        where = NodeAffinitySchedulingStrategy(node.id, soft=False)
        # Ray must not replace a lost actor, nor repeat a call.
        never = {"max_restarts": 0, "max_task_retries": 0}
        kind = ray.remote(concurrency_groups=AT_ONCE, num_cpus=cpus, memory=self._memory, **never)(BinActor)
        handle = kind.options(scheduling_strategy=where).remote(cpus)
        self._work.setdefault(node.id, Work(node.name))
        return _Actor(handle, node, cpus, handle.start.options(num_returns=2, concurrency_group="start").remote())

    # What the workers call

    def forget(self, worker: RayWorker, actor: _Actor) -> None:
        """Let an actor forget a bin, without waiting for it."""
        with self._changed:
            known = worker.number in actor.held
            actor.held.discard(worker.number)
            if not known or actor.lost or self._closed:
                return
        actor.handle.forget.options(concurrency_group="forget").remote(worker.number)

    def finished(self, actor: _Actor) -> None:
        """Count a bin that an actor has finished."""
        with self._changed:
            self._work[actor.node.id].bins += 1

    def get(self, actor: _Actor, refs: Sequence[Any], bin_: int) -> tuple[Header, list[bytes]]:
        """Wait for a call; raises WorkerLostError, RayLostError, and the errors of the worker."""
        silent_since = math.inf
        with self._calling():
            while True:
                try:
                    header, *parts = ray.get(list(refs), timeout=_WATCH)
                    break
                except GetTimeoutError:
                    if self._closed:
                        raise WorkerLostError(bin=bin_) from None
                    # Without its head, Ray does not notice that a node has died.
                    silent_since = self._silent_since(silent_since)
                except ObjectLostError as exc:
                    # The actor is well, but what it was to load is gone.
                    raise ItemsLostError from exc
                except RayError as exc:
                    self._lose(actor)
                    raise WorkerLostError(bin=bin_) from exc
        with self._changed:
            work = self._work[actor.node.id]
            work.seconds += max(header.busy - actor.busy, 0) / 1e9
            actor.busy = max(header.busy, actor.busy)
        if header.failure is not None:
            raise _error(header.failure, actor.node)
        return header, parts

    def _silent_since(self, before: float) -> float:
        """Return since when Ray's head has been silent; raises RayLostError if that is long."""
        try:
            self._cluster.nodes()
            return math.inf
        except RayLostError:
            if time.monotonic() > before + _PATIENCE:
                raise
            return min(before, time.monotonic())

    def computed(self, actor: _Actor, header: Header, name: str, points: int) -> None:
        """Count the points of a call, and show it in the trace."""
        with self._changed:
            self._work[actor.node.id].points += points
        if header.span is not None:
            second = f" ({header.span.lane + 1})" if header.span.lane else ""
            began, ended = header.span.began + actor.offset, header.span.ended + actor.offset
            trace.add(name, f"node {actor.node.name}{second}", began, ended)

    def opened(self, sealed: bytes) -> bytes:
        """Decrypt the secret of an order."""
        return unsealed(sealed, self._key)

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._changed:
            self._in_progress += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_progress -= 1
                self._changed.notify_all()

    def _lose(self, actor: _Actor) -> None:
        """Give up an actor. Ray may only believe that it is lost, so end it."""
        with self._changed:
            if actor.lost or self._closed:
                return
            actor.lost = True
            self._looked = -math.inf
            self._work[actor.node.id].redone += len(actor.held)
        logger.warning("a worker on node %s is lost; its bins go to another one", actor.node.name)
        with suppress(RayError):
            ray.kill(actor.handle)


class RayWorker:
    """A worker of one attempt at a bin, on an actor; psicli.exchange.worker.Worker says what each method does."""

    def __init__(
        self,
        workers: RayWorkers,
        actor: _Actor,
        number: int,
        at: Place,
        sizes: tuple[int, int, int],
        items: int,
        *,
        receives: bool,
        counts: bool,
    ) -> None:
        self.number = number
        self._workers = workers
        self._actor = actor
        self._bin = at.bin
        self._own, self._peer, _ = sizes
        self._items = items
        self._receives = receives
        self._counts = counts
        self._order_secret = b""
        # The calls that keep tokens; `check` asks how they ended.
        self._keeping: list[Any] = []
        # The call that compares the lists, which begins when they are checked.
        self._matching: list[Any] | None = None
        self._found_bytes = -(-items // 8)

    @property
    def order_secret(self) -> bytes:
        if not self._order_secret:
            _, sealed = self.call("sealed_order_secret", 1, self._workers.public_key)
            self._order_secret = self._workers.opened(sealed)
        return self._order_secret

    def mask_own(self, start: int, stop: int) -> bytes:
        parts = number_of_parts((stop - start) * curve.POINT_BYTES)
        header, points = self.call("mask_own", parts, start, parts)
        self._workers.computed(self._actor, header, "mask own", stop - start)
        return points

    def mask_peer(self, seq: int, points: bytes) -> bytes | None:
        count = len(points) // curve.POINT_BYTES
        answers = not (self._receives or self._counts)
        parts = number_of_parts(count * curve.TOKEN_BYTES) if answers else 0
        header, tokens = self.call("mask_peer", parts, seq, parts, *parts_of(points))
        self._workers.computed(self._actor, header, "mask peer", count)
        return tokens if answers else None

    def keep_tokens(self, start: int, tokens: bytes) -> None:
        # The session's thread calls this, so it must not wait.
        self._keeping.append(self._begin_call("keep_tokens", 0, start, *parts_of(tokens)))

    def check(self) -> None:
        for refs in self._keeping:
            self._workers.get(self._actor, refs, self._bin)
        self.call("check", 0)
        if self._receives and self._counts:
            self._matching = self._begin_call("count", 1)
        elif self._receives:
            # The result leaves the node as early as possible: a bin that is lost after Received cannot be restarted.
            parts = number_of_parts(self._found_bytes + -(-self._peer // 8))
            self._matching = self._begin_call("match", parts, parts)
        else:
            self._workers.finished(self._actor)

    def permuted_tokens(self, start: int, stop: int) -> bytes:
        parts = number_of_parts((stop - start) * curve.TOKEN_BYTES)
        _, tokens = self.call("permuted_tokens", parts, start, stop, parts)
        return tokens

    def count(self) -> int:
        return int.from_bytes(self._result(), "big")

    def match(self, *, bitmap: bool = False) -> Match:
        octets = self._result()
        found = np.unpackbits(np.frombuffer(octets[: self._found_bytes], np.uint8), count=self._items)
        return Match(found.astype(np.bool_), octets[self._found_bytes :] if bitmap else b"")

    def _result(self) -> bytes:
        """Wait for the comparison, which `check` has begun, and let the actor forget the bin."""
        if self._matching is None:
            raise LocalProtocolError(detail="a bin was matched before it was checked")
        _, parts = self._workers.get(self._actor, self._matching, self._bin)
        self._workers.finished(self._actor)
        self.wipe()
        return b"".join(parts)

    def give(self, items: BinItems) -> None:
        """Give the actor the items of the bin, which the head has read.

        They travel within calls. Ray would end this process without a word if it used the object store of this machine
        after that has ended.
        """
        parts = parts_of(octets_of(items.take(np.arange(len(items), dtype=np.uint32))))
        for start in range(0, len(parts), PARTS_A_CALL):
            self.call("give", 0, start, *parts[start : start + PARTS_A_CALL])

    def wipe(self) -> None:
        self._workers.forget(self, self._actor)

    def call(self, method: str, parts: int, *arguments: Any) -> tuple[Header, bytes]:
        """Call a method of the actor, which returns this many parts; raises as RayWorkers.get."""
        header, found = self._workers.get(self._actor, self._begin_call(method, parts, *arguments), self._bin)
        return header, b"".join(found)

    def _begin_call(self, method: str, parts: int, *arguments: Any) -> list[Any]:
        options = {"num_returns": 1 + parts, "concurrency_group": method}
        found = getattr(self._actor.handle, method).options(**options).remote(self.number, *arguments)
        return found if isinstance(found, list) else [found]


def _error(failure: tuple[str, dict[str, object]], node: Node) -> BaseException:
    """Return the error of a worker as the head raises it."""
    name, facts = failure
    if facts.get("kind") == MemoryError.__name__:
        return MemoryError()
    if name in _KNOWN:
        return _KNOWN[name](**facts)
    return WorkerFailedError(node=node.name, kind=facts.get("kind", name))
