"""Tests of phone numbers, and of the processes that convert many of them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from psicli.core import signals
from psicli.core.errors import TerminatedBySignal
from psicli.items.forms import phone_pool, phone_worker
from psicli.items.forms.convert import Converter
from psicli.items.forms.names import parse_form
from psicli.items.forms.phone_pool import PhonePool
from psicli.items.forms.rules.phones import library_version, phone, region_exists

TEXTS = [
    each for n in range(60) for each in (f"0170 {1000000 + n}", f"+49 30 {100000 + n} x7", f"no {n}", "\u0660\u0661")
]
EXPECTED = [phone("DE", text) for text in TEXTS]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes start for few numbers."""
    monkeypatch.setattr(phone_pool, "_ENOUGH", 100)
    monkeypatch.setattr(phone_pool, "_AT_ONCE", 7)


@pytest.fixture
def pool(few: None) -> Iterator[PhonePool]:
    pool = PhonePool("DE", 2)
    yield pool
    pool.close()


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def workers() -> list[psutil.Process]:
    """Return the processes that convert numbers and have not ended."""
    found = []
    for child in children():
        # What has ended has no command line, even if nobody has reaped it.
        with suppress(psutil.NoSuchProcess):
            if phone_worker.__name__ in child.cmdline():
                found.append(child)
    return found


def wait_for_end(process: psutil.Process) -> None:
    """Wait until a child has ended, without reaping it."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_regions_and_the_version_of_the_library() -> None:
    assert [region_exists(region) for region in ("DE", "US", "XX", "")] == [True, True, False, False]
    assert library_version().split(".")[0].isdigit()


@pytest.mark.parametrize("region", ["DE", "US", "IT", "AU", "BR"])
def test_a_number_in_its_form_stays_in_every_region(region: str) -> None:
    for start in ("0", "00", "+61 0", "+61 00", "+55 90", "+1 1"):
        made = phone(region, f"{start}212 555 0100")
        assert made is None or phone(region, made) == phone("", made) == made


def test_few_numbers_are_converted_in_this_process() -> None:
    with Converter([parse_form("phone/DE")], threads=2) as converter:
        assert converter.convert(0, pa.array(TEXTS, pa.large_string())).to_pylist() == EXPECTED
        assert workers() == []


def test_one_thread_needs_no_process(few: None) -> None:
    pool = PhonePool("DE", 1)
    assert pool.convert(TEXTS) == EXPECTED
    assert workers() == []
    pool.close()


def test_many_numbers_are_converted_in_processes_that_end_with_the_pool(few: None) -> None:
    before, others = descriptors(), children()
    with Converter([parse_form("phone/DE"), parse_form("phone/DE/sha256")], threads=2) as converter:
        texts = pa.array([*TEXTS, None, ""], pa.large_string())
        assert converter.convert(0, texts).to_pylist() == [*EXPECTED, None, ""]
        started = workers()
        assert 1 <= len(started) <= 2
        # Numbers are no arguments, which other users see.
        assert {tuple(each.cmdline()[-3:]) for each in started} == {("-m", phone_worker.__name__, "DE")}
        # Only the pipes and the place of what it says in distress are its own.
        assert all(set(os.listdir(f"/proc/{each.pid}/fd")) == {"0", "1", "2"} for each in started)
        converter.convert(1, texts)
        assert {each.pid for each in started} <= {each.pid for each in workers()}
    assert not any(each.is_running() for each in started)
    assert {*children()} <= {*others}
    # Libraries may have closed some that earlier tests had left.
    assert descriptors() <= before


def test_a_number_of_any_input_counts_towards_the_start(pool: PhonePool) -> None:
    for start in range(0, len(TEXTS), 60):
        assert pool.convert(TEXTS[start : start + 60]) == EXPECTED[start : start + 60]
    assert workers() != []


def test_where_a_process_dies_this_one_does_its_work_and_says_so_once(
    pool: PhonePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.convert(TEXTS)
    # A thread that had nothing to do yet may start its process later. The third round finds none to kill.
    for _ in range(3):
        for worker in workers():
            worker.kill()
            wait_for_end(worker)
        with caplog.at_level(logging.WARNING):
            assert pool.convert(TEXTS) == EXPECTED
    assert workers() == []
    assert [record.message for record in caplog.records] == [
        "a process for phone numbers has failed; this one does its work, which takes longer"
    ]


def test_where_no_process_can_start_this_one_does_the_work(
    pool: PhonePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(phone_pool, "_COMMAND", ("/nowhere/python",))
    with caplog.at_level(logging.WARNING):
        assert pool.convert(TEXTS) == EXPECTED
    assert len(caplog.records) == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_ends_no_process(pool: PhonePool, number: int) -> None:
    pool.convert(TEXTS)
    before = workers()
    for worker in before:
        worker.send_signal(number)
    assert pool.convert(TEXTS) == EXPECTED
    # A thread that had nothing to do yet may have started its process since.
    assert {*before} <= {*workers()}


def test_a_signal_ends_a_conversion(pool: PhonePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_noted", TerminatedBySignal())
    monkeypatch.setattr(signals, "SLICE", 0.0)
    with pytest.raises(TerminatedBySignal):
        pool.convert(TEXTS * 4)
    assert pool.convert(TEXTS) == EXPECTED


CODE = """
import sys
from psicli.items.forms import phone_pool
phone_pool._ENOUGH = phone_pool._AT_ONCE = 10
pool = phone_pool.PhonePool("DE", 2)
pool.convert(["0170 1234567"] * 1000)
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
"""


@pytest.mark.more
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_started_them(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = psutil.Process(process.pid).children()
        assert started != []
        process.send_signal(number)
    assert psutil.wait_procs(started, 20)[1] == []


# The worker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], [None], ["", None, "a\u00fc", "x" * 5000], ["0"] * 3000], ids=len)
def test_batches_are_read_as_they_were_written(texts: list[str | None]) -> None:
    stream = BytesIO()
    phone_worker.write_texts(stream, texts)
    phone_worker.write_texts(stream, ["next"])
    whole = stream.getvalue()
    stream.seek(0)
    assert phone_worker.read_texts(stream) == texts
    assert phone_worker.read_texts(stream) == ["next"]
    assert phone_worker.read_texts(stream) is None
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        cut = BytesIO(whole[:length])
        read = phone_worker.read_texts(cut)
        assert read in (None, texts)
        assert phone_worker.read_texts(cut) is None


def test_the_worker_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys, {phone_worker.__name__}; print(sorted({{'numpy', 'pyarrow', 'yaml'}} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert printed.strip() == "[]"


def test_the_worker_ends_without_a_word_when_nobody_reads_its_results() -> None:
    command = [*phone_pool._COMMAND, "DE"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    phone_worker.write_texts(process.stdin, ["0170 1234567"] * 5000)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
