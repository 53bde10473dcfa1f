"""The time of each stage of a task, and the trace of a run."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from psicli.core import trace
from psicli.core.errors import CannotCreateError
from psicli.core.stages import MAX_INTERVALS, Stage, Stages
from psicli.report.trace_file import save_trace
from psicli.storage.memory import peak_memory

FACTS = {"job": "nightly"}


class Clock:
    """A clock that a test sets. It advances by `step` each time it is read [s]."""

    now = 50.0
    step = 0.0

    def perf_counter_ns(self) -> int:
        self.now += self.step
        return int(self.now * 1e9)

    monotonic_ns = perf_counter_ns

    def thread_time_ns(self) -> int:
        """A thread gets a core for half of the time."""
        return int(self.now / 2 * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("trace", "stages"):
        monkeypatch.setattr(f"psicli.core.{module}.time", clock)
    return clock


@pytest.fixture
def recording() -> Iterator[None]:
    trace.start()
    yield
    trace.stop()


def saved(path: Path) -> dict[str, Any]:
    save_trace(path, "alice", FACTS)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def events(path: Path, phase: str) -> list[dict[str, Any]]:
    return [event for event in saved(path)["traceEvents"] if event["ph"] == phase]


# Seconds by stage ------------------------------------------------------------------------------------------------


def test_a_stage_counts_the_time_in_which_any_thread_is_in_it(clock: Clock) -> None:
    """Two threads in a stage at the same time count once."""
    stages = Stages("one")
    first, second = (stages.at(Stage.COMPUTING, "mask own", frame) for frame in range(2))
    first.__enter__()
    clock.now += 2
    second.__enter__()
    clock.now += 3
    first.__exit__(None, None, None)
    clock.now += 5
    second.__exit__(None, None, None)
    clock.now += 100
    with stages.at(Stage.READING, "read input"):
        clock.now += 1
        # A stage that has not ended counts up to now.
        assert stages.seconds() == dict.fromkeys(Stage, 0.0) | {"computing": 10.0, "reading": 1.0}
    with stages.at(Stage.COMPUTING, "mask own", 2):
        clock.now += 7
    assert stages.seconds() == dict.fromkeys(Stage, 0.0) | {"computing": 17.0, "reading": 1.0}


def test_a_stage_that_fails_counts_too(clock: Clock) -> None:
    stages = Stages("one")
    clock.step = 4
    with pytest.raises(ZeroDivisionError), stages.at(Stage.WRITING, "write output"):
        raise ZeroDivisionError
    assert stages.seconds()["writing"] == 4.0
    assert stages.timeline(50.0) == [("writing", 4.0, 8.0)]


def ran(stages: Stages, clock: Clock, stage: Stage, *times: tuple[float, float]) -> None:
    for begin, end in times:
        clock.now = begin
        with stages.at(stage, "step"):
            clock.now = end


def test_a_timeline_says_when_each_stage_ran(clock: Clock) -> None:
    stages = Stages("one")
    ran(stages, clock, Stage.WRITING, (60.0, 61.0))
    ran(stages, clock, Stage.READING, (51.0, 52.0), (70.0, 71.5))
    clock.now = 80.0
    with stages.at(Stage.COMPUTING, "mask own"):
        clock.now = 90.0
        # A stage that has not ended runs up to now.
        assert stages.timeline(50.0) == [
            ("reading", 1.0, 2.0),
            ("writing", 10.0, 11.0),
            ("reading", 20.0, 21.5),
            ("computing", 30.0, 40.0),
        ]
    assert Stages("one").timeline(50.0) == []


def test_breaks_that_nobody_would_see_are_left_out_of_a_timeline(clock: Clock) -> None:
    """In a hundred seconds, a fifth of a second shows; with the other stages, nothing is merged."""
    stages = Stages("one")
    ran(stages, clock, Stage.READING, (100.0, 101.0), (101.25, 102.0), (102.125, 103.0))
    ran(stages, clock, Stage.COMPUTING, (102.0, 102.125))
    clock.now = 200.0
    expected = [("reading", 0.0, 1.0), ("reading", 1.25, 3.0), ("computing", 2.0, 2.125)]
    assert stages.timeline(100.0) == expected
    assert stages.seconds()["reading"] == 2.625


@pytest.mark.parametrize("seed", range(3))
def test_a_timeline_keeps_the_longest_breaks_of_each_stage(clock: Clock, seed: int) -> None:
    """However often a stage ran, a timeline is as short, and it is the same as if it had been shortened at the end."""
    chance = random.Random(seed)
    breaks = chance.sample(range(1, 5001), 5000)
    begins = [50.0 + each for each in accumulate(gap + 1 for gap in breaks)]
    stages = Stages("one")
    ran(stages, clock, Stage.COMPUTING, *((begin, begin + 1.0) for begin in begins))
    assert stages.seconds()["computing"] == 5000.0
    # Every break is shorter than a 500th of the time up to now.
    assert len(stages.timeline(50.0)) == 1
    found = stages.timeline(clock.now - 1000.0)
    assert len(found) == MAX_INTERVALS
    longest = sorted(breaks[1:])[-(MAX_INTERVALS - 1) :]
    assert sorted(after[1] - before[2] for before, after in pairwise(found)) == longest
    assert (found[0][1], found[-1][2]) == (begins[0] - clock.now + 1000.0, 1000.0)


def test_stages_can_be_used_in_any_thread() -> None:
    stages = Stages("one")

    def work() -> None:
        for _ in range(2000):
            with stages.at(Stage.COMPUTING, "mask own"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = stages.seconds()
    assert 0 < before["computing"] < 60
    # No thread is in a stage any more.
    assert stages.seconds() == before


def test_peak_memory_is_that_of_this_process_and_grows() -> None:
    before = peak_memory()
    assert before is not None
    held = bytearray(200 << 20)
    held[:: 1 << 12] = b"x" * (len(held) >> 12)
    after = peak_memory()
    assert after is not None
    assert 10 << 20 < before <= after
    # The process has had at least this much in memory, whatever the peak was before.
    assert after >= len(held)


# The trace -------------------------------------------------------------------------------------------------------


def test_a_trace_has_the_format_of_chrome(tmp_path: Path, clock: Clock, recording: None) -> None:
    """The fields are those of the JSON object format in Chrome's Trace Event Format."""
    with Stages("customers").at(Stage.COMPUTING, "mask peer", 7):
        clock.now += 0.25
        with trace.span("tokens"):
            clock.now += 0.5
    trace.count("outbox", "messages", 3)
    whole = saved(tmp_path / "t.json")
    assert set(whole) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert whole["otherData"] == {"job": "nightly", "full": "false"}
    process, lane, tokens, masked, count = whole["traceEvents"]
    pid = process["pid"]
    assert process == {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": "alice"}}
    assert lane == {"ph": "M", "name": "thread_name", "pid": pid, "tid": 1, "args": {"name": "MainThread"}}
    where = {"ph": "X", "cat": "psicli", "pid": pid, "tid": 1}
    assert tokens == {**where, "name": "tokens", "ts": 50.25e6, "dur": 0.5e6, "tdur": 0.25e6, "args": {}}
    facts = {"task": "customers", "frame": 7}
    assert masked == {**where, "name": "mask peer", "ts": 50e6, "dur": 0.75e6, "tdur": 0.375e6, "args": facts}
    assert count == {"ph": "C", "name": "outbox", "pid": pid, "ts": 50.75e6, "args": {"messages": 3}}


def test_every_thread_has_one_lane(tmp_path: Path, recording: None) -> None:
    def work() -> None:
        for _ in range(3):
            with trace.span("part"):
                pass

    names = ["psicli-compute_0", "psicli-compute_1"]
    threads = [threading.Thread(target=work, name=name) for name in names]
    for thread in threads:
        thread.start()
        thread.join()
    work()
    whole = saved(tmp_path / "t.json")["traceEvents"]
    lanes = {event["tid"]: event["args"]["name"] for event in whole if event["name"] == "thread_name"}
    assert list(lanes.values()) == [*names, threading.current_thread().name]
    assert sum(event["name"] == "thread_name" for event in whole) == 3
    assert [lanes[event["tid"]] for event in whole if event["ph"] == "X"] == [
        lane for lane in lanes.values() for _ in "abc"
    ]


def test_a_step_on_another_machine_has_a_lane_of_its_own(tmp_path: Path, recording: None) -> None:
    with trace.span("part"):
        pass
    for began, lane in ((5_000, "crunch-1"), (7_000, "crunch-2"), (8_000, "crunch-1")):
        trace.add("mask own", lane, began, began + 2_000, task="customers", frame=7)
    whole = saved(tmp_path / "t.json")["traceEvents"]
    lanes = {event["args"]["name"]: event["tid"] for event in whole if event["name"] == "thread_name"}
    assert [*lanes.values()] == [1, 2, 3]
    steps = [event for event in whole if event["name"] == "mask own"]
    assert [(each["tid"], each["ts"], each["dur"]) for each in steps] == [(2, 5, 2), (3, 7, 2), (2, 8, 2)]
    # Nobody here knows how long it was on a core.
    assert all("tdur" not in each and each["args"] == {"task": "customers", "frame": 7} for each in steps)


def test_a_step_that_fails_is_in_the_trace(tmp_path: Path, recording: None) -> None:
    with pytest.raises(ZeroDivisionError), trace.span("write output"):
        raise ZeroDivisionError
    assert [event["name"] for event in events(tmp_path / "t.json", "X")] == ["write output"]


def test_a_full_trace_ends_with_a_note(tmp_path: Path, recording: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_EVENTS", 10)
    for number in range(20):
        trace.count("inbox", "messages", number)
    whole = saved(tmp_path / "t.json")
    assert [event["args"]["messages"] for event in whole["traceEvents"] if event["ph"] == "C"] == [*range(10)]
    last = whole["traceEvents"][-1]
    assert (last["ph"], last["s"], last["name"]) == ("i", "g", "the trace is full: 10 events")
    assert whole["otherData"]["full"] == "true"


def test_nothing_is_recorded_without_a_trace(tmp_path: Path) -> None:
    trace.count("inbox", "messages", 1)
    trace.add("mask own", "crunch-1", 5_000, 7_000)
    with trace.span("part"), Stages("one").at(Stage.READING, "read input"):
        pass
    assert trace.span("part") is trace.span("other")
    save_trace(tmp_path / "t.json", "alice", FACTS)
    assert [*tmp_path.iterdir()] == []


def test_saving_a_trace_ends_the_recording(tmp_path: Path, recording: None) -> None:
    save_trace(tmp_path / "t.json", "alice", FACTS)
    trace.count("inbox", "messages", 1)
    save_trace(tmp_path / "again.json", "alice", FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_a_trace_that_cannot_be_written(tmp_path: Path, recording: None) -> None:
    with pytest.raises(CannotCreateError):
        save_trace(tmp_path / "absent" / "t.json", "alice", FACTS)
