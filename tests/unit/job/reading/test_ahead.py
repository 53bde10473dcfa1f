"""Tests of a reading that begins before its task: what it holds, and when another reading must take its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.waiting import wait_until

from psicli.core.errors import ColumnError, InputChangedError, PsicliError
from psicli.core.formats import FileFormat, Format
from psicli.core.stages import Stages
from psicli.items.spelling import Spellings
from psicli.job.reading.ahead import Batch, Reading
from psicli.job.task_run import _last_changes
from psicli.tables import Input, Source, open_source
from psicli.tables.parquet import ParquetInput

ROWS, GROUPS = 1000, 8
ALL = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is read in several batches."""
    return write(tmp_path / "in.parquet", [f"key-{row}" for row in range(ROWS)])


def write(path: Path, keys: list[Any]) -> Path:
    pq.write_table(pa.table({"id": keys}), path, row_group_size=ROWS // GROUPS)
    return path


@pytest.fixture
def read() -> Iterator[Callable[[Path], Reading]]:
    """Make readings, which are closed at the end of the test."""
    made: list[Reading] = []

    def reading(path: Path) -> Reading:
        opening = partial(open_source, Source.of_file(path, FileFormat(Format.PARQUET)), ["id"])
        touched = partial(_last_changes, Source.of_file(path, FileFormat(Format.PARQUET)))
        made.append(Reading(opening, Spellings(["id"]), Stages("task"), touched))
        return made[-1]

    yield reading
    for each in made:
        each.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of all inputs, batch by batch; each row group is one."""
    seen: list[str] = []
    key_batches = ParquetInput.key_batches

    def counted(source: ParquetInput, *arguments: Any) -> Iterator[Any]:
        for texts in key_batches(source, *arguments):
            for start in range(0, len(texts[0]), ROWS // GROUPS):
                seen.append(source.name)
                yield tuple(text[start : start + ROWS // GROUPS] for text in texts)

    monkeypatch.setattr(ParquetInput, "key_batches", counted)
    return seen


def items(reading: Reading) -> list[bytes]:
    return [item for batch in reading.batches() for item in batch.items.to_pylist()]


def held(path: Path) -> tuple[Reading, Input, threading.Event, threading.Event]:
    """Return a reading that says when it opens its input, the input, that event, and one that it then waits for."""
    begun, may_end = threading.Event(), threading.Event()
    source = open_source(Source.of_file(path, FileFormat(Format.PARQUET)), ["id"])

    def opening() -> Input:
        begun.set()
        assert may_end.wait(60)
        return source

    return Reading(opening, Spellings(["id"]), Stages("task")), source, begun, may_end


def ended(reading: Reading) -> bool:
    assert reading._thread is not None
    return not reading._thread.is_alive()


def is_open(path: Path) -> bool:
    return any(each.resolve() == path for each in Path("/proc/self/fd").iterdir())


def test_what_was_read_ahead_is_what_a_reading_yields(path: Path, read: Callable[[Path], Reading]) -> None:
    late, early = read(path), read(path)
    expected = items(late)
    assert len(expected) == ROWS
    early.begin(ALL)
    wait_until(lambda: ended(early), "the whole input is read")
    assert early.goes_on()
    assert early.seconds > 0
    assert items(early) == expected
    assert early.source.rows == ROWS
    traits = [each.spellings.columns(each.source.schema) for each in (late, early)]
    assert traits[0] == traits[1]


def test_a_reading_may_stop_at_any_batch(path: Path, read: Callable[[Path], Reading], batches: list[str]) -> None:
    """The task may come before anything was read."""
    expected = items(read(path))
    for _ in range(20):
        reading = read(path)
        reading.begin(ALL)
        assert reading.goes_on()
        assert items(reading) == expected


def test_the_items_that_wait_are_few(path: Path, read: Callable[[Path], Reading], batches: list[str]) -> None:
    reading = read(path)
    reading.begin(1)
    wait_until(lambda: ended(reading), "one batch is read")
    assert len(batches) == 1
    reading.goes_on()
    assert len(items(reading)) == ROWS
    assert len(batches) == GROUPS
    # As much as the items of half the batches take.
    size = sum(batch.items.nbytes for batch in read(path).batches()) // 2
    batches.clear()
    reading = read(path)
    reading.begin(size)
    wait_until(lambda: ended(reading), "half of the input is read")
    assert len(batches) in (GROUPS // 2, GROUPS // 2 + 1)


@pytest.mark.parametrize("budget", [1, ALL])
def test_an_input_that_has_changed_is_read_again(path: Path, read: Callable[[Path], Reading], budget: int) -> None:
    reading = read(path)
    reading.begin(budget)
    wait_until(lambda: ended(reading), "a part of the input is read")
    write(path, [f"other-{row}" for row in range(7)])
    assert not reading.goes_on()
    reading.close()
    assert len(items(read(path))) == 7


@pytest.mark.parametrize("budget", [1, ALL])
def test_an_input_that_was_rewritten_with_its_old_time_is_read_again(
    path: Path, read: Callable[[Path], Reading], budget: int
) -> None:
    """As by programs that write in place and then set the time of the last change."""
    before = path.stat()
    reading = read(path)
    reading.begin(budget)
    wait_until(lambda: ended(reading), "a part of the input is read")
    data = path.read_bytes()

    def rewritten_later() -> bool:
        with path.open("r+b") as file:
            file.write(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    # The clock of the file system may be coarse.
    wait_until(rewritten_later, "the file has another time of its last change")
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not reading.goes_on()


def test_the_time_of_a_reading_ends_where_its_task_begins(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on, the task measures the time."""
    reading, _, begun, may_end = held(path)
    now = [0.0]
    monkeypatch.setattr("psicli.job.reading.ahead.time.monotonic", lambda: now[0])
    with ThreadPoolExecutor(1) as executor:
        reading.begin(ALL)
        assert begun.wait(60)
        now[0] = 3.0
        going_on = executor.submit(reading.goes_on)
        while reading._until != now[0]:
            assert not going_on.done()
        now[0] = 8.0
        may_end.set()
        assert going_on.result()
    assert reading.seconds == 3.0
    reading.close()


def test_an_error_is_told_by_the_reading_that_counts(path: Path, read: Callable[[Path], Reading]) -> None:
    write(path, ["good", "bad\0"])
    reading = read(path)
    reading.begin(ALL)
    wait_until(lambda: ended(reading), "the error is found")
    assert not reading.goes_on()
    with pytest.raises(ColumnError):
        items(read(path))


def test_a_change_during_the_rest_is_an_error(path: Path, read: Callable[[Path], Reading], batches: list[str]) -> None:
    reading = read(path)
    reading.begin(1)
    assert reading.goes_on()
    found = reading.batches()
    assert isinstance(next(found), Batch)
    write(path, ["other"])
    with pytest.raises(InputChangedError):
        list(found)


def test_a_closed_reading_leaves_nothing_open(path: Path, read: Callable[[Path], Reading]) -> None:
    reading = read(path)
    reading.close()
    reading.begin(1)
    wait_until(lambda: ended(reading) and not is_open(path), "the file is closed")
    reading = read(path)
    reading.begin(ALL)
    wait_until(lambda: ended(reading), "the whole input is read")
    assert is_open(path)
    reading.close()
    reading.close()
    assert not is_open(path)
    assert items(reading) == []


def test_a_reading_that_takes_long_closes_its_input_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run does not wait for it."""
    monkeypatch.setattr("psicli.job.reading.ahead._LAST_BATCH", 0.0)
    reading, _, begun, may_end = held(path)
    reading.begin(ALL)
    assert begun.wait(60)
    reading.close()
    assert is_open(path)
    may_end.set()
    wait_until(lambda: not is_open(path), "the file is closed")


def test_a_reading_is_closed_while_its_task_reads(path: Path) -> None:
    """As when the run fails elsewhere meanwhile: the thread of the task ends with an error, and nobody else does."""
    reading, source, begun, may_end = held(path)
    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(items, reading)
        assert begun.wait(60)
        reading.close()
        source.close()
        may_end.set()
        with pytest.raises((PsicliError, OSError, ValueError)):
            found.result()
    reading.close()
