"""Show from the traces of a run how much work was parallel: several stages at a time, and the kernel on the cores.

Both figures are shares of the time in which points are masked, from the first frame to the last. Without traces, the
script first runs both parties here. Traces of both parties on one machine have the same clock.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.parties import PARTIES, in_child, run_parties, trace_of, work_folder, write_job, write_keys

# Step of the trace -> stage. Waiting does not belong to a stage.
STAGES = {
    "read input": "reading",
    "count items": "reading",
    "fetch bin": "reading",
    "mask own": "masking own points",
    "mask peer": "masking the peer's",
    "keep": "keeping",
    "send": "sending",
    "receive": "receiving",
    "check lists": "checking",
    "match": "matching",
    "write output": "writing",
    "publish output": "writing",
}
MASKING = ("mask own", "mask peer")
# The step for one thread's part of a kernel call that several threads share.
PART = "part"


@dataclass(frozen=True)
class Interval:
    """A time in which a step was at work [us]; computed: the time it spent on a core [us]."""

    began: float
    ended: float
    computed: float = 0.0

    def within(self, window: Interval) -> Interval:
        """Return the part of this interval within a window, with its share of `computed`."""
        began, ended = max(self.began, window.began), min(self.ended, window.ended)
        whole = self.ended - self.began
        part = max(ended - began, 0.0) / whole if whole else 0.0
        return Interval(began, max(began, ended), self.computed * part)


class Trace:
    """The steps of one party's run."""

    def __init__(self, path: Path) -> None:
        whole = json.loads(path.read_text())
        self.party = whole["otherData"]["party"]
        self.full = whole["otherData"]["full"] == "true"
        self.steps: dict[str, list[Interval]] = {}
        for event in whole["traceEvents"]:
            if event["ph"] == "X":
                interval = Interval(event["ts"], event["ts"] + event["dur"], event["tdur"])
                self.steps.setdefault(event["name"], []).append(interval)

    def of(self, *names: str) -> list[Interval]:
        return [interval for name in names for interval in self.steps.get(name, ())]


def masking_window(traces: Iterable[Trace]) -> Interval:
    """Return the time in which either party masks points, from its first frame to its last."""
    masked = [interval for trace in traces for interval in trace.of(*MASKING)]
    return Interval(min(each.began for each in masked), max(each.ended for each in masked))


def stages_of(trace: Trace) -> dict[str, list[Interval]]:
    """Return the intervals in which each stage was at work."""
    return {
        stage: trace.of(*(step for step, belongs in STAGES.items() if belongs == stage)) for stage in STAGES.values()
    }


def parallel_shares(stages: Mapping[str, list[Interval]], window: Interval) -> list[float]:
    """Return the share of the window in which at least 0, 1, 2, … stages were at work."""
    changes = []
    for stage, intervals in stages.items():
        for interval in intervals:
            inside = interval.within(window)
            changes += [(inside.began, 1, stage), (inside.ended, -1, stage)]
    at_work = dict.fromkeys(stages, 0)
    spent = [0.0] * (len(stages) + 1)
    now = window.began
    for when, change, stage in [*sorted(changes), (window.ended, 0, next(iter(stages)))]:
        for number in range(sum(count > 0 for count in at_work.values()) + 1):
            spent[number] += when - now
        now = when
        at_work[stage] += change
    return [time / (window.ended - window.began) for time in spent]


def kernel_share(traces: Sequence[Trace], window: Interval, cores: int) -> float:
    """Return the share of the cores' time within the window that the kernel used."""
    computed = 0.0
    for trace in traces:
        # With a single thread, the trace has no parts, and a frame is one call.
        calls = trace.of(PART) or trace.of(*MASKING)
        computed += sum(call.within(window).computed for call in calls)
    return computed / (cores * (window.ended - window.began))


def lines(traces: Sequence[Trace], cores: int) -> Iterable[str]:
    """Yield the figures as lines of text."""
    window = masking_window(traces)
    yield f"from the first frame to the last: {(window.ended - window.began) / 1e6:.2f} s"
    for trace in traces:
        stages = stages_of(trace)
        shares = parallel_shares(stages, window)
        rest = " (the trace is full and covers only the beginning)" if trace.full else ""
        two, three = (f"{share:.1%}" for share in shares[2:4])
        yield f"{trace.party}: two or more stages at work {two} of this time, three or more {three}{rest}"
        busy = [(stage, parallel_shares({stage: times}, window)[1]) for stage, times in stages.items()]
        yield "  " + ", ".join(f"{stage} {share:.1%}" for stage, share in busy if share)
    yield f"the kernel used {kernel_share(traces, window, cores):.1%} of the time of {cores} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="*", help="traces of a run (--trace), one for each party")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of a run without traces (%(default)s)")
    options = parser.parse_args()
    for line in lines(traces_of(options), len(os.sched_getaffinity(0))):
        print(line)


def traces_of(options: Any) -> list[Trace]:
    if options.trace:
        return [Trace(path) for path in options.trace]
    with work_folder() as folder:
        in_child(write_keys, folder, options.rows)
        outcome = run_parties(write_job(folder), folder)
        print(f"{options.rows:,} x {options.rows:,} rows: {outcome.seconds:.2f} s from start to exit")
        return [Trace(trace_of(folder, party)) for party in PARTIES]


if __name__ == "__main__":
    main()
