"""Runs of a party that wants to know only in whole percent how much matched, and that needs lists of some length."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.processes.expectations import OLD, csv_data, failed, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

# Numbers that occur nowhere else: 4,357 own items, of which 1,913 match, in 2,913 rows; that is 43.9 %.
OWN, MATCHED, EXTRA, PEER = 4357, 1913, 1000, 5031


def counted_pair(pair: Pair, *, broadcast: bool = True, **output: Any) -> Pair:
    """Add a task in which 1,913 items of both parties match; the listener has 1,000 of these twice."""
    rows = [[f"k{number:07}", "x"] for number in range(OWN)] + [[f"k{number:07}", "y"] for number in range(EXTRA)]
    pair.path(LISTENER, "in.csv").write_bytes(csv_data(["id", "v"], rows))
    theirs = [[f"k{number:07}"] for number in range(MATCHED)] + [[f"z{number:07}"] for number in range(PEER - MATCHED)]
    pair.path(DIALER, "in.csv").write_bytes(csv_data(["id"], theirs))
    sides = Side(["id"], "in.csv", "out/o.csv"), Side(["id"], "in.csv", "out/o.csv")
    pair.add("people", *sides, broadcast_result=broadcast, **({"output": output} if output else {}))
    return pair


# What holds any digits by chance: ids and digests, the port, and the folder of the tests.
CHANCE = re.compile(r"\b[0-9a-f]{16,64}\b|127\.0\.0\.1:\d+|/pytest-\d+/")


def exact_numbers(text: str) -> list[str]:
    """Return which numbers of matches a text names, plain or with commas."""
    text = CHANCE.sub("", text)
    numbers = [MATCHED, MATCHED + EXTRA, OWN - MATCHED, OWN + EXTRA - MATCHED - EXTRA]
    return [shown for number in numbers for shown in (str(number), f"{number:,}") if shown in text]


@pytest.mark.more
@pytest.mark.parametrize("rows", ["matched", pytest.param("unmatched", marks=pytest.mark.more)])
def test_nothing_but_the_output_tells_the_number(pair: Pair, rows: str) -> None:
    counted_pair(pair, rows=rows)
    for party in PARTIES:
        pair.jobs[party]["policy"] = {"whole_percent": True}
    traces = {party: pair.path(party, "trace.json") for party in PARTIES}
    runs = [pair.start(party, "--json", "-v", "--trace", str(traces[party])) for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    for party, percent, result in zip(PARTIES, (44, 38), results, strict=True):
        (task,) = the_object(result.stdout)["tasks"]
        hidden = [task[name] for name in ("matched", "matched_rows", "output_rows")]
        assert (hidden, task["matched_percent"]) == ([None] * 3, percent)
        facts = the_object(result.stdout)
        assert facts["spool_bytes"] is None
        # Sizes and times hold any digits by chance.
        for entry in (facts, task):
            for name in ("seconds", "peak_memory", "bytes_sent", "bytes_received", "task_sid", "session_id"):
                entry.pop(name, None)
        task.pop("stages"), task.pop("timeline")
        task.pop("output_sha256")
        facts["tasks"] = [task]
        for name in ("ledger_head", "peer_certificate_sha256"):
            facts.pop(name)
        assert exact_numbers(json.dumps(facts)) == []
        events = json.loads(traces[party].read_text())["traceEvents"]
        assert exact_numbers(json.dumps([[event.get("name"), event.get("args")] for event in events])) == []
    # The exact rows are in the output.
    lines = pair.path(LISTENER, "out/o.csv").read_bytes().count(b"\n") - 1
    assert lines == (MATCHED + EXTRA if rows == "matched" else OWN - MATCHED)
    listed = pair.start_command("ledger").result().stdout.decode()
    assert [f"{percent} %" in listed for percent in (44, 38)] == [True, True]
    tasks = the_object(pair.start_command("ledger", "--json").result().stdout)["tasks"]
    assert sorted((task["matched"], task["matched_percent"]) for task in tasks) == [(None, 38), (None, 44)]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_match_rate": 0.4}, "44 % of 4,357 distinct items matched, above policy.max_match_rate, which is 0.4"),
        ({"min_output_rows": 4000}, "fewer rows matched than policy.min_output_rows, which is 4,000"),
        ({}, ""),
    ],
)
def test_text_reports_and_refusals_are_in_whole_percent(pair: Pair, limits: dict[str, Any], sentence: str) -> None:
    counted_pair(pair, broadcast=False)
    pair.path(LISTENER, "out/o.csv").write_bytes(OLD)
    pair.jobs[LISTENER]["policy"] = {"whole_percent": True, **limits}
    alice, bob = pair.run("-v")
    succeeded([bob])
    text = alice.stdout.decode() + alice.stderr
    if sentence:
        failed(alice, 79, f"task people: {sentence}")
        assert pair.path(LISTENER, "out/o.csv").read_bytes() == OLD
    else:
        succeeded([alice])
        assert "people          44 %     5,357  done    " in text
        assert "matched   44 % of the distinct items" in text
    assert exact_numbers(text.replace("4,357", "").replace("5,357", "")) == []


@pytest.mark.more
def test_a_list_that_is_too_short_ends_the_run_before_its_length_is_known(pair: Pair) -> None:
    counted_pair(pair)
    pair.jobs[DIALER]["policy"] = {"min_items": PEER + 1}
    alice, bob = pair.run("--json")
    failed(bob, 79, f"task people: the input has {PEER:,} distinct items, fewer than policy.min_items, which is 5,032")
    failed(alice, 80, r"bob's policy does not allow this run")
    assert the_object(alice.stdout)["tasks"][0]["peer_items"] is None
    pair.jobs[DIALER]["policy"] = {"min_items": PEER}
    succeeded(pair.run())
