"""Concurrency within a run, measured by the benchmarks: parallel stages, busy cores and a busy slow link."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import network
import overlap
import pytest
from overlap import Interval, Trace
from shared.parties import PARTIES, RECEIVER, SENDER, run_parties, trace_of, write_job, write_keys

CORES = len(os.sched_getaffinity(0))
MOST_FOR_OTHERS = 0.05


def trace_file(path: Path, steps: list[tuple[str, float, float, float]]) -> Path:
    """Write a trace of these steps: name, begin, duration and time on a core [ms]."""
    events: list[dict[str, Any]] = [
        {"ph": "X", "name": name, "pid": 1, "tid": 1, "ts": began * 1e3, "dur": took * 1e3, "tdur": computed * 1e3}
        for name, began, took, computed in steps
    ]
    events.append({"ph": "C", "name": "sent", "pid": 1, "ts": 1.0, "args": {"bytes": 5}})
    path.write_text(json.dumps({"otherData": {"party": path.stem, "full": "false"}, "traceEvents": events}))
    return path


# Known answers ---------------------------------------------------------------------------------------------------


def test_parallel_stages_are_counted_while_points_are_masked(tmp_path: Path) -> None:
    alice = Trace(
        trace_file(
            tmp_path / "alice",
            [
                ("read input", 0, 110, 0),
                ("mask own", 100, 50, 0),
                # Two intervals of the same stage count as one stage.
                ("mask own", 120, 20, 0),
                ("send", 145, 10, 0),
                ("wait for peer", 100, 100, 0),
                ("receive", 170, 10, 0),
                ("keep", 170, 10, 0),
            ],
        )
    )
    bob = Trace(trace_file(tmp_path / "bob", [("mask peer", 180, 20, 0), ("write output", 190, 500, 0)]))
    window = overlap.masking_window([alice, bob])
    assert (window.began, window.ended) == (100_000, 200_000)
    # Within the 100 ms: one stage at 100-155 and 170-180; two stages at 100-110, 145-150 and 170-180.
    assert overlap.parallel_shares(overlap.stages_of(alice), window)[:4] == pytest.approx([1.0, 0.65, 0.25, 0.0])
    assert overlap.parallel_shares(overlap.stages_of(bob), window)[:4] == pytest.approx([1.0, 0.2, 0.1, 0.0])


def test_the_kernel_share_counts_the_time_its_calls_computed(tmp_path: Path) -> None:
    many = Trace(trace_file(tmp_path / "a", [("mask own", 0, 100, 60), ("part", 0, 50, 40), ("part", 50, 40, 20)]))
    single = Trace(trace_file(tmp_path / "b", [("mask own", 0, 100, 50), ("mask peer", 90, 20, 10)]))
    # Only half of the last call falls within this window.
    window = Interval(0.0, 100_000.0)
    assert overlap.kernel_share([many], window, 1) == pytest.approx(0.6)
    assert overlap.kernel_share([many, single], window, 2) == pytest.approx((60 + 55) / 200)


def test_a_transfer_is_what_was_sent_from_the_first_byte_to_the_last() -> None:
    samples = [network.Sample(at / 10, sent) for at, sent in enumerate([70, 70, 1070, 1070, 50_070, 50_070, 50_070])]
    way = network.transfer(samples)
    assert (way.seconds, way.sent) == (pytest.approx(0.2), 50_000)
    assert way.busy(network.bits_a_second("2.5mbit")) == pytest.approx(0.8)


# Real runs -------------------------------------------------------------------------------------------------------


def measured(folder: Path, rows: int, **settings: int) -> tuple[list[Trace], Interval]:
    """Run both parties and return what their traces hold."""
    write_keys(folder, rows)
    outcome = run_parties(write_job(folder, pipeline=settings), folder)
    assert outcome.task(RECEIVER)["matched"] == rows - rows // 2
    traces = [Trace(trace_of(folder, party)) for party in PARTIES]
    assert not any(trace.full for trace in traces)
    return traces, overlap.masking_window(traces)


@pytest.mark.more
def test_a_small_run_has_several_stages_at_work(tmp_path: Path) -> None:
    traces, window = measured(tmp_path, 60_000, frame_items=2048)
    for trace in traces:
        stages = overlap.stages_of(trace)
        assert {"masking own points", "masking the peer's", "keeping", "sending", "receiving"} <= {
            stage for stage, times in stages.items() if times
        }
        assert overlap.parallel_shares(stages, window)[2] > 0.1
    # The kernel gets a core even when other tests keep the machine busy.
    assert 0.0 < overlap.kernel_share(traces, window, CORES) <= 1.0
    assert "two or more stages at work" in "\n".join(overlap.lines(traces, CORES))


@contextmanager
def machine_to_ourselves() -> Iterator[None]:
    """Skip the test if other programs used the cores during the block, since the test compares shares of the cores."""
    before, started = others_seconds(), time.monotonic()
    yield
    share = (others_seconds() - before) / (CORES * (time.monotonic() - started))
    if share > MOST_FOR_OTHERS:
        pytest.skip(f"other programs took {share:.0%} of the cores")


def others_seconds() -> float:
    """Return how long all cores worked for other programs than this process and its finished children [s]."""
    # user nice system idle iowait irq softirq steal (proc_stat(5))
    spent = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in own)
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK") - ours


@pytest.mark.slow
def test_a_large_run_keeps_the_cores_and_the_stages_busy(tmp_path: Path) -> None:
    with machine_to_ourselves():
        traces, window = measured(tmp_path, 1_000_000)
    for trace in traces:
        assert overlap.parallel_shares(overlap.stages_of(trace), window)[2] >= 0.8
    assert overlap.kernel_share(traces, window, CORES) >= 0.87


@pytest.mark.slow
def test_a_slow_link_is_busy_from_the_first_byte_to_the_last(tmp_path: Path) -> None:
    if reason := network.missing():
        pytest.skip(reason)
    with machine_to_ourselves():
        outcome, sent = network.exchange(tmp_path, "2mbit", 50_000)
    assert outcome.task(RECEIVER)["matched"] == 25_000
    # The sender sends little besides points and tokens.
    assert 2_400_000 < sent[SENDER].sent < 2_700_000
    assert 0.9 <= sent[SENDER].busy(2e6) <= 1.02
