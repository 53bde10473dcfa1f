"""The policy of a party: each limit at its edge, and runs of two processes that a limit ends."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support.processes.expectations import (
    OLD,
    check_output,
    failed,
    long_pair,
    marked,
    marked_pair,
    shape,
    succeeded,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Side, Tap, other

from psicli.config import PolicySettings
from psicli.core.errors import PolicyError
from psicli.job.policy import Policy
from psicli.protocol import wire
from psicli.protocol.bins import capacity, padded
from psicli.protocol.messages import Abort, End, Frame, Offer, Open, Stream, Working
from psicli.protocol.rr22.sizes import sizes
from psicli.storage.ledger import Ledger

REFUSED = r"(alice|bob)'s policy does not allow this run"

# The rules -------------------------------------------------------------------------------------------------------

Check = Callable[[Policy], None]
# The name of the limit, its value, a check that just passes, one that just fails, and words of the message.
EDGES: list[tuple[str, float, Check, Check, str]] = [
    (
        "min_peer_items",
        5,
        lambda p: p.check_peer_items(5, 5),
        lambda p: p.check_peer_items(4, 4),
        "has 4 distinct items",
    ),
    (
        "max_peer_items",
        5,
        lambda p: p.check_peer_items(5, 5),
        lambda p: p.check_peer_items(6, 6),
        "6 distinct items, more",
    ),
    # Padding is not an item, but it can hide questions.
    (
        "min_peer_items",
        5,
        lambda p: p.check_peer_items(5, 9),
        lambda p: p.check_peer_items(4, 9),
        "has 4 distinct items",
    ),
    (
        "max_peer_items",
        9,
        lambda p: p.check_peer_items(5, 9),
        lambda p: p.check_peer_items(5, 10),
        "has 5 distinct items and can ask about 10 including padding, more",
    ),
    (
        "max_peer_items",
        267,
        lambda p: p.check_peer_items(10, 267, store=True),
        lambda p: p.check_peer_items(10, 268, store=True),
        "has 10 distinct items and can ask about 268 (rr22: a tenth more and 256 for each bin, the spare positions "
        "of its store), more",
    ),
    ("max_runs_per_day", 2, lambda p: p.check_runs(1), lambda p: p.check_runs(2), "had 2 runs with"),
    # 0.3 has no exact binary fraction, but 3 of 10 must still be allowed.
    ("max_match_rate", 0.3, lambda p: p.check_match_rate(3, 10), lambda p: p.check_match_rate(4, 10), "4 of 10 dis"),
    ("max_match_rate", 1.0, lambda p: p.check_match_rate(9, 9), lambda p: p.check_match_rate(10, 9), "10 of 9 dis"),
    ("min_output_rows", 3, lambda p: p.check_output_rows(3), lambda p: p.check_output_rows(2), "2 rows matched, fewer"),
    ("min_items", 3, lambda p: p.check_items(3), lambda p: p.check_items(2), "the input has 2 distinct items"),
]


@pytest.mark.more
@pytest.mark.parametrize(("name", "limit", "allowed", "refused", "figure"), EDGES, ids=[edge[0] for edge in EDGES])
def test_each_limit_at_its_edge(name: str, limit: float, allowed: Check, refused: Check, figure: str) -> None:
    policy = Policy(PolicySettings(**{name: limit}), "customers")
    allowed(policy)
    with pytest.raises(PolicyError) as caught:
        refused(policy)
    assert caught.value.code == 79
    for part in ("task customers: ", figure, f"policy.{name}", str(limit)):
        assert part in caught.value.message
    refused(Policy(PolicySettings(), "customers"))


@pytest.mark.more
def test_the_match_rate_of_an_empty_input_is_allowed() -> None:
    Policy(PolicySettings(max_match_rate=0.1), "customers").check_match_rate(0, 0)


# Whole runs ------------------------------------------------------------------------------------------------------


def run_tapped(pair: Pair, port: int) -> tuple[dict[str, Result], dict[str, list[Any]]]:
    """Run both parties until they end; return their results and the messages that each of them sent."""
    tap = Tap(port, pair.port)
    try:
        runs = {party: pair.start(party, "--json") for party in PARTIES}
        results = {party: run.result() for party, run in runs.items()}
        sides = zip((DIALER, LISTENER), tap.messages(), strict=True)
        return results, {party: [wire.decode(message) for message in messages] for party, messages in sides}
    finally:
        tap.close()


def ledger(pair: Pair, party: str) -> list[dict[str, Any]]:
    """Return the ledger's entries about the tasks of one party; both parties share a state folder."""
    entries = Ledger(pair.folder / "state").entries()
    return [entry.to_json() for entry in entries if entry.opening.peer == other(party)]


def outputs(pair: Pair) -> list[bytes]:
    return [pair.path(party, "out/people.csv").read_bytes() for party in PARTIES]


def said(messages: list[Any]) -> list[Any]:
    """Return the messages of a side without its heartbeats, which depend on timing."""
    return [message for message in messages if not isinstance(message, Working)]


def streams(messages: list[Any], task: int = 0) -> set[int]:
    """Return the streams of which a side has sent anything."""
    return {message.stream for message in messages if isinstance(message, Frame | End) and message.task == task}


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_a_size_that_is_not_allowed_is_refused_before_any_point(tapped: tuple[Pair, int], party: str) -> None:
    """The task before it is complete; of the refused task, only Offer and Open were sent."""
    pair, port = tapped
    marked_pair(pair)
    for each in PARTIES:
        pair.path(each, "few.csv").write_bytes(marked(1, 2))
    pair.add(
        "few", Side(["id"], "few.csv", "out/few.csv"), Side(["id"], "few.csv", "out/few.csv"), broadcast_result=True
    )
    pair.jobs[party]["policy"] = {"min_peer_items": 3}
    results, sent = run_tapped(pair, port)
    sentence = f"task few: {other(party)} has 2 distinct items, fewer than policy.min_peer_items, which is 3"
    failed(results[party], 79, sentence)
    failed(results[other(party)], 80, REFUSED)
    reports = {each: the_object(result.stdout) for each, result in results.items()}
    for report in reports.values():
        assert [task["status"] for task in report["tasks"]] == ["done", "failed"]
        assert report["error"]["party"] == party
    assert (reports[party]["error"]["class"], reports[party]["error"]["message"]) == ("PeerSizeError", sentence)
    assert reports[other(party)]["error"]["class"] == "PeerPolicyError"
    assert streams(sent[party], 0)
    # Even these may not have been sent yet.
    of_second = [type(message) for message in said(sent[party]) if getattr(message, "task", None) == 1]
    assert of_second == [Offer, Open][: len(of_second)]
    assert sent[party][-1] == Abort(79)
    for each in PARTIES:
        check_output(pair, each, 0, "out/people.csv")
        assert not pair.path(each, "out/few.csv").exists()
    # The refused task is in the ledger too: its Open told the peer how many items this party has.
    assert [(task["task"], task["code"]) for task in ledger(pair, party)] == [("people", None), ("few", 79)]
    assert [(task["task"], task["code"]) for task in ledger(pair, other(party))] == [("people", None), ("few", 80)]


@pytest.mark.more
@pytest.mark.parametrize("protocol", ["ecdh", "rr22"])
def test_padding_counts_as_questions(pair: Pair, protocol: str) -> None:
    """With several bins, the maximum applies to what the peer can ask about, the minimum to the items it has.

    By RR22, a receiver can ask about as many items as its store has positions.
    """
    count = 20_000
    questions = dict.fromkeys(PARTIES, padded(count, 2))
    if protocol == "rr22":
        questions[DIALER] = 2 * sizes(capacity(count, 2)).store
    for party, first in zip(PARTIES, (0, count // 2), strict=True):
        rows = "".join(f"k{number}\n" for number in range(first, first + count))
        pair.path(party, "in.csv").write_text("id\n" + rows)
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384}
        pair.jobs[party]["psi"]["protocol"] = protocol
    pair.add("people", Side(["id"], "in.csv", "out/people.csv"), Side(["id"], "in.csv"))
    most = questions[DIALER]
    spare = "(rr22: a tenth more and 256 for each bin, the spare positions of its store)"
    more = "including padding" if protocol == "ecdh" else spare
    sentence = f"alice has {count:,} distinct items and can ask about {most:,} {more}, more than policy.max"
    pair.jobs[DIALER]["policy"] = {"max_peer_items": most - 1}
    alice, bob = pair.run()
    failed(bob, 79, re.escape(sentence))
    failed(alice, 80, REFUSED)
    assert [task["code"] for task in ledger(pair, DIALER)] == [79]
    pair.jobs[DIALER]["policy"] = {"max_peer_items": most, "min_peer_items": count}
    pair.jobs[LISTENER]["policy"] = {"max_peer_items": questions[LISTENER], "min_peer_items": count}
    results = pair.run("--json")
    succeeded(results)
    for party, result in zip(PARTIES, results, strict=True):
        (task,) = the_object(result.stdout)["tasks"]
        assert [task[name] for name in ("peer_items", "peer_questions", "bins")] == [count, questions[party], 2]
        entry = ledger(pair, party)[-1]
        assert [entry[name] for name in ("peer_items", "peer_questions")] == [count, questions[party]]
        assert entry["protocol"] == protocol
    # The sender's answers say the same, bin by bin; both parties share a ledger.
    lines = map(json.loads, (pair.folder / "state" / "ledger.jsonl").read_text().splitlines())
    answers = [(line["peer"], line["bin"], line["items"]) for line in lines if line["event"] == "answer"]
    assert sorted(answers) == [(LISTENER, number, most // 2) for number in range(2)]
    pair.jobs[DIALER]["policy"] = {"min_peer_items": count + 1}
    alice, bob = pair.run()
    failed(bob, 79, f"alice has {count:,} distinct items, fewer than policy.min_peer_items, which is {count + 1:,}")
    failed(alice, 80, REFUSED)


@pytest.mark.more
def test_runs_a_day(pair: Pair) -> None:
    """The second run is refused although its task has another name; the other party has no such limit."""
    marked_pair(pair, broadcast=False)
    pair.jobs[LISTENER]["policy"] = {"max_runs_per_day": 1}
    succeeded(pair.run())
    digest = hashlib.sha256(pair.path(LISTENER, "out/people.csv").read_bytes()).hexdigest()
    for party in PARTIES:
        pair.path(party, "out/people.csv").write_bytes(OLD)
        pair.jobs[party]["tasks"][0]["name"] = "again"
    alice, bob = pair.run()
    failed(
        alice,
        79,
        "task again: this input had 1 run with bob in the last 24 hours; policy.max_runs_per_day is 1",
    )
    failed(bob, 80, REFUSED)
    assert outputs(pair) == [OLD, OLD]
    shown = pair.start_command("ledger", "--json", "--peer", DIALER).result()
    (ours,) = the_object(shown.stdout)["tasks"]
    assert (shown.code, shown.stderr) == (0, "")
    assert re.fullmatch("[0-9a-f]{64}", ours.pop("task_sid"))
    assert re.fullmatch("[0-9a-f]{16}", ours.pop("run"))
    assert ours.pop("time") <= ours.pop("closed")
    assert ours.pop("seconds") > 0
    assert ours == {
        "job": "overlap",
        "task": "people",
        "party": "alice",
        "peer": "bob",
        "input": str(pair.path(LISTENER, "in.csv")),
        "keys": ["id"],
        "distinct_items": 4,
        "peer_items": 3,
        "peer_questions": 3,
        "protocol": "ecdh",
        "outcome": "done",
        "code": None,
        "error": None,
        "matched": 2,
        "matched_percent": None,
        "output_sha256": digest,
        "rows": 4,
        "drift_accepted": None,
    }
    theirs = ledger(pair, DIALER)[0]
    assert [theirs[name] for name in ("task", "outcome", "error", "matched")] == ["people", "done", None, None]
    table = pair.start_command("ledger").result().stdout.decode().splitlines()
    cells = [re.split("  +", line)[2:8] for line in table]
    assert cells[0] == ["task", "party", "peer", "own", "peer's", "matched"]
    for row in (["people", "bob", "alice", "3", "4", "done"], ["people", "alice", "bob", "4", "3", "2"]):
        assert row in cells
    # The ledger names files and columns, never values.
    assert b"zq7" not in (pair.folder / "state" / "ledger.jsonl").read_bytes()


LIMITS = [
    (
        {"max_match_rate": 0.4},
        "task people: 2 of 4 distinct items matched, above policy.max_match_rate, which is 0.4",
    ),
    (
        {"min_output_rows": 3},
        "task people: 2 rows matched, fewer than policy.min_output_rows, which is 3",
    ),
]


@pytest.mark.more
def test_a_receiver_of_a_broadcast_refuses_what_matched(tapped: tuple[Pair, int]) -> None:
    """The receiver sends no bitmap, and the sender sees the same for either limit, so it cannot tell why."""
    pair, port = tapped
    marked_pair(pair)
    seen = []
    for policy, sentence in LIMITS:
        pair.jobs[LISTENER]["policy"] = policy
        results, sent = run_tapped(pair, port)
        failed(results[LISTENER], 79, sentence)
        failed(results[DIALER], 69, r"alice stopped before the session was complete: it did not say why")
        assert streams(sent[LISTENER]) == {Stream.RECEIVER_POINTS}
        assert sent[LISTENER][-1] == Abort(1)
        assert outputs(pair) == [OLD, OLD]
        error = the_object(results[DIALER].stdout)["error"]
        seen.append((error, Counter(map(shape, said(sent[LISTENER])))))
    assert seen[0] == seen[1]
    assert [(task["outcome"], task["code"], task["matched"]) for task in ledger(pair, LISTENER)] == [
        ("failed", 79, 2)
    ] * 2
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize(
    ("party", "broadcast"), [(LISTENER, False), (DIALER, True)], ids=["one-sided receiver", "sender of a broadcast"]
)
def test_a_result_is_refused_without_a_word_to_the_peer(tapped: tuple[Pair, int], party: str, broadcast: bool) -> None:
    """The peer gets its result and the same messages as for an allowed result; the old output stays."""
    pair, port = tapped
    marked_pair(pair, broadcast=broadcast)
    _, allowed = run_tapped(pair, port)
    pair.path(party, "out/people.csv").write_bytes(OLD)
    pair.jobs[party]["policy"] = {"max_match_rate": 0.4, "min_output_rows": 2}
    results, sent = run_tapped(pair, port)
    matched = "2 of 4" if party == LISTENER else "2 of 3"
    failed(results[party], 79, f"task people: {matched} distinct items matched")
    succeeded([results[other(party)]])
    for each in PARTIES:
        assert Counter(map(shape, said(sent[each]))) == Counter(map(shape, said(allowed[each])))
    assert pair.path(party, "out/people.csv").read_bytes() == OLD
    if broadcast:
        check_output(pair, other(party), 0, "out/people.csv")
    (task,) = the_object(results[party].stdout)["tasks"]
    assert (task["status"], task["matched"], task["output"]) == ("failed", None, None)
    assert [(task["code"], task["matched"]) for task in ledger(pair, party)] == [(None, 2), (79, 2)]
    pair.nothing_left()


@pytest.mark.more
def test_refused_rows_do_not_reach_standard_output(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[DIALER]["tasks"][0].update(input_path={DIALER: "-"}, output_path={DIALER: "-"})
    pair.jobs[DIALER]["policy"] = {"min_output_rows": 3, "max_runs_per_day": 1}
    runs = [pair.start(LISTENER), pair.start(DIALER, stdin=marked(3, 4, 5, column="code"))]
    alice, bob = (run.result() for run in runs)
    succeeded([alice])
    failed(bob, 79, "2 rows matched, fewer than")
    assert bob.stdout == b""
    assert [task["input"] for task in ledger(pair, DIALER)] == ["-"]
    pair.nothing_left()


@pytest.mark.more
def test_an_allowed_run_passes_and_verbose_says_what_the_peer_learns(pair: Pair) -> None:
    marked_pair(pair)
    for party, rate in ((LISTENER, 0.5), (DIALER, 0.67)):
        pair.jobs[party]["policy"] = {
            "min_peer_items": 3,
            "max_peer_items": 4,
            "max_runs_per_day": 1,
            "max_match_rate": rate,
            "min_output_rows": 2,
        }
    results = pair.run("--verbose")
    succeeded(results)
    for party, result in zip(PARTIES, results, strict=True):
        check_output(pair, party, 0, "out/people.csv")
        sentence = f"how many distinct items {party} has and which of its own items {party} also has, and nothing else"
        assert f"overlap: {other(party)} will learn {sentence}" in result.stderr


# A ledger that cannot be written ---------------------------------------------------------------------------------


@pytest.mark.more
def test_no_task_starts_without_a_ledger(pair: Pair) -> None:
    marked_pair(pair)
    (pair.folder / "mine" / "ledger.jsonl").mkdir(parents=True)
    (pair.folder / "mine").chmod(0o700)
    runs = [pair.start(LISTENER, env={"PSICLI_STATE_DIR": str(pair.folder / "mine")}), pair.start(DIALER)]
    alice, bob = (run.result() for run in runs)
    failed(alice, 73, r"ledger\.jsonl: cannot write here: is a directory")
    failed(bob, 80, "alice failed: an output file, a lock file or a state file cannot be created")
    assert outputs(pair) == [OLD, OLD]
    assert ledger(pair, DIALER) == []


@pytest.mark.more
def test_what_is_not_in_the_ledger_is_not_sent(tapped: tuple[Pair, int]) -> None:
    pair, port = tapped
    marked_pair(pair)
    tap = Tap(port, pair.port)
    try:
        runs = [pair.start(LISTENER, before="ulimit -f 0"), pair.start(DIALER)]
        alice, bob = (run.result() for run in runs)
        sent = [wire.decode(message) for message in tap.messages()[1]]
    finally:
        tap.close()
    failed(alice, 74, r"ledger\.jsonl: writing failed: file too large")
    failed(bob, 69, "alice stopped before the session was complete")
    assert not streams(sent)
    assert sent[-1] == Abort(74)


@pytest.mark.slow
def test_a_run_that_was_killed_is_unfinished_and_counts(pair: Pair) -> None:
    long_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"max_runs_per_day": 1}
    runs = [pair.start(party) for party in PARTIES]
    for run in runs:
        run.wait_for("exchanging")
    while not all(ledger(pair, party) for party in PARTIES):
        assert runs[0].lasts(0.05)
    runs[0].send(signal.SIGKILL)
    failed(runs[1].result(), 69, "alice disconnected")
    assert [task["outcome"] for task in ledger(pair, LISTENER)] == ["unfinished"]
    assert [(task["outcome"], task["code"]) for task in ledger(pair, DIALER)] == [("failed", 69)]
    alice, bob = pair.run()
    failed(alice, 79, "this input had 1 run with bob in the last 24 hours")
    failed(bob, 80, REFUSED)
    first, *second = [(task["outcome"], task["code"]) for task in ledger(pair, DIALER)]
    assert first == ("failed", 69)
    # Depends on whether the other's Open arrived before the refusal.
    assert second in ([], [("failed", 80)])
