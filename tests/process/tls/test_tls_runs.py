"""Runs over TLS between two processes, and the message of each party for each fault."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.processes.certificates import issue, with_tls
from support.processes.expectations import Untouched, check_output, failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair


@pytest.mark.more
def test_a_run_over_tls(pair: Pair) -> None:
    """Both parties warn once, in text and in JSON, that both certificates expire soon."""
    issue(pair.folder, {LISTENER: LISTENER, DIALER: "psi.bob.example"})
    with_tls(marked_pair(pair))
    for job in pair.jobs.values():
        job["cluster"]["nodes"][1]["tls_name"] = "psi.bob.example"
    alice, bob = pair.start(LISTENER, "--json"), pair.start(DIALER)
    results = alice.result(), bob.result()
    succeeded(results)
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
    own, others = the_object(results[0].stdout)["warnings"]
    assert re.fullmatch(r"the certificate in \S+/alice\.pem expires on 20\S+ \d\d:\d\d UTC, in 1 hour: renew .*", own)
    assert re.match(r"bob's certificate expires on", others)
    assert re.findall(r"^warning: (.*?) expires", results[1].stdout.decode(), re.MULTILINE) == [
        f"the certificate in {pair.path(DIALER)}/../bob.pem", "alice's certificate",
    ]  # fmt: skip
    for result in results:
        assert result.stderr.count(" WARNING ") == 2


@pytest.mark.more
def test_insecure_plain_text_is_warned_about_once(pair: Pair) -> None:
    marked_pair(pair)
    for job in pair.jobs.values():
        job["cluster"]["tls"] = "insecure"
    results = pair.run()
    succeeded(results)
    for result in results:
        assert result.stderr.count(" WARNING ") == 1
        assert "WARNING overlap: tls: insecure: the connection is not encrypted" in result.stderr
        assert b"\nwarning: tls: insecure" in result.stdout


@pytest.mark.more
def test_an_expired_certificate_of_the_listener(pair: Pair, files: Path) -> None:
    """Both parties fail immediately: the listener checks its own certificate, and the dialer still receives it."""
    marked_pair(with_tls_from(pair, files, alice="alice-expired"))
    untouched = Untouched(pair)
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    failed(pair.start(LISTENER).result(), 77, r"alice-expired\.pem: this party's certificate expired on 20")
    failed(bob.result(), 77, r"the certificate of alice at 127\.0\.0\.1:\d+ expired on 20")
    untouched.check()
    pair.nothing_left()


def with_tls_from(pair: Pair, files: Path, **certificates: str) -> Pair:
    for path in files.iterdir():
        (pair.folder / path.name).write_bytes(path.read_bytes())
    return with_tls(pair, **certificates)


# The certificates to replace; then the exit code and message of the listener and of the dialer.
PROCESSES = {
    "bob expired": ({"bob": "bob-expired"}, 69, "ended in the TLS handshake", 77, "bob-expired.* expired on 20"),
    "bob early": ({"bob": "bob-early"}, 69, "ended in the TLS handshake", 77, "bob-early.* is valid only from 20"),
    "bob foreign": ({"bob": "bob-foreign"}, 69, "ended in the TLS handshake", 77, "alice at .* refused this side's"),
    "bob is carol": ({"bob": "carol"}, 69, "names carol, carol.example.com, not bob", 77, "carol.pem: .*, not bob"),
    "alice early": ({"alice": "alice-early"}, 77, "alice-early.* is valid only", 77, "of alice .* is valid only from"),
    "alice foreign": ({"alice": "alice-foreign"}, 69, "ended in the TLS handshake", 77, "alice .* was issued by"),
    "alice is carol": ({"alice": "carol"}, 77, "carol.pem: .*, not alice", 77, "at .* names carol.*, not alice"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", PROCESSES)
def test_each_fault_between_processes(pair: Pair, files: Path, fault: str) -> None:
    certificates, code, sentence, dialers_code, dialers_sentence = PROCESSES[fault]
    marked_pair(with_tls_from(pair, files, **certificates))
    untouched = Untouched(pair)
    pair.link(LISTENER, connect_retry_times=200)
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    alice = pair.start(LISTENER)
    failed(bob.result(), dialers_code, dialers_sentence)
    failed(alice.result(), code, sentence)
    untouched.check()
    pair.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize(("without", "code", "sentence"), [
    (LISTENER, 77, "bob uses TLS, but this side does not"),
    (DIALER, 69, "ended in the TLS handshake"),
])  # fmt: skip
def test_only_one_process_speaks_tls(pair: Pair, files: Path, without: str, code: int, sentence: str) -> None:
    marked_pair(with_tls_from(pair, files))
    del pair.jobs[without]["cluster"]["tls"]
    pair.link(LISTENER, connect_retry_times=200)
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    alice = pair.start(LISTENER)
    failed(bob.result(), 77, r"uses TLS, but this side does not|does not use TLS, but this side does")
    failed(alice.result(), code, sentence)
    pair.nothing_left()


@pytest.mark.slow
def test_a_third_company_is_turned_away_and_the_second_served(pair: Pair, files: Path) -> None:
    """The third company has a valid certificate of the same authority and a consistent job file."""
    marked_pair(with_tls_from(pair, files))
    bobs = pair.jobs[DIALER]
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    pair.jobs[DIALER] = json.loads(json.dumps(bobs).replace("bob", "carol"))
    failed(pair.start(DIALER).result(), 77, "alice refused the connection: this side's certificate does not name")
    alice.wait_for("whose certificate names carol, carol.example.com, not bob")
    pair.jobs[DIALER] = bobs
    succeeded([pair.start(DIALER).result(), alice.result()])
    pair.nothing_left()


@pytest.mark.slow
def test_a_waiting_listener_reports_connections_and_keeps_waiting(pair: Pair, files: Path) -> None:
    marked_pair(with_tls_from(pair, files, bob="bob-foreign"))
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    failed(pair.start(DIALER).result(), 77, "refused this side's certificate")
    alice.wait_for("2 connections")
    assert alice.said("ended in the TLS handshake. This side's certificate was issued by 'CN=psicli test CA'")
    with_tls(pair)
    succeeded([pair.start(DIALER).result(), alice.result()])
    pair.nothing_left()
