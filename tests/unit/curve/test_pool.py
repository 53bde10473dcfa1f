"""Tests of the kernel's thread pool: parts and their order, failures, forks, and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from psicli.curve import pool


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    pool.set_threads(None)


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 2049, 16_384, 100_000])
def test_parts_are_consecutive_and_whole_blocks(threads: int, count: int) -> None:
    pool.set_threads(threads)
    parts = pool.in_parts(count, lambda start, stop: (start, stop))
    assert [index for start, stop in parts for index in (start, stop)] == [
        0, *(at for start, _ in parts[1:] for at in (start, start)), count,
    ]  # fmt: skip
    assert all((stop - start) % 256 == 0 for start, stop in parts[:-1])
    if threads > 1 and count >= 512:
        assert 1 < len(parts) <= 4 * threads
    else:
        assert len(parts) == 1


def test_small_calls_and_single_threads_run_in_the_calling_thread() -> None:
    for threads, count in ((1, 100_000), (8, 511)):
        pool.set_threads(threads)
        assert pool.in_parts(count, lambda start, stop: threading.get_ident()) == [threading.get_ident()]


def test_the_set_number_of_threads_computes() -> None:
    pool.set_threads(3)
    # Three parts wait for each other, so the call fails with fewer than three threads.
    barrier = threading.Barrier(3)
    ids = pool.in_parts(12 * 256, lambda start, stop: (barrier.wait(60), threading.get_ident())[1])
    assert len(ids) == 12
    assert len(set(ids)) == 3
    # The calling thread is one of them.
    assert threading.get_ident() in ids


def test_every_core_by_default() -> None:
    assert pool.threads() == len(os.sched_getaffinity(0))
    pool.set_threads(5)
    assert pool.threads() == 5


def test_the_first_failure_is_raised_after_all_parts_have_ended() -> None:
    pool.set_threads(2)
    failed, worked = threading.Event(), []

    def work(start: int, stop: int) -> None:
        if start == 256:
            failed.set()
            raise ArithmeticError("the second part")
        if start == 0:
            assert failed.wait(60)
        elif start == 512:
            raise ValueError("the third part")
        worked.append(start)

    with pytest.raises(ArithmeticError, match="the second part"):
        pool.in_parts(4 * 256, work)
    assert sorted(worked) == [0, 768]


def run(code: str) -> str:
    script = f"from psicli.curve import pool\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.more
def test_a_forked_process_has_its_own_pool() -> None:
    code = """
import os, threading, warnings
warnings.simplefilter("ignore")
pool.set_threads(2)
count = lambda: len(pool.in_parts(2048, lambda start, stop: threading.get_ident()))
assert count() == 8
child = os.fork()
assert count() == 8
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""
    assert run(code) == "both\n"


def test_a_process_ends_although_its_pool_exists() -> None:
    assert run("pool.set_threads(4); print(len(pool.in_parts(2048, lambda start, stop: 0)))") == "8\n"


def test_without_more_threads_the_calling_thread_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pool.set_threads(8)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool._shared_pool.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        ids = pool.in_parts(16 * 256, lambda start, stop: threading.get_ident())
    pool._shared_pool.cache_clear()
    assert ids == [threading.get_ident()] * 16


def test_an_exception_in_the_calling_thread_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception such as KeyboardInterrupt, running parts end and no further part starts."""
    pool.set_threads(2)
    caller, waiting, wait = threading.get_ident(), threading.Event(), pool.wait
    worked = []

    def wait_for_parts(parts: list[Any]) -> None:
        waiting.set()
        wait(parts)

    def work(start: int, stop: int) -> None:
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        assert waiting.wait(60)
        worked.append(start)

    monkeypatch.setattr(pool, "wait", wait_for_parts)

    with pytest.raises(KeyboardInterrupt):
        pool.in_parts(8 * 256, work)
    at_the_end = list(worked)
    # The pool can only compute these parts when it has finished the previous call.
    pool.in_parts(8 * 256, lambda start, stop: None)
    assert worked == at_the_end
    assert len(worked) <= 1
