"""Who the other end is, and what is said when it is nobody we know: real certificates, real handshakes, both sides."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.processes.certificates import HOUR, Authority, issue, with_tls
from support.processes.expectations import Untouched, check_output, failed, marked_pair, succeeded, the_object
from support.processes.runner import DEADLINE, DIALER, LISTENER, PARTIES, Pair, free_ports

from psicli.core.errors import (
    CertificateRefusedError,
    HandshakesFailedError,
    OwnCertificateError,
    PeerAbsentError,
    PeerCertificateEarlyError,
    PeerCertificateExpiredError,
    PeerCertificateIssuerError,
    PeerCertificateNameError,
    PeerRefusedError,
    PeerSpeaksPlainError,
    PeerSpeaksTlsError,
    PsicliError,
    TlsHandshakeError,
)
from psicli.protocol.messages import Hello
from psicli.protocol.wire import encode_hello
from psicli.transport import tls
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.link import Link
from psicli.transport.listener import Listener
from psicli.transport.tls import TlsCredentials

SOON = timedelta(minutes=2)
# How long a listener in these tests waits for somebody who will not come [s].
SHORT = 0.9


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one authority, good and bad, and one of another authority of the same name."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = Authority(), Authority()
    (folder / "ca.pem").write_bytes(ours.pem)
    (folder / "foreign-ca.pem").write_bytes(foreign.pem)
    for party in PARTIES:
        ours.issue(folder, party, [party])
        ours.issue(folder, f"{party}-expired", [party], begins=-2 * HOUR, ends=-HOUR)
        ours.issue(folder, f"{party}-early", [party], begins=HOUR, ends=2 * HOUR)
        ours.issue(folder, f"{party}-soon", [party], begins=SOON, ends=HOUR)
        foreign.issue(folder, f"{party}-foreign", [party])
    ours.issue(folder, "carol", ["carol", "carol.example.com"])
    ours.issue(folder, "common-name", [], common_name=LISTENER)
    ours.issue(folder, "wildcard", ["*.example.com"])
    ours.issue(folder, "no-dns-name", [x509.RFC822Name(DIALER), x509.UniformResourceIdentifier(DIALER)])
    return folder


def credentials(folder: Path, certificate: str, own: str, peer: str, ca: str = "ca") -> TlsCredentials:
    names = {"own_name": own, "peer_name": peer}
    paths = [folder / f"{name}" for name in (f"{ca}.pem", f"{certificate}.pem", f"{certificate}.key")]
    return TlsCredentials(*paths, **names)


def hello(party: str) -> bytes:
    return encode_hello(Hello("0", party, "job", (), 1024, 1 << 14, os.urandom(32)))


class Meeting:
    """A listener `alice` and a dialer `bob`, in this process, over a real connection."""

    def __init__(self, stack: ExitStack) -> None:
        (self.port,) = stack.enter_context(free_ports(1))
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(4))

    def listen(self, tls_files: TlsCredentials | None, timeout: float = DEADLINE) -> Future[Link]:
        listener = Listener(Endpoint("127.0.0.1", self.port, DIALER, tls_files))
        self._stack.callback(listener.close)
        return self._pool.submit(listener.meet, lambda: hello(LISTENER), timeout)

    def dial(self, tls_files: TlsCredentials | None, timeout: float = DEADLINE, port: int = 0) -> Link:
        dialer = Dialer(Endpoint("127.0.0.1", port or self.port, LISTENER, tls_files), 0.05)
        self._stack.callback(dialer.close)
        found = dialer.meet(lambda: hello(DIALER), timeout)
        self._stack.callback(found.end)
        return found


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    monkeypatch.setattr("psicli.transport.listener.HANDSHAKE_GRACE", 0.3)
    monkeypatch.setattr("psicli.transport.dialer.PLAIN_WORDS_TIMEOUT", 0.3)
    with ExitStack() as stack:
        yield Meeting(stack)


# The link: each fault, at both ends --------------------------------------------------------------------------------

Files = dict[str, Any] | None
ALICE = {"certificate": "alice"}
BOB = {"certificate": "bob"}
FAULTS: dict[str, tuple[Files, Files, type[PsicliError], str, type[PsicliError]]] = {
    # What the listener and the dialer have; what the dialer says; what the listener says.
    "the dialer does not know the authority": (
        ALICE, {**BOB, "ca": "foreign-ca"},
        PeerCertificateIssuerError, r"issued by 'CN=psicli test CA', which .*/foreign-ca\.pem does not hold",
        HandshakesFailedError,
    ),
    "the listener's certificate is another authority's": (
        {"certificate": "alice-foreign"}, BOB,
        PeerCertificateIssuerError, r"which .*/ca\.pem does not hold",
        HandshakesFailedError,
    ),
    "the dialer's certificate is another authority's": (
        ALICE, {"certificate": "bob-foreign"},
        CertificateRefusedError, r"refused this side's certificate .*/bob-foreign\.pem, issued by 'CN=psicli test CA'",
        HandshakesFailedError,
    ),
    "the listener's certificate has expired": (
        {"certificate": "alice-expired"}, BOB,
        PeerCertificateExpiredError, r"expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC \(it is 20.* here\)",
        HandshakesFailedError,
    ),
    "the dialer's certificate has expired": (
        ALICE, {"certificate": "bob-expired"},
        CertificateRefusedError, "refused this side's certificate", HandshakesFailedError,
    ),
    "the listener's certificate is not valid yet": (
        {"certificate": "alice-early"}, BOB,
        PeerCertificateEarlyError, r"is valid only from 20\d\d-\d\d-\d\d", HandshakesFailedError,
    ),
    "the listener's certificate names another": (
        {"certificate": "carol"}, BOB,
        PeerCertificateNameError, r"names carol, carol\.example\.com, not alice$", HandshakesFailedError,
    ),
    "the listener's certificate has a common name only": (
        {"certificate": "common-name"}, BOB,
        PeerCertificateNameError, "names nobody, not alice$", HandshakesFailedError,
    ),
    "a wildcard": (
        {"certificate": "wildcard"}, {**BOB, "peer": "alice.example.com"},
        PeerCertificateNameError, r"names \*\.example\.com, not alice\.example\.com$", HandshakesFailedError,
    ),
    "the dialer's certificate names another": (
        ALICE, {"certificate": "carol"},
        PeerRefusedError, "waits for another party", PeerAbsentError,
    ),
    "the dialer's name is no DNS name": (
        ALICE, {"certificate": "no-dns-name"},
        PeerRefusedError, "waits for another party", PeerAbsentError,
    ),
    "the listener has no TLS": (
        None, BOB, PeerSpeaksPlainError, r"127\.0\.0\.1:\d+ does not speak TLS, and this side does", PeerSpeaksTlsError,
    ),
    "the dialer has no TLS": (
        ALICE, None, PeerSpeaksTlsError, r"127\.0\.0\.1:\d+ speaks TLS, and this side sends", HandshakesFailedError,
    ),
}  # fmt: skip


def loaded(folder: Path, what: Files, own: str, peer: str) -> TlsCredentials | None:
    return None if what is None else credentials(folder, **{"own": own, "peer": peer, **what})


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence_on_both_sides(meeting: Meeting, files: Path, fault: str) -> None:
    alice, bob, error, sentence, listeners_error = FAULTS[fault]
    listening = meeting.listen(loaded(files, alice, LISTENER, DIALER), SHORT)
    started = time.monotonic()
    with pytest.raises(error, match=sentence) as caught:
        meeting.dial(loaded(files, bob, DIALER, LISTENER))
    assert caught.type is error
    assert caught.value.code == 77
    with pytest.raises(listeners_error) as heard:
        listening.result(DEADLINE)
    assert heard.type is listeners_error
    assert time.monotonic() - started < 2 * SHORT + 3


def test_sentences_differ() -> None:
    assert len({error.sentence for _, _, error, _, _ in FAULTS.values()}) == 8


def test_a_stranger_is_refused_and_the_peer_gets_the_session(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    for _ in range(2):
        with pytest.raises(PeerRefusedError):
            meeting.dial(credentials(files, "carol", "carol", LISTENER))
    dialled = meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
    assert listening.result(DEADLINE).peer_hello == dialled.own_hello


def test_a_stranger_is_named_at_the_end(meeting: Meeting, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER), SHORT)
    for _ in range(2):
        with pytest.raises(PeerRefusedError):
            meeting.dial(credentials(files, "carol", "carol", LISTENER))
    with pytest.raises(PeerAbsentError, match=r"its certificate names carol, carol\.example\.com, not bob"):
        listening.result(DEADLINE)
    assert [record.levelname for record in caplog.records if "carol" in record.message] == ["WARNING"]


def test_a_tls_name_stands_for_the_party(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, "Carol.example.com"))
    dialled = meeting.dial(credentials(files, "carol", "carol.example.com", LISTENER))
    assert listening.result(DEADLINE).peer_hello == dialled.own_hello


def test_both_sides_know_the_others_certificate(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    dialled = meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
    for end, name in ((dialled, LISTENER), (listening.result(DEADLINE), DIALER)):
        assert end.peer_certificate is not None
        assert tls.dns_names(end.peer_certificate) == [name]


def test_a_client_without_a_certificate(meeting: Meeting, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", meeting.port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname=LISTENER) as secure,
    ):
        assert secure.recv(1) == b""
    wait_until(lambda: any("ended in the TLS handshake" in record.message for record in caplog.records))
    meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
    listening.result(DEADLINE)


def test_junk_on_a_tls_port(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    with ExitStack() as stack:
        for octets in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff", os.urandom(5000)):
            guest = stack.enter_context(socket.create_connection(("127.0.0.1", meeting.port), DEADLINE))
            guest.sendall(octets)
        dialled = meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
        assert listening.result(DEADLINE).peer_hello == dialled.own_hello


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("side", PARTIES)
def test_a_clock_that_is_a_little_late_is_waited_for(meeting: Meeting, files: Path, side: str) -> None:
    listening = meeting.listen(
        credentials(files, f"{LISTENER}-soon" if side == LISTENER else LISTENER, LISTENER, DIALER), SHORT
    )
    with pytest.raises(PeerAbsentError, match=r"valid (only from|since) 20\d\d"):
        meeting.dial(credentials(files, f"{DIALER}-soon" if side == DIALER else DIALER, DIALER, LISTENER), SHORT / 2)
    with pytest.raises(HandshakesFailedError):
        listening.result(DEADLINE)


def test_the_checked_certificate_and_no_other_gets_the_hello(meeting: Meeting, files: Path) -> None:
    """Who lets the check pass, then takes the connection over with a certificate gRPC would accept, is refused."""
    listening = meeting.listen(credentials(files, "common-name", LISTENER, DIALER), 2 * SHORT)
    with ExitStack() as stack:
        real, crossing = stack.enter_context(free_ports(2))
        listener = Listener(Endpoint("127.0.0.1", real, DIALER, credentials(files, LISTENER, LISTENER, DIALER)))
        stack.callback(listener.close)
        waiting = ThreadPoolExecutor(1).submit(listener.meet, lambda: hello(LISTENER), SHORT)
        server = stack.enter_context(socket.create_server(("127.0.0.1", crossing)))
        threading.Thread(target=cross, args=(server, [real, meeting.port], stack), daemon=True).start()
        with pytest.raises(TlsHandshakeError):
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER), port=crossing)
        for each in (listening, waiting):
            with pytest.raises(HandshakesFailedError):
                each.result(DEADLINE)


def cross(server: socket.socket, targets: list[int], stack: ExitStack) -> None:
    """Send the first connection one way and all later ones another."""
    for number in range(100):
        try:
            near, _ = server.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", targets[min(number, 1)]))
        for one, other in ((near, far), (far, near)):
            stack.callback(one.close)
            threading.Thread(target=forward, args=(one, other), daemon=True).start()


def forward(source: socket.socket, goal: socket.socket) -> None:
    try:
        while octets := source.recv(1 << 16):
            goal.sendall(octets)
        goal.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("octets", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_of_something_else(meeting: Meeting, files: Path, octets: bytes) -> None:
    """What says something that is not TLS is told at once; what says nothing is tried again."""
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        threading.Thread(target=answer, args=(server, octets), daemon=True).start()
        expected = PeerSpeaksPlainError if octets else PeerAbsentError
        with pytest.raises(expected):
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER), 0.3 if not octets else DEADLINE)
        server.shutdown(socket.SHUT_RDWR)


def answer(server: socket.socket, octets: bytes) -> None:
    while True:
        try:
            guest, _ = server.accept()
            with guest:
                guest.sendall(octets)
                guest.recv(1 << 16)
        except OSError:
            return


# Our own certificate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        ("alice-expired", r"alice-expired\.pem: this side's certificate expired on 20"),
        ("alice-early", r"alice-early\.pem: this side's certificate is valid only from 20"),
        ("carol", r"carol\.pem: .* names carol, carol\.example\.com, not alice"),
        ("common-name", "names nobody, not alice"),
    ],
)
def test_own_certificate(files: Path, certificate: str, sentence: str) -> None:
    with pytest.raises(OwnCertificateError, match=sentence):
        credentials(files, certificate, LISTENER, DIALER).check_own()


@pytest.mark.parametrize("certificate", ["alice", "alice-soon"])
def test_own_certificate_that_will_do(files: Path, certificate: str) -> None:
    credentials(files, certificate, LISTENER, DIALER).check_own()


def test_nothing_secret_is_shown(files: Path) -> None:
    shown = repr(credentials(files, LISTENER, LISTENER, DIALER))
    assert "PRIVATE" not in shown
    assert "context" not in shown


@pytest.mark.parametrize(
    ("ends", "job_may_last", "expected"),
    [
        (timedelta(days=29, hours=1), 0.0, r"^the certificate expires on 20.* UTC, in 29 days: renew it in time$"),
        (timedelta(hours=5), 0.0, "in 5 hours"),
        (timedelta(days=31), 0.0, None),
        (timedelta(days=40), 41 * 86400.0, "in 39 days"),
        (-HOUR, 0.0, None),
    ],
)
def test_a_certificate_that_comes_to_its_end(
    tmp_path: Path, ends: timedelta, job_may_last: float, expected: str | None
) -> None:
    Authority().issue(tmp_path, "own", [LISTENER], begins=-2 * HOUR, ends=ends)
    certificate = x509.load_pem_x509_certificate((tmp_path / "own.pem").read_bytes())
    warning = tls.ending(certificate, "the certificate", job_may_last)
    assert (warning is None) if expected is None else re.search(expected, warning or "")


# Two processes -----------------------------------------------------------------------------------------------------


def test_a_run_over_tls(pair: Pair) -> None:
    """And both certificates end soon, which both sides say of both, once, in text and in JSON."""
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
    assert re.fullmatch(r"the certificate in \S+/alice\.pem expires on 20\S+ \d\d:\d\d UTC, in 1 hours: renew .*", own)
    assert re.match(r"bob's certificate expires on", others)
    assert re.findall(r"^warning: (.*?) expires", results[1].stdout.decode(), re.MULTILINE) == [
        f"the certificate in {pair.path(DIALER)}/../bob.pem", "alice's certificate",
    ]  # fmt: skip
    for result in results:
        assert result.stderr.count(" WARNING ") == 2


def test_plain_text_by_word_is_warned_of_once(pair: Pair) -> None:
    marked_pair(pair)
    for job in pair.jobs.values():
        job["cluster"]["tls"] = "insecure"
    results = pair.run()
    succeeded(results)
    for result in results:
        assert result.stderr.count(" WARNING ") == 1
        assert "WARNING overlap: tls: insecure: all goes in plain text" in result.stderr
        assert b"\nwarning: tls: insecure" in result.stdout


def test_an_expired_certificate_of_the_listener(pair: Pair, files: Path) -> None:
    """It ends both at once: the listener by its own check, the dialer because it is still told what it is."""
    marked_pair(with_tls_from(pair, files, alice="alice-expired"))
    untouched = Untouched(pair)
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    failed(pair.start(LISTENER).result(), 77, r"alice-expired\.pem: this side's certificate expired on 20")
    failed(bob.result(), 77, r"the certificate of alice at 127\.0\.0\.1:\d+ expired on 20")
    untouched.check()
    pair.nothing_left()


def with_tls_from(pair: Pair, files: Path, **certificates: str) -> Pair:
    for path in files.iterdir():
        (pair.folder / path.name).write_bytes(path.read_bytes())
    return with_tls(pair, **certificates)


# What is wrong with whose certificate; what each side says.
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
    (LISTENER, 77, "bob speaks TLS, and this side listens in plain text"),
    (DIALER, 69, "ended in the TLS handshake"),
])  # fmt: skip
def test_only_one_process_speaks_tls(pair: Pair, files: Path, without: str, code: int, sentence: str) -> None:
    marked_pair(with_tls_from(pair, files))
    del pair.jobs[without]["cluster"]["tls"]
    pair.link(LISTENER, connect_retry_times=200)
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    alice = pair.start(LISTENER)
    failed(bob.result(), 77, r"speaks TLS, and this side sends plain|does not speak TLS, and this side does")
    failed(alice.result(), code, sentence)
    pair.nothing_left()


@pytest.mark.slow
def test_a_third_company_is_sent_away_and_the_second_served(pair: Pair, files: Path) -> None:
    """Its certificate is good, and of the same authority, and its own job file consistent."""
    marked_pair(with_tls_from(pair, files))
    bobs = pair.jobs[DIALER]
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    pair.jobs[DIALER] = json.loads(json.dumps(bobs).replace("bob", "carol"))
    failed(pair.start(DIALER).result(), 77, "alice refused this side: it waits for another party")
    alice.wait_for("its certificate names carol, carol.example.com, not bob")
    pair.jobs[DIALER] = bobs
    succeeded([pair.start(DIALER).result(), alice.result()])
    pair.nothing_left()


@pytest.mark.slow
def test_a_listener_that_waits_says_what_comes_in_and_stays(pair: Pair, files: Path) -> None:
    marked_pair(with_tls_from(pair, files, bob="bob-foreign"))
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    failed(pair.start(DIALER).result(), 77, "refused this side's certificate")
    alice.wait_for("still waiting for bob: 2 connections to 127.0.0.1")
    with_tls(pair)
    succeeded([pair.start(DIALER).result(), alice.result()])
    pair.nothing_left()
