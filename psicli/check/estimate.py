"""Estimates of the time, memory, disk space and traffic of a job, from the sizes of its inputs.

The size of the peer's inputs is not known before a run, so the estimates assume that it has as many items as this
party. They also assume that all rows have different items and that all match. They are about the maximum unless the
peer has more items.

The time is put together from what this machine has just shown: what psicli's start took, what a row of the sample took,
and how fast the kernel and the link are. Processor time is measured wherever it can be, because another program may
have the cores right now. A run has four parts, one after another:

    start ── reading the first input ── exchange ── result of the last task
                                        as long as the slowest of: the cores, the peer, the link, reading the others

With ecdh, both parties compute all the time. With rr22, they take turns in each bin, and only several bins overlap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from psicli import curve
from psicli.config import Job, Task
from psicli.config.fields import is_loopback
from psicli.core.records import dataclass
from psicli.items import partitions
from psicli.job.meeting import bin_items
from psicli.protocol.bins import number_of_bins, padded
from psicli.protocol.messages import RR22, Stream
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.protocol.streams import ITEM_BITS
from psicli.session.probe import LinkSpeed
from psicli.storage.memory import BIN_ITEM_BYTES, LIBRARIES, MemoryPlan

# The traffic for one item of each party: two points and a token, including framing [bytes].
PAIR_BYTES = 84

# The constants of the model of time. `make bench-plan` prints what each should be on its machine, from runs of 1,000
# and 1,000,000 rows and of 21 tasks, their traces and their processor time. Only WAITING needs a quiet machine.
#
# What a run does whatever its size - to load modules, test the kernel, meet the peer, write the ledger, end - as a
# multiple of the processor time that a check took until it began.
FIXED = 1.05
# The time of the same steps in which no processor works: the disk, and one process waiting for the other [s].
WAITING = 0.15
# One more task of a few rows, as a share of the processor time that a check took until it began.
TASK = 0.04
# Reading an input in a run, with its partitions, as a multiple of the time that a check takes for it.
READING = 0.85
# What the exchange does besides the kernel - frames, digests, TLS - as a multiple of reading the input in the run.
MOVING = 2.4
# Matching, and reading, sorting and writing the rows of the result, as a multiple of the same.
RESULT = 0.25
# How often a message and its answer cross the link one after another: to meet and end, for a task, and for a bin.
MEETING_TRIPS, TASK_TRIPS, BIN_TRIPS = 7, 3, 1
# The same for a bin of rr22, and the share of its work that several threads divide.
VECTOR_TRIPS, SHARED = 3, 0.5

# The operations of the kernel of ecdh; and those of each role in rr22: an item, and what a bin costs besides.
POINTS = "hash_and_mask", "mask"
RECEIVE, SEND = ("receive_items", "receive_bins"), ("send_items", "send_bins")

_BYTES = {stream: bits / 8 for stream, bits in ITEM_BITS.items()}
# What crosses the link for an item of both parties: from the receiver, and from the sender [bytes].
_FROM_RECEIVER = _BYTES[Stream.RECEIVER_POINTS]
_FROM_SENDER = _BYTES[Stream.SENDER_POINTS] + _BYTES[Stream.TOKENS]
_BLOCK_BYTES = 16


@dataclass(frozen=True)
class Size:
    """The size of a task's input: the number of rows; and of all items together, the files, and their content [bytes].

    content_bytes: a guess if the files are compressed. seconds: how long a check would take to read all of it [s].
    """

    rows: int
    item_bytes: int
    file_bytes: int
    content_bytes: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a job needs: time [s]; memory, disk space besides the outputs, and traffic [bytes]."""

    seconds: float
    memory: int
    disk: int
    traffic: int


@dataclass(frozen=True)
class Setting:
    """What the time of a job depends on besides its inputs.

    rates: how fast this party's kernels are, by operation [points, items or bins per second], with so many threads.
    cores: how many this process may use. start: the processor time of a check until it began [s]. link: what is known
    of the link and the peer; without it, the peer is like this party and the link takes no time. on_cluster: whether
    other machines compute.
    """

    rates: Mapping[str, float]
    threads: int
    cores: float
    start: float
    link: LinkSpeed | None = None
    on_cluster: bool = False

    def with_threads(self, threads: int) -> Setting:
        """Return this setting with another number of threads on this machine."""
        share = min(threads, self.cores) / min(self.threads, self.cores)
        return replace(self, rates={name: rate * share for name, rate in self.rates.items()}, threads=threads)

    def with_machines(self, machines: int) -> Setting:
        """Return this setting with a cluster of this many machines like this one; rr22 uses one of them."""
        whole = self.with_threads(int(self.cores))
        rates = {name: rate * (machines if name in POINTS else 1) for name, rate in whole.rates.items()}
        return replace(whole, rates=rates, on_cluster=True)


class _Exchange(NamedTuple):
    """What the exchange of a task needs.

    own, peer: how long the kernel of each party takes; own_work, peer_work: its processor time; turns: how long one
    waits for the other one in a bin, (own, peer's), and ends: what the link waits for [s]. out, back: what this party
    sends and receives [bytes]. trips: the round trips of its bins.
    """

    own: float
    peer: float
    own_work: float
    peer_work: float
    turns: tuple[float, float]
    ends: float
    out: float
    back: float
    trips: int


class Limit(StrEnum):
    """What the exchange waits for."""

    CORES = "cores"
    PEER = "peer"
    LINK = "link"
    READING = "reading"


@dataclass(frozen=True)
class Time:
    """The parts of a run, one after another [s], and what limits the exchange.

    processor: the processor time of this party [s]; link: the time that the data of the exchange needs on the link [s].
    """

    start: float
    reading: float
    exchange: float
    result: float
    limit: Limit
    processor: float
    link: float

    @property
    def seconds(self) -> float:
        return self.start + self.reading + self.exchange + self.result


def of_job(job: Job, tasks: Sequence[tuple[Task, Size]], setting: Setting) -> Estimate:
    """Return what a job needs if both parties start at the same time."""
    traffic = sum(map(round, (_traffic(job, *each) for each in tasks)))
    seconds = time_of(job, tasks, setting).seconds
    return Estimate(seconds, memory_bytes(job, tasks), spool_bytes(job, tasks), traffic)


# Time ------------------------------------------------------------------------------------------------------------


def time_of(job: Job, tasks: Sequence[tuple[Task, Size]], setting: Setting) -> Time:
    """Return how long a job takes if both parties start at the same time."""
    reading = [READING * size.seconds for _, size in tasks]
    results = [RESULT * each if _has_result(job, task) else 0.0 for (task, _), each in zip(tasks, reading, strict=True)]
    fixed = FIXED * setting.start
    beside = MOVING * sum(reading) + TASK * setting.start * len(tasks)
    each = [_exchange(job, *task, setting) for task in tasks]
    kernels = [sum(x.own_work for x in each), sum(x.peer_work for x in each)]
    # The cores of this machine work for the peer, too, if it is on this machine.
    parties = 2 if shares_cores(job, setting) else 1
    work = sum(kernels[:parties]) + parties * (beside + sum(reading[1:]) + sum(results[:-1]))
    at = setting.link or LinkSpeed(0.0)
    link = _on_link(each, at)
    needs = {
        Limit.CORES: max(sum(x.own + x.turns[0] for x in each), work / setting.cores),
        Limit.PEER: sum(x.peer + x.turns[1] for x in each) if parties == 1 else 0.0,
        Limit.LINK: link + max((x.ends for x in each), default=0.0) if link else 0.0,
        Limit.READING: sum(reading[1:]),
    }
    # In the only bin of rr22, everything waits for everything else: the link is the limit where it takes longest.
    limit = max(needs, key=lambda each: link if each is Limit.LINK else needs[each])
    trips = TASK_TRIPS * len(tasks) + sum(x.trips for x in each)
    crowd = max(parties / setting.cores, 1.0)
    return Time(
        start=fixed * crowd + WAITING + MEETING_TRIPS * at.round_trip,
        reading=crowd * sum(reading[:1]),
        exchange=max(needs.values()) + trips * at.round_trip,
        result=sum(results[-1:]),
        limit=limit,
        processor=fixed + sum(kernels[:1]) + beside + sum(reading) + sum(results),
        link=link,
    )


def _exchange(job: Job, task: Task, size: Size, setting: Setting) -> _Exchange:
    """Return what the exchange of a task needs."""
    bins, items = number_of_bins(size.rows, size.rows, bin_items(job)), padded_items(job, size)
    out, back = _ways(job, task, size)
    width = min(setting.threads, setting.cores)
    if task.protocol == RR22:
        roles = (RECEIVE, SEND) if task.receiver == job.party else (SEND, RECEIVE)
        # The peer does not say how fast it is at this: it counts as like this party.
        whole = [items / setting.rates[each] + bins / setting.rates[of_bin] for each, of_bin in roles]
        own, peer = (time * (width * (1 - SHARED) + SHARED) for time in whole)
        one = max(bins, 1)
        turns, ends = (peer / one, own / one), (own + peer) / one
        own_work, peer_work = (time * width for time in whole)
        return _Exchange(own, peer, own_work, peer_work, turns, ends, out, back, VECTOR_TRIPS * bins)
    own = _kernel(setting.rates, items)
    rates = setting.link.peer_rates if setting.link else None
    # The first frame has to be computed before the link has anything to do, and the last one after it.
    frame = _kernel(setting.rates, min(items, job.pipeline.frame_items or curve.frame_items()))
    work = 0.0 if setting.on_cluster else own * width
    return _Exchange(own, _kernel(rates, items) if rates else 0.0, work, work, (0.0, 0.0), frame, out, back, bins)


def apart(job: Job, tasks: Sequence[tuple[Task, Size]], setting: Setting, *, at_once: int) -> float:
    """Return how long the tasks take as jobs of their own, so many at a time [s]."""
    times = [time_of(job, [each], setting) for each in tasks]
    parties = 2 if shares_cores(job, setting) else 1
    return max(
        max(time.seconds for time in times),
        sum(time.seconds for time in times) / at_once,
        parties * sum(time.processor for time in times) / setting.cores,
        sum(time.link for time in times),
    )


def shares_cores(job: Job, setting: Setting) -> bool:
    """Return whether the peer computes on this machine."""
    return is_loopback(job.listener.host) or (setting.link is not None and setting.link.one_machine)


def _kernel(rates: Mapping[str, float], items: int) -> float:
    """Return how long the kernel of ecdh takes for so many items of each party [s]."""
    return sum(items / rates[each] for each in POINTS)


def _has_result(job: Job, task: Task) -> bool:
    return task.output_path is not None and (task.broadcast_result or task.receiver == job.party)


def _on_link(tasks: Sequence[_Exchange], link: LinkSpeed) -> float:
    """Return how long the data needs on the link, in the direction that takes longer [s]."""
    sent, received = sum(each.out for each in tasks), sum(each.back for each in tasks)
    return max(sent / link.sending if link.sending else 0.0, received / link.receiving if link.receiving else 0.0)


def _ways(job: Job, task: Task, size: Size) -> tuple[float, float]:
    """Return how much data of a task this party sends and receives [bytes]."""
    items = padded_items(job, size)
    ways = _FROM_RECEIVER * items, _FROM_SENDER * items
    if task.protocol == RR22 and items:
        bins = number_of_bins(size.rows, size.rows, bin_items(job))
        of_bin = sizes(items // bins)
        blocks = of_bin.choices + of_bin.vector, of_bin.keys + of_bin.sums
        there, back = (_BLOCK_BYTES * bins * each for each in blocks)
        ways = there, back + token_bytes(items, items) * items
    return ways if task.receiver == job.party else ways[::-1]


def _traffic(job: Job, task: Task, size: Size) -> float:
    """Return the traffic of a task in both directions [bytes]."""
    return sum(_ways(job, task, size)) if task.protocol == RR22 else PAIR_BYTES * padded_items(job, size)


# Items, memory and disk space ------------------------------------------------------------------------------------


def padded_items(job: Job, size: Size) -> int:
    """Return how many items of a task each party sends, including padding [items]."""
    return padded(size.rows, number_of_bins(size.rows, size.rows, bin_items(job)))


def memory_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return about the most memory that the job uses at any time [bytes]."""
    plan = MemoryPlan(job.pipeline.memory)
    reading = [min(partitions.memory_bytes(size.rows, size.item_bytes), plan.reading) for _, size in tasks]
    # Two bins of a task are in progress at a time.
    in_bins = [BIN_ITEM_BYTES * min(padded_items(job, size), 2 * bin_items(job)) for _, size in tasks]
    sorting = [min(_output_bytes(task, size), plan.sorting) for task, size in tasks]
    each = zip(reading, in_bins, sorting, [*reading, 0][1:], strict=True)
    rows = max((max(read, bins) + output + following for read, bins, output, following in each), default=0)
    return min(LIBRARIES + rows, job.pipeline.memory)


def spool_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most disk space that the job uses in the state folder at any time, because memory is limited [bytes].

    While one task exchanges, the job reads the next task's input.
    """
    plan = MemoryPlan(job.pipeline.memory)
    read = [partitions.disk_bytes(size.rows, size.item_bytes, plan.reading) for _, size in tasks]
    kept = [_sorted_on_disk(task, size, plan) for task, size in tasks]
    following = [*read, 0][1:]
    return max((mine + output + then for mine, output, then in zip(read, kept, following, strict=True)), default=0)


def _sorted_on_disk(task: Task, size: Size, plan: MemoryPlan) -> int:
    needed = _output_bytes(task, size)
    return needed if needed > plan.sorting and task.output.order == "key" else 0


def _output_bytes(task: Task, size: Size) -> int:
    """Return the size of all rows of the input if they go into an output, with what sorts them [bytes]."""
    if task.output_path in (None, "-"):
        return 0
    written = task.keys if task.output.columns is None else task.output.columns
    is_sorted_by_columns = all(form.is_text for form in task.forms) and {*task.keys} <= {*written}
    return size.content_bytes + (0 if is_sorted_by_columns else size.item_bytes)


def output_bytes(tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most additional space that outputs on one disk use at any time [bytes].

    Each output is complete before it replaces the output of an earlier run.
    """
    most = grown = 0
    for task, size in tasks:
        assert task.output_format is not None
        new = size.file_bytes if task.output_format.is_packed else size.content_bytes
        most = max(most, grown + new)
        # An output for a store is on this machine until it has been uploaded.
        grown += new - _size_of_old(task.output_path) if isinstance(task.output_path, Path) else 0
    return most


def _size_of_old(output: Path) -> int:
    """Return the size of the output of an earlier run, or 0 if there is none that this user can see."""
    with contextlib.suppress(OSError):
        return output.stat().st_size
    return 0
