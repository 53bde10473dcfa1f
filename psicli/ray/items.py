"""Items in Ray's object store: they lie on the nodes that have read them, and the head knows only where.

As in psicli.items.partitions, items are in ascending order of their hashes, and each range of this order whose size is
a power of two has a number. Here such a range is a group: it is counted on one node, and bins are parts of one group or
consist of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.exceptions import LocalRayletDiedError, RayError

from psicli.core.records import dataclass
from psicli.items.hashing import Hashes, bin_of, cumulated, keyed_hashes, sorted_distinct
from psicli.items.partitions import FINEST_BITS, BinItems, Items, Matches
from psicli.items.records import Mask
from psicli.items.sketches import Sketch
from psicli.ray.connection import Cluster, in_own_thread
from psicli.ray.errors import ItemsLostError, RayLostError

T = TypeVar("T")

_Rows = npt.NDArray[np.uint32]
# How often psicli asks whether the cluster is still there while it waits for nodes [s].
_WATCH = 2.0
# How many groups give the numbers of their matched rows at the same time: few, because these lie on the head.
_AT_ONCE = 4

# On the nodes ----------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """The rows of a share whose items are in one group; rows: their numbers in the share, from 0."""

    hashes: Hashes
    rows: _Rows
    items: pa.LargeBinaryArray


class Divided(NamedTuple):
    """The rows of a share, as a piece for each group. null_keys: how many rows have no item."""

    rows: int
    null_keys: int
    pieces: list[Piece]


def divided(batches: Iterable[pa.LargeBinaryArray], key: bytes, groups: int) -> Divided:
    """Divide the rows of a share, given as batches of items; an item is null if its row has a null key."""
    hashes, items = [np.empty((0, 2), np.uint64)], [pa.array([], pa.large_binary())]
    numbers, rows = [np.empty(0, np.uint32)], 0
    for batch in batches:
        valid = np.flatnonzero(batch.is_valid().to_numpy(zero_copy_only=False)).astype(np.uint32)
        numbers.append(valid + np.uint32(rows))
        rows += len(batch)
        items.append(batch.drop_null())
        hashes.append(keyed_hashes(items[-1], key))
    share = Piece(np.concatenate(hashes), np.concatenate(numbers), pa.concat_arrays(items))
    group = bin_of(share.hashes, _bits(groups))
    # A stable sort keeps the rows of a group in the order of the input.
    order = np.argsort(group.astype(np.uint8), kind="stable")
    ends = cumulated(np.bincount(group, minlength=groups)).tolist()
    pieces = [_picked(share, order[start:stop]) for start, stop in pairwise(ends)]
    return Divided(rows, rows - len(share.rows), pieces)


def _picked(share: Piece, places: npt.NDArray[np.int64]) -> Piece:
    return Piece(share.hashes[places], share.rows[places], _take(share.items, places))


class Counted(NamedTuple):
    """A group of which the items are counted.

    finest: how many distinct items are in each of its finest bins; sketch: of these items, if one was asked for; items:
    the distinct items in their order; rows: the numbers of all its rows, and the place of each row's item.
    """

    finest: npt.NDArray[np.int64]
    sketch: Sketch | None
    items: pa.LargeBinaryArray
    rows: tuple[_Rows, _Rows]


def gathered(number: int, groups: int, firsts: Sequence[int], sketch_key: bytes | None, *pieces: Piece) -> Counted:
    """Count group `number` of `groups`, given its piece of each share; firsts: the number of each share's first row."""
    numbers = [piece.rows + np.uint32(first) for piece, first in zip(pieces, firsts, strict=True)]
    chosen, places, hashes = sorted_distinct(np.concatenate([piece.hashes for piece in pieces]))
    items = _take(pa.concat_arrays([piece.items for piece in pieces]), chosen)
    finest = (1 << FINEST_BITS) // groups
    counts = np.bincount(bin_of(hashes, FINEST_BITS) - number * finest, minlength=finest)
    sketch = None if sketch_key is None else Sketch(sketch_key)
    if sketch is not None:
        sketch.add(items)
    return Counted(counts, sketch, items, (np.concatenate(numbers), places))


def bin_items(start: int, stop: int, *groups: pa.LargeBinaryArray | None) -> BinItems:
    """Return the items of a bin from the groups that hold it: those at the places [start, stop) of all their items.

    A group is None if Ray has lost it, and the input could not be read again; raises ItemsLostError.
    """
    if any(group is None for group in groups):
        raise ItemsLostError
    items = groups[0] if len(groups) == 1 else pa.concat_arrays(groups)
    return BinItems(np.arange(start, stop, dtype=np.uint32), partial(_take, items))


def matched_rows(bits: npt.NDArray[np.uint8], rows: tuple[_Rows, _Rows]) -> _Rows:
    """Return the numbers of a group's rows whose items matched; bits: one for each distinct item."""
    numbers, places = rows
    return numbers[np.unpackbits(bits).astype(np.bool_)[places]]


def _take(items: pa.LargeBinaryArray, places: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    return items.take(pa.array(places))


def _bits(count: int) -> int:
    return count.bit_length() - 1


# On the head -----------------------------------------------------------------------------------------------------

# Ray may repeat these tasks, and does so if it loses a node with their results: they draw no secrets. They do not wait
# for cores, because workers may hold all cores of the cluster to the end of the run.
task = ray.remote(num_cpus=0, max_retries=3)
_matched_rows = task(matched_rows)


class Group(NamedTuple):
    """Where the items of a group, and its rows, are in the object store."""

    items: Any
    rows: Any


@dataclass(frozen=True)
class BinSource(BinItems):
    """The items of a bin that lie in Ray's object store.

    refs: where they are; recipe: returns the BinItems, given what is there. A node takes these two; `take` fetches the
    items to the head.
    """

    cluster: Cluster
    count: int
    refs: tuple[Any, ...]
    recipe: Callable[..., BinItems]

    def __len__(self) -> int:
        return self.count

    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        try:
            return watched(self.cluster, lambda: self.recipe(*ray.get(list(self.refs))).take(places))
        except RayError as exc:
            raise ItemsLostError from exc


class RemoteItems(Items):
    """The items of a task that nodes have read.

    groups: in the order of their items; finest: how many distinct items are in each of the finest bins.
    """

    def __init__(
        self, cluster: Cluster, groups: Sequence[Group], finest: npt.NDArray[np.int64], rows: int, null_keys: int
    ) -> None:
        self._cluster = cluster
        self._groups = groups
        self._finest = cumulated(finest)
        self.rows, self.null_keys = rows, null_keys

    def bin(self, number: int, bins: int, budget: int) -> BinSource:
        """Return bin `number` of `bins` bins, which stays in the object store whatever the budget."""
        start, stop = self.starts(bins)[number : number + 2]
        groups = len(self._groups)
        first, last = number * groups // bins, -(-(number + 1) * groups // bins)
        before = self.starts(groups)[first]
        refs = tuple(group.items for group in self._groups[first:last])
        return BinSource(self._cluster, stop - start, refs, partial(bin_items, start - before, stop - before))

    def _matched_rows(self, matches: Matches) -> Iterator[_Rows]:
        starts = self.starts(len(self._groups))
        for first in range(0, len(self._groups), _AT_ONCE):
            groups = self._groups[first : first + _AT_ONCE]
            found = [matches.between(*span) for span in pairwise(starts[first : first + len(groups) + 1])]
            try:
                yield from watched(self._cluster, partial(_rows_of, found, groups))
            except RayError as exc:
                raise ItemsLostError from exc

    def close(self) -> None:
        self._groups = ()


def _rows_of(found: Sequence[Mask], groups: Sequence[Group]) -> list[_Rows]:
    """Return the numbers of the rows of some groups, given which of their items matched."""
    calls = [_matched_rows.remote(np.packbits(bits), group.rows) for bits, group in zip(found, groups, strict=True)]
    rows: list[_Rows] = ray.get(calls)
    return rows


def watched(cluster: Cluster, work: Callable[[], T]) -> T:
    """Return what calls into Ray return, and raise what they raise; raises RayLostError if the cluster is lost.

    Without its head, Ray lets some of them wait for ever.
    """
    future = in_own_thread(work)
    while not future.done():
        wait([future], _WATCH)
        if not future.done():
            cluster.nodes()
    try:
        return future.result()
    except LocalRayletDiedError as exc:
        raise RayLostError(address=cluster.address) from exc
