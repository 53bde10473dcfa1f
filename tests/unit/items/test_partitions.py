"""Tests that items have the same order, bins and matches in memory and on disk, for any budget and number of bins."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.waiting import wait_until

from psicli import curve
from psicli.core.errors import SpoolSpaceError, TooManyRowsError
from psicli.items import partitions
from psicli.items.partitions import ROW_BYTES, BinItems, Items, Matches, Partitioner, disk_bytes
from psicli.storage.spool import Spool, SpoolFile

BYTES = pa.large_binary()
# More than any bin in these tests takes [bytes].
AMPLE = 1 << 40
MOST_BINS = 1 << 16


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "state") as spool:
        yield spool


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def array(rows: Sequence[bytes | None]) -> Any:
    return pa.array(rows, BYTES)


def partitioned(rows: Any, key: bytes, spool: Spool | None = None, budget: int | None = None, batch: int = 0) -> Items:
    """Partition rows that are added in batches."""
    partitioner = Partitioner(key, spool, budget)
    for start in range(0, len(rows), batch or max(len(rows), 1)):
        partitioner.add(rows.slice(start, batch or None))
    return partitioner.finish()


def all_of(items: BinItems) -> list[bytes]:
    array = items.take(np.arange(len(items), dtype=np.uint32))
    assert array.type == BYTES
    assert array.null_count == 0
    found: list[bytes] = array.to_pylist()
    return found


def hash_of(item: bytes, key: bytes) -> bytes:
    return sha256(key + item).digest()[:16]


def order_oracle(rows: Sequence[bytes | None], key: bytes) -> list[bytes]:
    return sorted({row for row in rows if row is not None}, key=lambda item: hash_of(item, key))


def bin_oracle(item: bytes, key: bytes, bins: int) -> int:
    return int.from_bytes(hash_of(item, key)[:4], "big") * bins >> 32


def check(found: Items, rows: list[bytes | None], key: bytes, bins: int) -> None:
    """Compare counts, bins and matches with those of plain sets, in all bins with items and in a few others."""
    expected = order_oracle(rows, key)
    assert (len(found), found.rows, found.null_keys) == (len(expected), len(rows), rows.count(None))
    starts = found.starts(bins)
    assert (len(starts), starts[0], starts[-1]) == (bins + 1, 0, len(expected))
    numbers = [bin_oracle(item, key, bins) for item in expected]
    for number in {*numbers, 0, bins // 2, bins - 1}:
        mine = [item for item, its in zip(expected, numbers, strict=True) if its == number]
        assert expected[starts[number] : starts[number + 1]] == mine
        for budget in (AMPLE, 0):
            assert all_of(found.bin(number, bins, budget)) == mine
    for matched in ({*expected[::3]}, set(), {*expected}):
        matches = Matches(starts)
        for number in set(numbers):
            mine = expected[starts[number] : starts[number + 1]]
            matches.put(number, np.array([item in matched for item in mine], np.bool_))
        assert (matches.count, matches.items) == (len(matched), len(expected))
        mask = found.row_mask(matches)
        assert mask.type == pa.bool_()
        assert mask.to_pylist() == [row in matched for row in rows]


BINS = st.sampled_from([1, 2, 8, 128, 256, 512, 4096, MOST_BINS])
# With None, all rows stay in memory. With a budget, rows go to disk with the first batch or with a later one.
BUDGETS = st.none() | st.sampled_from([0, 100, 1000, 5000, 20_000])


@pytest.mark.more
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.none() | st.integers(0, 40).map(lambda n: b"item-%d" % n * (n % 4)), max_size=60),
    number=st.integers(0, 3), budget=BUDGETS, batch=st.integers(1, 70), bins=BINS,
)  # fmt: skip
def test_the_order_follows_the_keyed_hashes_for_any_budget(
    spool: Spool, rows: list[bytes | None], number: int, budget: int | None, batch: int, bins: int
) -> None:
    """Equal items count once, and all their rows match; batches, partitions and the disk make no difference."""
    with closing(partitioned(array(rows), key(number), spool, budget, batch)) as found:
        check(found, rows, key(number), bins)


@pytest.mark.sample(1)
@pytest.mark.parametrize("bins", [1, 16, 1024])
@pytest.mark.parametrize("budget", [None, 100_000, 1_000_000])
def test_many_rows(spool: Spool, budget: int | None, bins: int) -> None:
    """Some items occur in one row, some in many rows of every batch, one in half of all rows; one is very long."""
    values = [None if n % 97 == 0 else b"often" if n % 2 else b"%d" % (n % 5000) * (1 + n % 7) for n in range(20_000)]
    values[777] = b"x" * 100_000
    found = partitioned(array(values), key(3), spool, budget, 1500)
    assert (spool.peak > 0) is (budget is not None)
    check(found, values, key(3), bins)


@pytest.mark.sample(1)
@pytest.mark.parametrize("budget", [None, 50_000])
def test_bins_can_be_read_in_any_order_by_several_threads(spool: Spool, budget: int | None) -> None:
    rows = array([b"%d" % number for number in range(5000)])
    found = partitioned(rows, key(1), spool, budget, 500)
    expected = order_oracle(rows.to_pylist(), key(1))
    starts = found.starts(32)
    matches = Matches(starts)
    for number in range(32):
        matches.put(number, np.ones(matches.size(number), np.bool_))
    asked = [*range(32), *range(31, -1, -1), 7, 7, 7, 7]
    with ThreadPoolExecutor(4) as pool:
        bins = [
            pool.submit(lambda number=number: all_of(found.bin(number, 32, AMPLE * (number % 2)))) for number in asked
        ]
        masks = [pool.submit(found.row_mask, matches) for _ in range(4)]
    for number, each in zip(asked, bins, strict=True):
        assert each.result() == expected[starts[number] : starts[number + 1]]
    assert [mask.result().true_count for mask in masks] == [5000] * 4


@pytest.mark.parametrize("budget", [None, 0])
def test_items_can_be_read_in_any_order_and_repeatedly(spool: Spool, budget: int | None) -> None:
    rows = [b"%d" % number * (number % 9) for number in range(300)]
    found = partitioned(array(rows), key(1), spool, budget)
    expected = order_oracle(rows, key(1))
    places = np.random.default_rng(1).integers(0, len(expected), 1000).astype(np.uint32)
    for room in (AMPLE, 0):
        items = found.bin(0, 1, room)
        assert items.take(places).to_pylist() == [expected[place] for place in places]
        assert items.take(places[:0]).to_pylist() == []


@pytest.mark.sample(1)
@pytest.mark.parametrize("budget", [None, 0])
def test_slices_of_an_array_and_bytes_of_nulls(spool: Spool, budget: int | None) -> None:
    data, offsets = pa.py_buffer(b"aabbaaXYbb"), pa.py_buffer(np.array([0, 2, 4, 6, 8, 10], np.int64))
    rows = pa.Array.from_buffers(BYTES, 5, [pa.py_buffer(b"\x17"), offsets, data])
    assert rows.to_pylist() == [b"aa", b"bb", b"aa", None, b"bb"]
    for start in range(5):
        part = rows.slice(start)
        check(partitioned(part, key(1), spool, budget), part.to_pylist(), key(1), 2)


@pytest.mark.parametrize("without_kernel", [False, True])
def test_items_are_taken_by_their_places(without_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_kernel:
        monkeypatch.setattr(partitions.records, "native", None)
    values = [b"x" * (row % 7) + bytes([row]) for row in range(200)]
    places = np.random.default_rng(1).integers(0, 150, 500, dtype=np.uint32)
    for start in (0, 1, 50):
        items = partitions._take(array(values).slice(start), places)
        items.validate(full=True)
        assert items.to_pylist() == [values[start + place] for place in places.tolist()]
    assert len(partitions._take(array(values), places[:0])) == len(partitions._take(array([]), places[:0])) == 0


@pytest.mark.parametrize("budget", [None, 0])
def test_null_keys_and_no_rows(spool: Spool, budget: int | None) -> None:
    rows: list[bytes | None]
    for rows in ([], [None], [None, None, None]):
        found = partitioned(array(rows), key(1), spool, budget, 2)
        check(found, rows, key(1), 1)
        # A task without items has no bins.
        assert found.starts(0) == [0, 0]


@pytest.mark.sample(1)
@pytest.mark.parametrize("bins", [1, 2, 512])
def test_hashes_that_share_their_first_half(spool: Spool, monkeypatch: pytest.MonkeyPatch, bins: int) -> None:
    """Real hashes need about 2^32 items for this, so the test shortens them."""

    def shortened(values: Any, key: bytes) -> bytes:
        digests = (sha256(key + value).digest() for value in values.to_pylist())
        return b"".join(digest[:1] + bytes(7) + digest[1:2] + bytes(7) for digest in digests)

    monkeypatch.setattr(curve, "keyed_hashes", shortened)
    rows = [b"%d" % (number % 400) for number in range(700)]
    hashes = {row: shortened(array([row]), key(1)) for row in rows}
    # One item represents all items with the same hash.
    for budget in (None, 3000):
        items = partitioned(array(rows), key(1), spool, budget, 100)
        found = [hashes[item] for number in range(bins) for item in all_of(items.bin(number, bins, AMPLE))]
        assert found == sorted(set(hashes.values()))
        assert len({each[:8] for each in found}) < len(found)
        matches = Matches(items.starts(bins))
        for number in range(bins):
            matches.put(number, np.arange(matches.size(number)) == 0)
        firsts = {hashes[all_of(items.bin(n, bins, 0))[0]] for n in range(bins) if matches.size(n)}
        assert items.row_mask(matches).to_pylist() == [hashes[row] in firsts for row in rows]


def test_bins_without_a_result_match_nothing() -> None:
    matches = Matches([0, 3, 3, 10, 12])
    matches.put(2, np.array([True, False, False, True, True, False, True]))
    assert [matches.size(number) for number in range(4)] == [3, 0, 7, 2]
    assert (matches.items, matches.count) == (12, 4)
    everything = [False] * 3 + [True, False, False, True, True, False, True] + [False] * 2
    for start in range(13):
        for stop in range(start, 13):
            assert matches.between(start, stop).tolist() == everything[start:stop]
    # A bin that is computed again has a new result.
    matches.put(2, np.zeros(7, np.bool_))
    assert (matches.count, matches.between(0, 12).any()) == (0, False)


def test_duplicates_change_nothing() -> None:
    once = [b"%d" % number for number in range(200)]
    many = [value for value in once for _ in range(20)]
    found = [partitioned(array(rows), key(5)) for rows in (once, many)]
    assert all_of(found[0].bin(0, 1, AMPLE)) == all_of(found[1].bin(0, 1, AMPLE))


# The disk --------------------------------------------------------------------------------------------------------


def test_the_disk_is_used_only_beyond_the_budget(spool: Spool) -> None:
    """The estimate of the number of rows makes no difference."""
    rows = array([b"%08d" % number for number in range(1000)])
    cost = 1000 * (ROW_BYTES + 2 * 8)
    for expected, budget, spooled in ((0, cost, False), (10**5, cost, False), (0, cost - 1, True)):
        partitioner = Partitioner(key(1), spool, budget)
        partitioner.expect(expected)
        partitioner.add(rows.slice(0, 250))
        partitioner.add(rows.slice(250))
        before, spool.peak = spool.peak, 0
        assert (before > 0) is spooled
        assert (disk_bytes(1000, 8000, budget) > 0) is spooled
        assert len(partitioner.finish()) == 1000


def test_the_estimate_of_disk_space_is_right(spool: Spool) -> None:
    rows = array([b"%08d" % number for number in range(100_000)])
    partitioner = Partitioner(key(1), spool, 1_000_000)
    partitioner.expect(100_000)
    for start in range(0, 100_000, 5000):
        partitioner.add(rows.slice(start, 5000))
    partitioner.finish()
    estimate = disk_bytes(100_000, 800_000, 1_000_000)
    assert estimate == 3_200_000
    assert spool.peak == estimate


def test_an_input_longer_than_expected_is_partitioned(spool: Spool) -> None:
    rows = [b"%08d" % (number % 3000) for number in range(9000)]
    partitioner = Partitioner(key(1), spool, 10_000)
    partitioner.expect(10)
    for start in range(0, 9000, 1000):
        partitioner.add(array(rows[start : start + 1000]))
    check(partitioner.finish(), [*rows], key(1), 8)


def test_no_room_for_the_items(spool: Spool) -> None:
    """The error is raised before anything is written; its message has the estimate, but no item."""
    partitioner = Partitioner(key(1), spool, 100)
    partitioner.expect(10**15)
    with pytest.raises(SpoolSpaceError, match=r"the run needs 400000\d\d\.\d GB besides") as caught:
        partitioner.add(array([b"very-secret-item"] * 2))
    assert caught.value.code == 74
    assert "very" not in caught.value.message + caught.value.advice


def test_more_rows_than_32_bits_can_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MAX_ROWS", 1000)
    partitioner = Partitioner(key(1))
    partitioner.add(array([b"a"] * 600))
    partitioner.add(array([None] * 400))
    with pytest.raises(TooManyRowsError):
        partitioner.add(array([None]))


def test_closing_frees_disk_space(spool: Spool, tmp_path: Path) -> None:
    rows = array([b"%08d" % number for number in range(1000)])
    for budget in (None, 1000):
        found = partitioned(rows, key(1), spool, budget)
        found.close()
        found.close()
    assert [path.name for path in (tmp_path / "state").glob("run-*/*")] == ["lock"]


@pytest.mark.parametrize("budget", [None, 1000])
def test_an_input_that_cannot_be_read_to_its_end_leaves_nothing(
    spool: Spool, tmp_path: Path, budget: int | None
) -> None:
    before = pa.total_allocated_bytes()
    with closing(Partitioner(key(1), spool, budget)) as partitioner:
        partitioner.add(array([b"%08d" % number for number in range(1000)]))
    # Threads of earlier tests may hold arrays of theirs for a moment.
    wait_until(lambda: pa.total_allocated_bytes() <= before, "the memory of the items is free")
    assert [path.name for path in (tmp_path / "state").glob("run-*/*")] in ([], ["lock"])


def test_items_longer_than_the_budget_stay_on_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bin's items are read into memory if they fit; otherwise, only requested items are read."""
    rows = [b"%05d" % number * 100 for number in range(4000)]
    found = partitioned(array(rows), key(1), spool, 100_000, 500)
    read: list[int] = []
    real = SpoolFile.read_at

    def watched(self: SpoolFile, offset: int, into: memoryview) -> None:
        real(self, offset, into)
        # Items consist of digits, but the hashes in entries do not.
        read.append(len(into) * bytes(into).isdigit())

    monkeypatch.setattr(SpoolFile, "read_at", watched)
    expected = order_oracle(rows, key(1))
    starts = found.starts(4)
    for number in range(4):
        mine = expected[starts[number] : starts[number + 1]]
        size = 500 * len(mine)
        held, left = found.bin(number, 4, size), None
        assert sum(read) == size
        read.clear()
        assert all_of(held) == mine
        assert read == []
        left = found.bin(number, 4, size - 1)
        assert sum(read) == 0
        assert len(left) == len(mine)
        read.clear()
        assert left.take(np.array([3, 1], np.uint32)).to_pylist() == [mine[3], mine[1]]
        assert sum(read) == 1000
        read.clear()


# Memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
    import ctypes
    import sys
    from pathlib import Path
    import numpy as np
    import pyarrow as pa
    from psicli.items.partitions import Matches, Partitioner
    from psicli.storage.spool import Spool

    # glibc keeps an unknown part of freed memory. Blocks above M_MMAP_THRESHOLD are unmapped as soon as they are freed.
    ctypes.CDLL(None).mallopt(-3, 1 << 20)
    pa.set_memory_pool(pa.system_memory_pool())

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def rows(start, stop):
        data = np.zeros((stop - start, 25), np.uint8)
        data[:, :8] = (np.arange(start, stop) % DISTINCT).view(np.uint8).reshape(-1, 8)
        offsets = np.arange(stop - start + 1) * 25
        return pa.Array.from_buffers(pa.large_binary(), stop - start, [None, pa.py_buffer(offsets), pa.py_buffer(data)])

    def divide(count, budget, bins):
        partitioner = Partitioner(bytes(32), spool, budget)
        partitioner.expect(count)
        for start in range(0, count, 16_384):
            partitioner.add(rows(start, min(start + 16_384, count)))
        found = partitioner.finish()
        assert len(found) == min(count, DISTINCT)
        matches = Matches(found.starts(bins))
        for number in range(bins):
            items = found.bin(number, bins, budget)
            for start in range(0, len(items), 16_384):
                items.take(np.arange(start, min(start + 16_384, len(items)), dtype=np.uint32))
            matches.put(number, np.ones(len(items), np.bool_))
        assert found.row_mask(matches).true_count == count
        found.close()

    DISTINCT, COUNT, BUDGET = map(int, sys.argv[2:])
    with Spool(Path(sys.argv[1])) as spool:
        divide(20_000, 100_000, 16)
        divide(20_000, 10_000_000, 16)
        spool.peak, before = 0, peak()
        divide(COUNT, BUDGET, 256)
        print(peak() - before, spool.peak)
"""


def measured(tmp_path: Path, distinct: int, count: int, budget: int) -> tuple[int, int]:
    """Return how much memory a process takes to partition `count` rows of 25 bytes, and how much disk space [bytes]."""
    numbers = map(str, (distinct, count, budget))
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path / "state"), *numbers]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True, check=True)
    grown, spooled = map(int, done.stdout.split())
    return grown, spooled


@pytest.mark.more
@pytest.mark.parametrize("distinct", [10**9, 1000])
def test_memory_is_bounded_by_the_budget(tmp_path: Path, distinct: int) -> None:
    """Partitioning three million rows of 25 bytes takes 16 MB, plus a few bytes per row for the result."""
    grown, spooled = measured(tmp_path, distinct, 3_000_000, 16_000_000)
    assert spooled > 3_000_000 * 4
    assert grown < 16_000_000 + 3 * 3_000_000


@pytest.mark.more
def test_memory_of_rows_in_memory(tmp_path: Path) -> None:
    """A budget that is just large enough also bounds rows that stay in memory."""
    budget = 1_000_000 * (ROW_BYTES + 2 * 25)
    grown, spooled = measured(tmp_path, 10**9, 1_000_000, budget)
    assert spooled == 0
    assert grown < budget
