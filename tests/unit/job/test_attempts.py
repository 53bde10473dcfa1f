"""What the ledger holds of runs that two processes made, how the next run warns, and inputs that hardly differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from support.processes.certificates import issue, with_tls
from support.processes.expectations import failed, marked, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Tap, failing_at, other

from psicli.protocol import wire
from psicli.protocol.messages import Abort, Message, Offer, Open
from psicli.storage.ledger import Ledger, chain


def events(state: Path, **facts: object) -> list[dict[str, Any]]:
    """Return the lines of a ledger with these facts."""
    lines = map(json.loads, (state / "ledger.jsonl").read_text().splitlines())
    return [line for line in lines if all(line.get(name) == fact for name, fact in facts.items())]


def own(pair: Pair, party: str) -> dict[str, str]:
    """Return the environment in which a party has a state folder of its own."""
    return {"PSICLI_STATE_DIR": str(pair.folder / f"state-{party}")}


def both(pair: Pair, *arguments: str) -> dict[str, Any]:
    runs = {party: pair.start(party, *arguments, env=own(pair, party)) for party in PARTIES}
    return {party: run.result() for party, run in runs.items()}


def verify(pair: Pair, party: str, *arguments: str) -> Any:
    return pair.start_command("ledger", "--verify", *arguments, env=own(pair, party)).result()


# Every attempt ---------------------------------------------------------------------------------------------------


def test_a_run_without_a_peer_is_in_the_ledger(pair: Pair) -> None:
    marked_pair(pair)
    pair.link(DIALER, connect_retry_times=1)
    failed(pair.start(DIALER).result(), 69, "alice")
    begin, end = events(pair.folder / "state")
    assert [begin[name] for name in ("event", "job", "party", "peer")] == ["begin", "overlap", DIALER, LISTENER]
    assert begin["address"] == f"127.0.0.1:{pair.port}"
    assert [end[name] for name in ("event", "code", "failure")] == ["end", 69, "peer lost"]
    table = pair.start_command("ledger").result().stdout.decode()
    assert "bob" in table
    assert "peer lost (69)" in table


def test_a_disagreement_is_in_the_ledger_of_both(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[DIALER]["job"] = "other"
    results = both(pair)
    for party in PARTIES:
        assert results[party].code == 78
        (end,) = events(pair.folder / f"state-{party}", event="end")
        assert (end["failure"], len(end["session_id"])) == ("configuration", 64)
    first, second = (events(pair.folder / f"state-{party}", event="end")[0]["session_id"] for party in PARTIES)
    assert first == second


@pytest.mark.more
def test_a_session_over_tls_has_the_fingerprint_of_the_peer(pair: Pair) -> None:
    issue(pair.folder, {party: party for party in PARTIES})
    marked_pair(with_tls(pair))
    results = both(pair, "--json")
    succeeded(results.values())
    for party in PARTIES:
        (end,) = events(pair.folder / f"state-{party}", event="end")
        certificate = load_pem_x509_certificate((pair.folder / f"{other(party)}.pem").read_bytes())
        known = the_object(results[party].stdout)["peer_certificate_sha256"]
        assert end["peer_certificate_sha256"] == known == certificate.fingerprint(SHA256()).hex()


def both_tapped(pair: Pair, port: int, party: str) -> tuple[dict[str, Any], list[Message]]:
    """Run both parties over a tap; return their results, and the messages that one of them sent."""
    tap = Tap(port, pair.port)
    try:
        results = both(pair)
        octets = dict(zip((DIALER, LISTENER), tap.messages(), strict=True))[party]
    finally:
        tap.close()
    return results, [wire.decode(message) for message in octets]


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_a_peer_over_its_limit_learns_no_count(tapped: tuple[Pair, int], party: str) -> None:
    """Each Open that was sent counts, also of a run that was refused; then no Open is sent any more."""
    pair, port = tapped
    marked_pair(pair)
    pair.jobs[party]["policy"] = {"max_runs_per_day": 2, "min_peer_items": 100}
    for sent in ([Offer, Open], [Offer, Open], [Offer]):
        results, said = both_tapped(pair, port, party)
        failed(results[party], 79, "min_peer_items" if Open in sent else "had 2 runs with")
        # The Abort may overtake them.
        found = [type(each) for each in said if isinstance(each, Offer | Open)]
        assert found == sent[: len(found)]
        assert said[-1] == Abort(79)
    tasks = Ledger(pair.folder / f"state-{party}").entries()
    assert [(task.code, task.opening.party) for task in tasks] == [(79, party)] * 2


# The chain -------------------------------------------------------------------------------------------------------


@pytest.mark.more
def test_the_next_run_warns_of_a_ledger_that_was_changed(pair: Pair) -> None:
    marked_pair(pair)
    results = both(pair, "--json")
    succeeded(results.values())
    reports = {party: the_object(result.stdout) for party, result in results.items()}
    for party in PARTIES:
        head = reports[party]["ledger_head"]
        text = verify(pair, party, "--head", f" {head.upper()} ")
        assert text.code == 0
        assert text.stdout.decode().startswith(f"{reports[party]['ledger_line']} lines, intact, head {head}\n")
        assert (
            f"a new ledger begins: it ends at line {reports[party]['ledger_line']}, and its head is {head}"
            in results[party].stderr
        )
    path = pair.folder / f"state-{LISTENER}" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert verify(pair, LISTENER).code == 65
    results = both(pair, "--json")
    succeeded(results.values())
    assert "removed: line 2" in the_object(results[LISTENER].stdout)["warnings"][0]
    assert "WARNING" in results[LISTENER].stderr
    assert the_object(results[DIALER].stdout)["warnings"] == []
    result = verify(pair, LISTENER, "--json")
    verdict = the_object(result.stdout)
    assert (result.code, verdict["faults"][0]["kind"]) == (65, chain.REMOVED)
    assert "the ledger is not as psicli left it" in result.stderr
    (broken,) = events(pair.folder / f"state-{LISTENER}", event="broken")
    assert broken["found"] == ["removed: line 2"]
    path.unlink()
    assert "gone from the end" in verify(pair, LISTENER).stdout.decode()
    assert "gone from the end" in the_object(both(pair, "--json")[LISTENER].stdout)["warnings"][0]


@pytest.mark.more
def test_psicli_shows_a_changed_ledger_with_a_warning(pair: Pair) -> None:
    """Nobody takes an inserted record for one of psicli's; a check warns too, before the next run records it."""
    marked_pair(pair)
    succeeded(both(pair).values())
    show = ["ledger", "--json"]
    assert pair.start_command(*show, env=own(pair, LISTENER)).result().stderr == ""
    path = pair.folder / f"state-{LISTENER}" / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[0].replace(b"overlap", b"invented"))
    result = pair.start_command(*show, env=own(pair, LISTENER)).result()
    assert result.code == 0
    (warning,) = result.stderr.splitlines()
    assert "ledger.jsonl is not as psicli left it, so what follows may be wrong; run `psicli ledger --ver" in warning
    check = ["check", "--config", pair.job_file(LISTENER), "--wait", "0", "--quiet"]
    result = pair.start_command(*check, env=own(pair, LISTENER)).result()
    assert result.code == 0
    assert b"but its ledger is not as psicli left it (inserted: line " in result.stdout
    assert b"hint: Run `psicli ledger --verify`" in result.stdout
    path.write_bytes(whole)
    assert pair.start_command(*check, env=own(pair, LISTENER)).result().text == ""


@pytest.mark.more
def test_a_ledger_that_was_deleted_is_missed(pair: Pair) -> None:
    """Sketches of inputs tell the next run that there was a ledger."""
    marked_pair(pair)
    succeeded(both(pair).values())
    state = pair.folder / f"state-{LISTENER}"
    for name in ("ledger.jsonl", "ledger.head"):
        (state / name).unlink()
    assert verify(pair, LISTENER).code == 65
    results = both(pair, "--quiet")
    succeeded(results.values())
    assert "gone: the whole ledger" in results[LISTENER].stderr
    assert results[DIALER].stderr == ""
    assert "records: gone: the whole ledger" in verify(pair, LISTENER).stdout.decode()
    assert both(pair, "--quiet")[LISTENER].text == ""


def test_a_head_must_be_a_digest(pair: Pair) -> None:
    for arguments, fault in ((["--head", "0" * 64], "it needs --verify"), (["--verify", "--head", "12"], "is no head")):
        result = pair.start_command("ledger", *arguments).result()
        assert result.code == 2
        assert fault in result.stderr
    empty = pair.start_command("ledger", "--verify").result()
    assert (empty.code, empty.stdout) == (0, b"The ledger has no lines.\n")
    assert pair.start_command("ledger", "--verify", "--head", "0" * 64).result().code == 65


@pytest.mark.more
@pytest.mark.parametrize("point", ["ledger.head.written", "ledger.appended", "ledger.synced"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_killed_run_is_no_tampering(pair: Pair, point: str, nth: int) -> None:
    marked_pair(pair)
    env = own(pair, LISTENER)
    runs = [pair.start(LISTENER, env={**env, **failing_at(f"{point}:kill:{nth}")}), pair.start(DIALER)]
    assert runs[0].result().code == -9
    runs[1].kill()
    assert verify(pair, LISTENER).code == 0
    results = both(pair, "--json")
    succeeded(results.values())
    assert the_object(results[LISTENER].stdout)["warnings"] == []
    assert verify(pair, LISTENER).code == 0


# Inputs that hardly differ ----------------------------------------------------------------------------------------


def inputs(pair: Pair, count: int) -> None:
    for party, column in ((LISTENER, "id"), (DIALER, "code")):
        pair.path(party, "in.csv").write_bytes(marked(*range(count), column=column))


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_an_input_that_differs_in_few_items_is_refused_before_the_open(tapped: tuple[Pair, int], party: str) -> None:
    pair, port = tapped
    marked_pair(pair)
    pair.jobs[party]["policy"] = {"min_difference": 5}
    inputs(pair, 40)
    # Another list in between does not make psicli forget the first one.
    for count, differs in ((40, 0), (40, 0), (44, 4), (45, 0), (41, 1), (44, 1)):
        inputs(pair, count)
        results, said = both_tapped(pair, port, party)
        assert any(isinstance(each, Open) for each in said) is not bool(differs)
        if differs:
            failed(results[party], 79, rf"its input differs in {differs} items? from that of task people of job over")
        else:
            succeeded(results.values())


@pytest.mark.more
def test_another_task_is_compared_too_and_a_warning_is_the_default(pair: Pair) -> None:
    marked_pair(pair)
    inputs(pair, 40)
    succeeded(both(pair).values())
    inputs(pair, 41)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["name"] = "others"
    pair.jobs[DIALER]["policy"] = {"min_difference": 0}
    results = both(pair, "--json")
    succeeded(results.values())
    ours, theirs = (the_object(results[party].stdout)["tasks"][0]["warnings"] for party in PARTIES)
    assert "its input differs in 1 item from that of task people of job overlap at 20" in ours[0]
    assert theirs == []
    # A sketch holds no item, and without a comparison there is none.
    (sketch,) = (pair.folder / f"state-{LISTENER}").glob("sketches-*")
    assert sketch.stat().st_mode & 0o777 == 0o600
    assert b"zq7" not in sketch.read_bytes()
    assert not [*(pair.folder / f"state-{DIALER}").glob("sketches-*")]
