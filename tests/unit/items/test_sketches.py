"""Sketches of inputs: what they say about a difference, and what is kept of them."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from psicli import curve
from psicli.config import PolicySettings
from psicli.core.errors import TooSmallDifferenceError
from psicli.items import sketches as module
from psicli.items.partitions import Partitioner
from psicli.items.sketches import Sketch, Sketches
from psicli.job.policy import Comparison, Policy
from psicli.storage.spool import Spool
from psicli.storage.state import make_state_folder


@pytest.fixture
def sketches(tmp_path: Path) -> Sketches:
    return Sketches(tmp_path / "state", "alice", "bob")


@pytest.fixture
def known(sketches: Sketches, tmp_path: Path) -> Sketches:
    """Sketches with a known key: with a random one, items that differ may share a bucket."""
    make_state_folder(tmp_path / "state")
    sketches._save(module._Kept(bytes(range(curve.HASH_KEY_BYTES))))
    return sketches


def items(*numbers: int) -> pa.LargeBinaryArray:
    return pa.array([b"item-%d" % number for number in numbers], pa.large_binary())


def of(sketches: Sketches, *numbers: int) -> Sketch:
    sketch = sketches.begin()
    sketch.add(items(*numbers))
    return sketch


def difference(sketches: Sketches, *numbers: int) -> int | None:
    found = sketches.closest(of(sketches, *numbers))
    return None if found is None else found.items


def test_a_small_difference_is_known_exactly(known: Sketches) -> None:
    assert difference(known, *range(100)) is None
    known.keep(of(known, *range(100)), "nightly", "customers")
    assert difference(known, *range(100)) is None
    assert difference(known, *range(101)) == 1
    assert difference(known, *range(7, 100)) == 7
    # The same number of items, but three are others.
    assert difference(known, *range(97), 200, 201, 202) == 6
    assert difference(known) == 100
    text = str(known.closest(of(known, *range(104))))
    assert text.startswith("its input differs in 4 items from that of task customers of job nightly at 20")


def test_a_difference_below_the_limit_is_never_missed(known: Sketches) -> None:
    """Items that share a bucket make a difference look smaller, never larger."""
    known.keep(of(known, *range(2000)), "nightly", "customers")
    seen = [difference(known, *range(many, 2000 + many)) or 0 for many in range(10, 500, 10)]
    real = range(20, 1000, 20)
    assert all(few <= many for few, many in zip(seen, real, strict=True))
    assert all(few > 0.85 * many for few, many in zip(seen, real, strict=True))


def test_the_closest_of_all_tasks_counts_and_the_last_inputs_of_each(sketches: Sketches) -> None:
    sketches.keep(of(sketches, *range(100)), "nightly", "customers")
    sketches.keep(of(sketches, *range(500)), "nightly", "others")
    assert difference(sketches, *range(498)) == 2
    for number in range(1, 8):
        sketches.keep(of(sketches, *range(1000 * number)), "nightly", "others")
        # Another list in between does not make psicli forget an earlier one.
        assert difference(sketches, *range(498)) == 2
    # The same list again takes no other place.
    sketches.keep(of(sketches, *range(7000)), "nightly", "others")
    assert difference(sketches, *range(498)) == 2
    sketches.keep(of(sketches, *range(8000)), "nightly", "others")
    assert difference(sketches, *range(110)) == 10
    assert difference(sketches, *range(498)) == pytest.approx(398, rel=0.15)


def test_the_oldest_sketch_goes_first(sketches: Sketches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    for number in range(4):
        sketches.keep(of(sketches, *range(1000 * number, 1000 * number + 10)), "nightly", f"task-{number}")
    assert difference(sketches, *range(1000, 1011)) == 1
    assert difference(sketches, *range(11)) != 1


def test_the_inputs_of_one_task_do_not_displace_the_last_one_of_another(
    sketches: Sketches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    sketches.keep(of(sketches, *range(10)), "weekly", "customers")
    for number in range(1, 5):
        sketches.keep(of(sketches, *range(1000 * number, 1000 * number + 10)), "nightly", "customers")
    assert difference(sketches, *range(11)) == 1
    assert difference(sketches, *range(4000, 4011)) == difference(sketches, *range(3000, 3011)) == 1


def test_a_job_that_does_not_compare_leaves_the_inputs_of_others(sketches: Sketches) -> None:
    sketches.keep(of(sketches, *range(10)), "nightly", "customers")
    sketches.keep(of(sketches, *range(1000)), "other", "customers")
    sketches.forget("other")
    assert difference(sketches, *range(11)) == 1
    assert difference(sketches, *range(1001)) != 1


@pytest.mark.parametrize("budget", [None, 10_000])
def test_duplicates_and_the_place_of_the_rows_do_not_matter(
    sketches: Sketches, tmp_path: Path, budget: int | None
) -> None:
    expected = of(sketches, *range(5000))
    sketch = sketches.begin()
    with Spool(tmp_path / "state") as spool:
        partitioner = Partitioner(bytes(32), spool, budget, sketch.add)
        for start in range(0, 5000, 500):
            partitioner.add(items(*range(start, start + 500), 0, 1, 2))
        partitioner.finish().close()
    assert np.array_equal(sketch.buckets, expected.buckets)
    assert sketch.items == 5000


def test_a_file_holds_no_item_and_a_damaged_one_begins_anew(sketches: Sketches, tmp_path: Path) -> None:
    sketches.keep(of(sketches, *range(10)), "nightly", "customers")
    (path,) = (tmp_path / "state").glob("sketches-*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    whole = path.read_bytes()
    assert b"item" not in whole.replace(b'"items"', b"")
    for damaged in (whole[:-1], whole[:50], b"", b"{}\n", bytes(len(whole))):
        path.write_bytes(damaged)
        assert difference(sketches, *range(11)) is None
    sketches.forget("nightly")
    sketches.forget("nightly")
    assert not path.exists()
    # Another peer has another key.
    assert sketches.begin().key != Sketches(tmp_path / "state", "alice", "carol").begin().key


@pytest.mark.parametrize(("limit", "refused", "warned"), [(None, 0, 9), (0, 0, 0), (5, 4, 0), (1000, 12, 0)])
def test_the_limit_and_the_warning(sketches: Sketches, limit: int | None, refused: int, warned: int) -> None:
    warnings: list[str] = []
    policy = Policy(PolicySettings(min_difference=limit), "customers")
    sketches.keep(of(sketches, *range(10)), "nightly", "customers")
    for more in range(13):
        comparison = Comparison(sketches, policy, "nightly", warnings.append)
        sketch = comparison.begin()
        assert (sketch is None) is (limit == 0)
        if sketch is not None:
            half = Sketch(sketch.key)
            half.add(items(*range(5, 10 + more)))
            sketch.add(items(*range(5)))
            sketch.merge(half)
        if 0 < more <= refused:
            with pytest.raises(TooSmallDifferenceError) as caught:
                comparison.check()
            assert (caught.value.code, f"differs in {more} item" in caught.value.message) == (79, True)
        else:
            comparison.check()
    assert len(warnings) == warned


def test_without_a_limit_a_failure_is_only_a_warning(sketches: Sketches, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    warnings: list[str] = []
    comparison = Comparison(sketches, Policy(PolicySettings(), "customers"), "nightly", warnings.append)
    assert comparison.begin() is None
    comparison.check()
    comparison.keep()
    assert "psicli cannot compare this input with earlier ones" in warnings[0]
