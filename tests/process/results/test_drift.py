"""Runs outside what was usual in thirty nights: they warn, fail before an output is replaced, or are accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.history.ledgers import write_ledger
from support.processes.expectations import OLD, csv_data, failed, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Side, other

from psicli.report.history.series import Night, Series
from psicli.storage.ledger import Ledger

# What each party had in every night: 1,000 distinct items, of which 400 matched.
ITEMS, MATCHED = 1000, 400
USUAL = Night("", "", "done", None, None, ITEMS, ITEMS, ITEMS, MATCHED, MATCHED / ITEMS, 60.0)


def prepared(pair: Pair, own: Callable[[str], Night] = lambda _: USUAL, nights: int = 30, **terms: Any) -> Pair:
    """Add a task that ran every night until yesterday, and the inputs of a usual night.

    own: what a party's nights were like, if this is not usual.
    """
    outputs = () if terms.get("result") == "count" else ("out/o.csv",)
    sides = [Side(["id"], "in.csv", *outputs) for _ in PARTIES]
    if not terms.get("broadcast_result"):
        # A sender of a one-sided task has no output.
        sides[1] = Side(["id"], "in.csv")
    pair.add("people", *sides, **terms)
    for party in PARTIES:
        write_input(pair, party)
    write_ledger(pair.folder / "state", *(series(party, own(party), nights) for party in PARTIES))
    for party in PARTIES:
        pair.path(party, "out/o.csv").write_bytes(OLD)
    return pair


def series(party: str, night: Night, nights: int) -> Series:
    last = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    moments = [(last - timedelta(days=number)).isoformat() for number in reversed(range(nights))]
    runs = [replace(night, time=moment, run=f"{party.encode().hex()}{at:04}") for at, moment in enumerate(moments)]
    return Series("overlap", "people", party, other(party), runs)


def write_input(pair: Pair, party: str, items: int = ITEMS, matching: int = MATCHED) -> None:
    keys = [f"k{number:06}" for number in range(matching)]
    keys += [f"{party}{number:06}" for number in range(items - matching)]
    pair.path(party, "in.csv").write_bytes(csv_data(["id"], [[key] for key in keys]))


def task_of(result: Result) -> dict[str, Any]:
    (task,) = the_object(result.stdout)["tasks"]
    return task


def outside(result: Result) -> list[str]:
    return [each["measure"] for each in task_of(result)["drift"]]


def output(pair: Pair, party: str = LISTENER) -> bytes:
    return pair.path(party, "out/o.csv").read_bytes()


@pytest.mark.more
def test_a_usual_night_says_nothing(pair: Pair) -> None:
    prepared(pair)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 1}
    succeeded(results := pair.run("--json"))
    assert [(outside(each), task_of(each)["warnings"]) for each in results] == [([], []), ([], [])]


@pytest.mark.more
def test_half_of_the_rows_warn_both_parties(pair: Pair) -> None:
    prepared(pair)
    write_input(pair, LISTENER, ITEMS // 2, MATCHED // 2)
    alice, bob = pair.run("--json")
    succeeded([alice, bob])
    assert (outside(alice), outside(bob)) == (["rows", "distinct_items"], ["peer_items"])
    assert task_of(alice)["warnings"][0] == "500 rows, usually 802 to 1,246 (last 30 runs)"
    assert task_of(bob)["warnings"] == ["500 distinct items of alice, usually 802 to 1,246 (last 30 runs)"]
    assert any(" WARNING " in line and "500 rows, usually 802 to" in line for line in alice.stderr.splitlines())
    (first, _) = task_of(alice)["drift"]
    assert first == {"measure": "rows", "value": 500, "usual": 1000, "low": 802, "high": 1246, "distance": 3.15}


def test_the_other_party_never_learns_a_size_that_is_refused(pair: Pair) -> None:
    prepared(pair)
    write_input(pair, DIALER, 2 * ITEMS)
    pair.jobs[DIALER]["policy"] = {"max_drift": 2.5}
    alice, bob = pair.run("--json")
    failed(bob, 79, r"task people: 2,000 rows, usually 802 to 1,246 \(last 30 runs\), a distance of 3.1; 2,000 dist")
    failed(alice, 80, r"bob's policy does not allow this run")
    assert task_of(alice)["peer_items"] is None
    assert output(pair) == OLD
    assert "`--accept-drift rows,distinct_items`" in bob.stderr


@pytest.mark.more
def test_the_size_of_the_peer_is_refused_before_any_point_is_sent(pair: Pair) -> None:
    prepared(pair)
    write_input(pair, DIALER, 2 * ITEMS)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 2.5}
    alice, bob = pair.run("--json")
    failed(alice, 79, "task people: 2,000 distinct items of bob, usually 802 to 1,246")
    failed(bob, 80, "alice's policy does not allow this run")
    assert output(pair) == OLD


@pytest.mark.more
@pytest.mark.parametrize("result", ["rows", "count"])
def test_no_matches_fail_the_receiver_alone_if_only_it_learns_the_result(pair: Pair, result: str) -> None:
    prepared(pair, lambda party: replace(USUAL, matched=None, rate=None) if party == DIALER else USUAL, result=result)
    write_input(pair, LISTENER, ITEMS, 0)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 2}
    pair.jobs[DIALER]["policy"] = {"max_drift": 1, "min_peer_items": 1, "max_runs_per_day": 200}
    alice, bob = pair.run("--json")
    failed(alice, 79, "task people: 0.0 % of the distinct items matched, usually 34.")
    succeeded([bob])
    assert (outside(alice), outside(bob)) == (["rate"], [])
    assert output(pair) == OLD


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_a_party_of_a_broadcast_keeps_its_old_output(pair: Pair, party: str) -> None:
    prepared(pair, broadcast_result=True)
    write_input(pair, DIALER, ITEMS, 0)
    pair.jobs[party]["policy"] = {"max_drift": 2}
    results = dict(zip(PARTIES, pair.run("--json"), strict=True))
    failed(results[party], 79, "task people: 0.0 % of the distinct items matched")
    assert output(pair, party) == OLD
    if party == DIALER:
        # The sender confirms the result whatever its policy says.
        succeeded([results[LISTENER]])
        assert output(pair, LISTENER) != OLD


@pytest.mark.more
def test_whole_percent_holds_for_what_is_unusual(pair: Pair) -> None:
    prepared(pair, lambda _: replace(USUAL, matched=None))
    write_input(pair, LISTENER, ITEMS, 37)
    pair.jobs[LISTENER]["policy"] = {"whole_percent": True}
    alice, bob = pair.run("--json")
    succeeded([alice, bob])
    assert task_of(alice)["warnings"][0] == "4 % of the distinct items matched, usually 35 % to 45 % (last 30 runs)"
    (rate,) = task_of(alice)["drift"]
    assert [rate[name] for name in ("value", "usual", "low", "high")] == [0.04, 0.4, 0.35, 0.45]


def start_accepting(pair: Pair, measures: str) -> tuple[Result, Result]:
    """Run both parties, of which the listener accepts some measures."""
    alice, bob = pair.start(LISTENER, "--json", "--accept-drift", measures), pair.start(DIALER, "--json")
    return alice.result(), bob.result()


@pytest.mark.more
def test_what_is_accepted_is_usual_from_then_on(pair: Pair) -> None:
    prepared(pair)
    write_input(pair, LISTENER, 3 * ITEMS, 3 * MATCHED)
    write_input(pair, DIALER, ITEMS, MATCHED)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 2}
    alice, _ = pair.run("--json")
    failed(
        alice, 79, r"people: 3,000 rows, usually 802 to 1,246 .*, a distance of 5.0; 3,000 distinct items, usually 802"
    )
    # The hint is what to type. What nobody has seen is still refused.
    alice, _ = start_accepting(pair, "rows,distinct_items")
    failed(alice, 79, "people: 13.3 % of the distinct items matched, usually 35.0 % to 45.0 %")
    assert "`--accept-drift rows,distinct_items,rate`" in alice.stderr
    assert outside(alice) == ["rows", "distinct_items", "rate"]
    assert task_of(alice)["drift_accepted"] == ["rows", "distinct_items"]
    assert output(pair) == OLD
    succeeded(start_accepting(pair, "rows,distinct_items,rate"))
    assert output(pair) != OLD
    entry = Ledger(pair.folder / "state").entries()[-2:]
    accepted = {each.opening.party: each.drift_accepted for each in entry}
    assert accepted == {LISTENER: ["rows", "distinct_items", "rate"], DIALER: None}
    alice, bob = pair.run("--json")
    succeeded([alice, bob])
    assert (outside(alice), task_of(alice)["drift_accepted"]) == ([], [])


@pytest.mark.more
def test_what_is_usual_needs_no_acceptance(pair: Pair) -> None:
    prepared(pair)
    succeeded(results := start_accepting(pair, "rate"))
    assert task_of(results[0])["drift_accepted"] == []
    assert {each.drift_accepted for each in Ledger(pair.folder / "state").entries()} == {None}


@pytest.mark.parametrize("measures", ["seconds", "rows,"])
def test_only_measures_that_may_be_refused_are_accepted(pair: Pair, measures: str) -> None:
    result = prepared(pair, nights=0).start(LISTENER, "--accept-drift", measures).result()
    assert result.code == 2
    sentence = f"{measures.split(',')[-1]!r} is not one of rows, distinct_items, peer_items, rate. Name several with"
    assert f"Invalid value for --accept-drift: {sentence} commas between them." in result.stderr


@pytest.mark.more
def test_a_slow_night_only_warns(pair: Pair) -> None:
    prepared(pair, lambda _: replace(USUAL, seconds=0.001))
    pair.jobs[LISTENER]["policy"] = {"max_drift": 1}
    pair.environment["PSICLI_BACKEND"] = "reference"
    alice, _ = results = pair.run("--json")
    succeeded(results)
    assert (outside(alice), task_of(alice)["warnings"][0].startswith("the task took ")) == (["seconds"], True)


@pytest.mark.more
@pytest.mark.parametrize("nights", [0, 13])
def test_few_nights_say_nothing(pair: Pair, nights: int) -> None:
    prepared(pair, nights=nights)
    write_input(pair, LISTENER, 10, 10)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 1}
    succeeded(pair.run())


@pytest.mark.more
def test_other_jobs_and_peers_are_no_measure(pair: Pair) -> None:
    prepared(pair, nights=0)
    small = replace(USUAL, rows=10, distinct_items=10, peer_items=10, matched=4)
    nights = series(LISTENER, small, 30).nights
    others = [
        Series(job, "people", LISTENER, peer, nights) for job, peer in (("another", DIALER), ("overlap", "carol"))
    ]
    write_ledger(pair.folder / "state", *others)
    pair.jobs[LISTENER]["policy"] = {"max_drift": 1}
    succeeded(pair.run())
