"""Reads an input on the nodes of the cluster. Start reading at read_on_nodes.

First each node reads shares of the rows and divides their items into groups, and then each counts groups. The results
are those of a reading on the head, to the byte. The head reads by itself where that is simpler or more precise: a small
input, one that is not on the nodes or cannot be cut, and one with an error.
"""

from __future__ import annotations

import logging
import resource
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate, zip_longest
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psicli import curve
from psicli.core.errors import BadInputError, InputMissingError, StorageError, counted
from psicli.items.encoding import encode_items
from psicli.items.partitions import MAX_ROWS, Items
from psicli.items.sketches import Sketch
from psicli.items.spelling import Spellings
from psicli.ray.connection import Cluster
from psicli.ray.items import Group, RemoteItems, divided, gathered, task, watched
from psicli.ray.probe import Node
from psicli.tables import Divisible, Input, Share
from psicli.tables.delimited import DelimitedInput
from psicli.tables.jsonl import JsonlInput
from psicli.tables.parquet import ParquetInput

logger = logging.getLogger(__name__)

# How long a node may take to start a process and look for an input [s].
_LOOK_TIMEOUT = 20.0
_MOST_GROUPS = 256

# Opens an input; can be sent to a node.
Opening = Callable[[], Input]
# The size [bytes] and the time of the last change [ns] of a file. Nodes may know a shared disk by different numbers.
_Mark = tuple[int | str, ...]


class Sizes(NamedTuple):
    """What sizes of an input, and of its parts, are worth a task on a node [bytes].

    If rows are short, a task takes about 16 times as much memory as its share has.
    """

    input: int = 64 << 20
    least_share: int = 16 << 20
    most_share: int = 64 << 20
    group: int = 16 << 20


SIZES = Sizes()

# The inputs that can be read in shares.
_DIVISIBLE = (DelimitedInput, JsonlInput, ParquetInput)


class _NotOnNodesError(Exception):
    """Why the nodes do not read an input."""


def read_on_nodes(
    cluster: Cluster, opening: Opening, key: bytes, sketch: Sketch | None, sizes: Sizes = SIZES
) -> tuple[Items, Input, Spellings] | None:
    """Read an input on the nodes; return None if the head must do it. Raises RayLostError.

    key: the key of the items' hashes; sketch: gets the distinct items. The input is returned as one that has been read.
    """
    with ExitStack() as stack:
        source = stack.enter_context(opening())
        # A store need not be open to all nodes.
        if not isinstance(source, _DIVISIBLE) or source.size < sizes.input or source.file.is_remote:
            return None
        try:
            items, spellings = watched(cluster, lambda: _Reading(cluster, opening, source, key, sketch, sizes).run())
        except (_NotOnNodesError, BadInputError, InputMissingError, StorageError, RayError) as exc:
            reason = exc if isinstance(exc, _NotOnNodesError) else f"on the nodes there was a {type(exc).__name__}"
            logger.info("reading %s on this machine: %s", source.name, reason)
            return None
        stack.pop_all()
    return items, source, spellings


class _Reading:
    """The reading of one input on nodes."""

    def __init__(
        self, cluster: Cluster, opening: Opening, source: Divisible, key: bytes, sketch: Sketch | None, sizes: Sizes
    ) -> None:
        self._cluster = cluster
        self._opening = opening
        self._source = source
        self._key = key
        self._sketch = sketch
        self._mark = _mark(source)
        # The nodes that can read the input, each as often as it has cores.
        self._cores = self._find_cores()
        share = min(max(source.size // (2 * len(self._cores)), sizes.least_share), sizes.most_share)
        self._shares = source.shares(share)
        if len(self._shares) < 2:
            raise _NotOnNodesError("it cannot be cut into shares")
        groups = 1 << (max(source.size // sizes.group, 1) - 1).bit_length()
        self._groups = min(groups, _MOST_GROUPS)

    def run(self) -> tuple[Items, Spellings]:
        """Read all shares and count all groups; raises _NotOnNodesError, BadInputError, RayError, RayLostError."""
        with self._source.watched():
            about = self._opening, self._mark, self._key, self._groups
            calls: list[Any] = [(share, *about) for share in self._shares]
            results = self._do(_READ_SHARE, calls, self._groups)
            spellings, firsts, null_keys = self._join([found for found, *_ in results])
            key = None if self._sketch is None else self._sketch.key
            pieces = zip(*(pieces for _, *pieces in results), strict=True)
            calls = [(number, self._groups, firsts[:-1], key, *each) for number, each in enumerate(pieces)]
            results = self._do(_COUNT_GROUP, calls, 2)
            counts, sketches = zip(*(ray.get(found) for found, *_ in results), strict=True)
        # If anything fails before this, the head adds all items to the sketch.
        if self._sketch is not None:
            for each in sketches:
                self._sketch.merge(each)
        groups = [Group(items, rows) for _, items, rows in results]
        return RemoteItems(self._cluster, groups, np.concatenate(counts), firsts[-1], null_keys), spellings

    def _join(self, findings: Sequence[Any]) -> tuple[Spellings, list[int], int]:
        """Join what was found in the shares; raises BadInputError.

        Returns the spellings, the numbers of each share's first row and of all rows, and the number of null keys.
        """
        spellings, parts, rows, null_keys = Spellings(self._source.keys, self._source.columns.forms), [], [], 0
        for ref in findings:
            # One at a time, because they hold samples of keys.
            found: _Findings = ray.get(ref)
            spellings.merge(found.spellings)
            parts.append(found.part)
            rows.append(found.rows)
            null_keys += found.null_keys
        if sum(rows) > MAX_ROWS:
            raise _NotOnNodesError("it has very many rows")
        self._source.join(parts)
        return spellings, [*accumulate(rows, initial=0)], null_keys

    def _find_cores(self) -> list[Node]:
        nodes = {_LOOK.options(**_on(node)).remote(self._opening, self._mark): node for node in self._cluster.nodes()}
        ready, _ = ray.wait(list(nodes), num_returns=len(nodes), timeout=_LOOK_TIMEOUT, fetch_local=False)
        able = [nodes[ref] for ref in ready if ray.get(ref)]
        cores = [node for turn in zip_longest(*([node] * node.cpus for node in able)) for node in turn if node]
        if len(cores) < 2:
            raise _NotOnNodesError(f"only {counted(len(cores), 'core')} of the cluster could read it")
        return cores

    def _do(self, function: Any, calls: Sequence[tuple[Any, ...]], returns: int) -> list[list[Any]]:
        """Call a function on the nodes, once on each core at a time.

        Its first result is None or why it failed; return where the others are, `returns` of them and one before.
        """
        free, results = deque(self._cores), []
        under_way: dict[Any, Node] = {}
        for arguments in calls:
            if not free:
                free.append(self._end_one(under_way))
            node = free.popleft()
            status, *others = function.options(num_returns=2 + returns, **_on(node)).remote(*arguments)
            under_way[status] = node
            results.append(others)
        while under_way:
            self._end_one(under_way)
        return results

    def _end_one(self, under_way: dict[Any, Node]) -> Node:
        """Wait for one of the calls under way, and return the node that is free now; raises _NotOnNodesError."""
        # To fetch would be to use the object store of this machine, and its end while Ray uses it ends this process.
        (done, *_), _ = ray.wait(list(under_way), fetch_local=False)
        node = under_way.pop(done)
        if (failure := ray.get(done)) is not None:
            raise _NotOnNodesError(f"node {node.address} {failure}")
        return node


def _on(node: Node) -> dict[str, Any]:
    """Return the options of a task for this node; another one takes its place if it is gone."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=True)}


def _mark(source: Input) -> _Mark:
    # A node has other devices and inodes.
    return source.identity[2:]


# On the nodes ----------------------------------------------------------------------------------------------------


class _Findings(NamedTuple):
    """What was found in a share, besides its items. part: for the input's `join`."""

    part: Any
    spellings: Spellings
    rows: int
    null_keys: int


def _look(opening: Opening, mark: _Mark) -> bool:
    """Return whether this node has the input that the head has."""
    try:
        with opening() as source:
            return _mark(source) == mark
    except Exception:
        return False


def _read_share(share: Share, opening: Opening, mark: _Mark, key: bytes, groups: int) -> list[Any]:
    """Read a share; return None or why that failed, what was found, and the rows of each group.

    Raises nothing, because Ray would log it, and an error may show keys.
    """
    try:
        _set_up()
        with opening() as source:
            if not isinstance(source, _DIVISIBLE) or _mark(source) != mark:
                return ["has another file", None, *[None] * groups]
            spellings = Spellings(source.keys, source.columns.forms)

            def batches() -> Any:
                for texts in source.key_batches(share):
                    spellings.add(texts, source.schema)
                    yield encode_items(texts)

            rows, null_keys, pieces = divided(batches(), key, groups)
            return [None, _Findings(source.part(), spellings, rows, null_keys), *pieces]
    except Exception as exc:
        return [f"had a {type(exc).__name__}", None, *[None] * groups]


def _count_group(*arguments: Any) -> list[Any]:
    """Count a group as psicli.ray.items.gathered does; return None or why that failed, and what was counted."""
    try:
        _set_up()
        finest, sketch, items, rows = gathered(*arguments)
        return [None, (finest, sketch), items, rows]
    except Exception as exc:
        return [f"had a {type(exc).__name__}", None, None, None]


def _set_up() -> None:
    """Let this process use one core, and write no core dump, which would show items."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    curve.set_threads(1)
    pa.set_cpu_count(1)


_LOOK, _READ_SHARE, _COUNT_GROUP = map(task, (_look, _read_share, _count_group))
