"""Items that several processes have divided and counted, without Ray: they are those of one process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ray", reason="Ray is not installed")

from ray.exceptions import ObjectLostError

from psicli.items.partitions import Matches, Partitioner
from psicli.items.sketches import Sketch
from psicli.ray import items as module
from psicli.ray.errors import ItemsLostError
from psicli.ray.items import Group, RemoteItems, divided, gathered, matched_rows

KEY, SKETCH_KEY = bytes(32), b"s" * 32
ITEM = st.none() | st.integers(0, 40).map(lambda number: b"item-%d" % number * (number % 4))


def array(rows: Sequence[bytes | None]) -> Any:
    return pa.array(rows, pa.large_binary())


def read(rows: Sequence[bytes | None], cuts: Sequence[int], batch: int, groups: int) -> tuple[RemoteItems, Sketch]:
    """Read rows as nodes do, in shares that start at these rows. What is in the object store is in the items here."""
    shares = [
        divided([array(rows[at : min(at + batch, stop)]) for at in range(start, stop, batch)], KEY, groups)
        for start, stop in pairwise([0, *sorted(cuts), len(rows)])
    ]
    firsts = [*accumulate((share.rows for share in shares), initial=0)][:-1]
    pieces = zip(*(pickle.loads(pickle.dumps(share.pieces, protocol=5)) for share in shares), strict=True)
    found = [gathered(number, groups, firsts, SKETCH_KEY, *each) for number, each in enumerate(pieces)]
    sketch = Sketch(SKETCH_KEY)
    for each in found:
        assert each.sketch is not None
        sketch.merge(each.sketch)
    where = [Group(each.items, each.rows) for each in found]
    null_keys = sum(share.null_keys for share in shares)
    counts = np.concatenate([each.finest for each in found])
    cluster: Any = SimpleNamespace(nodes=list)
    return RemoteItems(cluster, where, counts, len(rows), null_keys), sketch


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_matched_rows", SimpleNamespace(remote=matched_rows))
    monkeypatch.setattr(module, "ray", SimpleNamespace(get=lambda found: found))


def items_of(found: Any) -> list[bytes]:
    items: list[bytes] = found.take(np.arange(len(found), dtype=np.uint32)).to_pylist()
    return items


@pytest.mark.sample(1)
@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("groups", [1, 16, 256])
def test_shares_and_groups_make_no_difference(groups: int) -> None:
    @settings(max_examples=30)
    @given(rows=st.lists(ITEM, max_size=60), cuts=st.lists(st.integers(0, 60), max_size=3), batch=st.integers(1, 70))
    def check(rows: list[bytes | None], cuts: list[int], batch: int) -> None:
        own = Sketch(SKETCH_KEY)
        partitioner = Partitioner(KEY, visit=own.add)
        partitioner.add(array(rows))
        expected = partitioner.finish()
        found, sketch = read(rows, [min(cut, len(rows)) for cut in cuts], batch, groups)
        assert (len(found), found.rows, found.null_keys) == (len(expected), expected.rows, expected.null_keys)
        assert (sketch.items, sketch.buckets.tobytes()) == (own.items, own.buckets.tobytes())
        for bins in (1, 4, 512):
            starts = expected.starts(bins)
            assert found.starts(bins) == starts
            matches = Matches(starts)
            for number in {0, bins - 1, *(n for n, (start, stop) in enumerate(pairwise(starts)) if start < stop)}:
                source, mine = found.bin(number, bins, 0), items_of(expected.bin(number, bins, 0))
                recipe = pickle.loads(pickle.dumps(source.recipe))
                assert (len(source), items_of(source), items_of(recipe(*source.refs))) == (len(mine), mine, mine)
                matches.put(number, np.arange(len(mine)) % 2 == number % 2)
            assert found.row_mask(matches).equals(expected.row_mask(matches))

    check()


def test_items_that_nodes_cannot_read_again_are_lost() -> None:
    found, _ = read([b"1", b"2", b"3"], [], 3, 2)
    recipe = found.bin(0, 1, 0).recipe
    with pytest.raises(ItemsLostError):
        recipe(found._groups[0].items, None)


def test_items_of_a_bin_that_the_store_has_lost_do_not_come_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: object) -> None:
        raise ObjectLostError("0" * 56, None, "")

    found, _ = read([b"1", b"2", b"3"], [], 3, 2)
    monkeypatch.setattr(module, "ray", SimpleNamespace(get=lost))
    with pytest.raises(ItemsLostError):
        items_of(found.bin(0, 1, 0))
