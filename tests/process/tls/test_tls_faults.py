"""The check of the peer's certificate and its error messages, with real TLS between two links in this process."""

from __future__ import annotations

import gc
import os
import select
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from support.hostile.crowd import SETTINGS
from support.memory.meetings import Meeting, hello
from support.processes.certificates import credentials
from support.processes.runner import DIALER, LISTENER, PARTIES, free_ports
from support.waiting import DEADLINE, wait_until

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import (
    CertificateRefusedError,
    HandshakesFailedError,
    NotPsicliError,
    PeerAbsentError,
    PeerCertificateEarlyError,
    PeerCertificateExpiredError,
    PeerCertificateIssuerError,
    PeerCertificateUnfitError,
    PeerRefusedError,
    PeerSpeaksPlainError,
    PeerSpeaksTlsError,
    TlsHandshakeError,
)
from psicli.transport import dialer, listener, preflight, tls
from psicli.transport.certs import dns_names
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.listener import Listener
from psicli.transport.tls import TlsCredentials

# How long a dialer retries when it refuses the peer's certificate only for now [s].
SHORT = 2.0


# The link: each fault, at both ends ---------------------------------------------------------------------------------

Files = dict[str, Any] | None
ALICE = {"certificate": "alice"}
BOB = {"certificate": "bob"}
FAULTS: dict[str, tuple[Files, Files, type[PsicliError], str, type[PsicliError]]] = {
    # The listener's files, the dialer's files, the dialer's error and its message, the listener's error.
    "the dialer does not know the authority": (
        ALICE, {**BOB, "ca": "foreign-ca"},
        PeerCertificateIssuerError, r"issued by 'CN=psicli test CA', which .*/foreign-ca\.pem does not hold",
        HandshakesFailedError,
    ),
    "another authority issued the listener's certificate": (
        {"certificate": "alice-foreign"}, BOB,
        PeerCertificateIssuerError, r"which .*/ca\.pem does not hold",
        HandshakesFailedError,
    ),
    "another authority issued the dialer's certificate": (
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
    "the listener's certificate names another party": (
        {"certificate": "carol"}, BOB,
        PeerCertificateUnfitError, r"names carol, carol\.example\.com, not alice$", HandshakesFailedError,
    ),
    "the listener's certificate has only a common name": (
        {"certificate": "common-name"}, BOB,
        PeerCertificateUnfitError, "names nobody, not alice$", HandshakesFailedError,
    ),
    "a wildcard": (
        {"certificate": "wildcard"}, {**BOB, "peer": "alice.example.com"},
        PeerCertificateUnfitError, r"names \*\.example\.com, not alice\.example\.com$", HandshakesFailedError,
    ),
    "the dialer's certificate names another party": (
        ALICE, {"certificate": "carol"},
        PeerRefusedError, "does not name the party", PeerAbsentError,
    ),
    "the dialer's certificate has no DNS name": (
        ALICE, {"certificate": "no-dns-name"},
        PeerRefusedError, "does not name the party", PeerAbsentError,
    ),
    "the listener has no TLS": (
        None, BOB, PeerSpeaksPlainError, r"127\.0\.0\.1:\d+ does not use TLS, but this side does", PeerSpeaksTlsError,
    ),
    "the dialer has no TLS": (
        ALICE, None, PeerSpeaksTlsError, r"127\.0\.0\.1:\d+ uses TLS, but this side does not", HandshakesFailedError,
    ),
}  # fmt: skip


def loaded(folder: Path, what: Files, own: str, peer: str) -> TlsCredentials | None:
    return None if what is None else credentials(folder, **{"own": own, "peer": peer, **what})


@pytest.mark.sample(5)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message_on_both_sides(meeting: Meeting, files: Path, fault: str) -> None:
    alice, bob, error, sentence, listeners_error = FAULTS[fault]
    listening = meeting.listen(loaded(files, alice, LISTENER, DIALER))
    with pytest.raises(error, match=sentence) as caught:
        meeting.dial(loaded(files, bob, DIALER, LISTENER))
    assert caught.type is error
    assert caught.value.code == 77
    meeting.give_up()
    with pytest.raises(listeners_error) as heard:
        listening.result(DEADLINE)
    assert heard.type is listeners_error


def context_of_python_3_11_2(protocol: int) -> ssl.SSLContext:
    """Return a context with the option that Python 3.11.2 sets by default, and later versions do not."""
    context = ssl.SSLContext(protocol)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def test_a_refusal_is_recognised_by_every_python(
    meeting: Meeting, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": context_of_python_3_11_2}))
    meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    with pytest.raises(CertificateRefusedError, match="its ca_file holds another authority of the same name"):
        meeting.dial(credentials(files, "bob-foreign", DIALER, LISTENER))
    meeting.give_up()


@pytest.mark.sample(1)
@pytest.mark.parametrize("checked", [False, True], ids=["preflight", "connection"])
@pytest.mark.parametrize("breaks", ["at once", "after the hello", "after the handshake"])
def test_a_connection_that_breaks_off_is_no_identity_fault(
    meeting: Meeting, files: Path, breaks: str, checked: bool
) -> None:
    """A listener drops connections while strangers besiege it: the dialer tries again."""
    tries = []
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        context = credentials(files, LISTENER, LISTENER, DIALER).server_context

        def serve() -> None:
            with suppress(OSError):
                while True:
                    guest, _ = server.accept()
                    tries.append(guest)
                    with suppress(OSError):
                        break_off(guest, context, "" if checked and len(tries) % 2 else breaks)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(PeerAbsentError):
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER), SHORT)
        server.shutdown(socket.SHUT_RDWR)
    assert len(tries) > 2


@pytest.mark.sample(1)
@pytest.mark.parametrize("side", PARTIES)
def test_a_reset_before_the_handshake_leaves_no_socket_open(files: Path, side: str) -> None:
    """Both ends of a handshake; a socket that only the garbage collector closes would fail this test."""
    own = credentials(files, side, side, LISTENER)
    context, is_server = (own.context, False) if side == DIALER else (own.server_context, True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = socket.create_connection(server.getsockname(), DEADLINE)
        break_off(server.accept()[0], own.server_context, "at once")
    select.select([plain], [], [], DEADLINE)
    with plain, pytest.raises(ConnectionResetError):
        context.wrap_socket(plain, server_side=is_server)
    gc.collect()


def break_off(guest: socket.socket, context: ssl.SSLContext, when: str) -> None:
    """Reset a connection at this moment; if there is none, greet like a gRPC server and close it."""
    guest.settimeout(DEADLINE)
    if when == "after the hello":
        guest.recv(1 << 16)
    elif when != "at once":
        guest = context.wrap_socket(guest, server_side=True)
    if not when:
        guest.sendall(SETTINGS)
        guest.recv(1 << 16)
    guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    guest.close()


def test_messages_differ() -> None:
    assert len({error.sentence for _, _, error, _, _ in FAULTS.values()}) == 8


def test_a_stranger_is_refused_and_the_peer_gets_the_session(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    for _ in range(2):
        with pytest.raises(PeerRefusedError):
            meeting.dial(credentials(files, "carol", "carol", LISTENER))
    dialled = meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
    assert listening.result(DEADLINE).peer_hello == dialled.own_hello


def test_a_stranger_is_named_at_the_end(meeting: Meeting, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    for _ in range(2):
        with pytest.raises(PeerRefusedError):
            meeting.dial(credentials(files, "carol", "carol", LISTENER))
    meeting.give_up()
    with pytest.raises(PeerAbsentError, match=r"whose certificate names carol, carol\.example\.com, not bob"):
        listening.result(DEADLINE)
    assert [record.levelname for record in caplog.records if "carol" in record.message] == ["WARNING"]


def test_a_tls_name_replaces_the_party_name(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, "Carol.example.com"))
    dialled = meeting.dial(credentials(files, "carol", "carol.example.com", LISTENER))
    assert listening.result(DEADLINE).peer_hello == dialled.own_hello


def test_both_sides_know_the_others_certificate(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    dialled = meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
    for end, name in ((dialled, LISTENER), (listening.result(DEADLINE), DIALER)):
        assert end.peer_certificate is not None
        assert dns_names(end.peer_certificate) == [name]


def test_a_client_without_a_certificate(meeting: Meeting, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", meeting.port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname=LISTENER) as secure,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        secure.recv(1)
    said = "ended in the TLS handshake"
    wait_until(lambda: any(said in record.message for record in caplog.records), said)
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


@pytest.mark.more
@pytest.mark.parametrize("side", PARTIES)
def test_a_clock_that_is_slightly_slow_is_tolerated(meeting: Meeting, soon: Path, side: str) -> None:
    listening = meeting.listen(
        credentials(soon, f"{LISTENER}-soon" if side == LISTENER else LISTENER, LISTENER, DIALER)
    )
    with pytest.raises(PeerAbsentError, match=r"valid only (from|since) 20\d\d"):
        meeting.dial(credentials(soon, f"{DIALER}-soon" if side == DIALER else DIALER, DIALER, LISTENER), SHORT)
    meeting.give_up()
    with pytest.raises(HandshakesFailedError):
        listening.result(DEADLINE)


def test_only_the_checked_certificate_gets_the_hello(meeting: Meeting, files: Path) -> None:
    """An attacker who lets the check pass and then answers with another certificate that gRPC accepts is refused."""
    listening = meeting.listen(credentials(files, "common-name", LISTENER, DIALER))
    with ExitStack() as stack:
        real, crossing = stack.enter_context(free_ports(2))
        second = Listener(Endpoint("127.0.0.1", real, DIALER, credentials(files, LISTENER, LISTENER, DIALER)))
        stack.callback(second.close)
        waiting = ThreadPoolExecutor(1).submit(second.meet, lambda: hello(LISTENER), DEADLINE)
        server = stack.enter_context(socket.create_server(("127.0.0.1", crossing)))
        threading.Thread(target=cross, args=(server, [real, meeting.port], stack), daemon=True).start()
        with pytest.raises(TlsHandshakeError):
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER), port=crossing)
        meeting.give_up()
        for each in (listening, waiting):
            with pytest.raises(HandshakesFailedError):
                each.result(DEADLINE)


def cross(server: socket.socket, targets: list[int], stack: ExitStack) -> None:
    """Forward the first connection to one port and all later ones to another."""
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


OTHER_PROGRAMS = {
    b"SSH-2.0-OpenSSH_9.2\r\n": r"^another program than .*'s psicli answers at 127\.0\.0\.1:\d+: an SSH server$",
    b"HTTP/1.1 400 Bad Request\r\n\r\n": "a web server$",
    b"<html>": "a web server$",
    b"220 mail.example.com ESMTP\r\n": "a mail or FTP server$",
    b"\x4a\0\0\0\x0a8.0.33\0": "not a gRPC server$",
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("octets", OTHER_PROGRAMS)
def test_a_port_of_another_program(meeting: Meeting, files: Path, octets: bytes, secure: bool) -> None:
    """The dialer fails at once, with TLS and without."""
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        threading.Thread(target=answer, args=(server, octets), daemon=True).start()
        with pytest.raises(NotPsicliError, match=OTHER_PROGRAMS[octets]) as caught:
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER) if secure else None)
        assert caught.value.code == 69
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.more
@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(("closes", "reason"), [(False, preflight.NO_ANSWER), (True, preflight.CLOSED)])
def test_a_port_that_answers_nothing(
    meeting: Meeting, files: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    closes: bool, reason: str, secure: bool,
) -> None:  # fmt: skip
    """The dialer says so at once and retries, since psicli may be busy or behind a proxy."""
    caplog.set_level("INFO")
    # So the first attempt has failed long before the last one.
    monkeypatch.setattr(dialer, "FIRST_TIMEOUT", 0.3)
    monkeypatch.setattr(dialer, "EARLY", 0.0)
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        if closes:
            threading.Thread(target=close_all, args=(server,), daemon=True).start()
        with pytest.raises(PeerAbsentError, match=reason) as caught:
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER) if secure else None, SHORT)
        assert f"{reason}; trying again until " in caplog.text
        assert "whether its psicli was stopped" in caught.value.advice
        server.shutdown(socket.SHUT_RDWR)


def close_all(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_web_server_with_a_certificate_of_the_peer(meeting: Meeting, files: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "alice.pem", files / "alice.key")
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        threading.Thread(target=accept_secure, args=(server, context), daemon=True).start()
        with pytest.raises(NotPsicliError, match="a TLS server without HTTP/2"):
            meeting.dial(credentials(files, DIALER, DIALER, LISTENER))
        server.shutdown(socket.SHUT_RDWR)


def accept_secure(server: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):
        while True:
            with context.wrap_socket(server.accept()[0], server_side=True) as guest:
                guest.recv(1)


def test_a_grpc_server_of_another_program(meeting: Meeting) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"127.0.0.1:{meeting.port}")
    server.start()
    with pytest.raises(NotPsicliError, match=rf"answers at 127\.0\.0\.1:{meeting.port}: a gRPC server that does not"):
        meeting.dial(None)
    server.stop(None).wait()


ABSENT = [
    ("127.0.0.1", None, "connection refused", "If both sides connect and neither listens"),
    ("no-such-host.invalid", socket.gaierror(-2, "Unknown"), preflight.UNRESOLVED, "the name service of this machine"),
    ("10.0.0.1", TimeoutError(), preflight.TIMED_OUT, "the routes and firewalls between the two machines"),
    ("10.0.0.1", OSError(113, "No route to host"), "no route to host", "the routes and firewalls"),
]


@pytest.mark.parametrize(("host", "fails", "reason", "advice"), ABSENT)
def test_the_reason_of_a_failure_is_told_soon_and_the_hint_fits_it(
    meeting: Meeting,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    fails: OSError | None,
    reason: str,
    advice: str,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(dialer, "EARLY", 0.0)
    if fails is not None:
        # What a resolver or a firewall does differs from machine to machine.
        monkeypatch.setattr(preflight.socket, "create_connection", Mock(side_effect=fails))
    with pytest.raises(PeerAbsentError, match=reason) as caught:
        Dialer(Endpoint(host, meeting.port, LISTENER), 0.05).meet(lambda: hello(DIALER), SHORT)
    told = [record.getMessage() for record in caplog.records if "trying again until" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"alice at {host}:{meeting.port}: {reason}")
    assert advice in caught.value.advice


def test_a_foreign_client_is_named_by_a_listener_without_tls(
    meeting: Meeting, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = meeting.listen(None)
    with socket.create_connection(("127.0.0.1", meeting.port), source_address=("127.0.0.9", 0)):
        said = f"a program on 127.0.0.9 has connected to 127.0.0.1:{meeting.port}, but it is not psicli"
        wait_until(lambda: said in caplog.text, said)
        # From now on, only the peer connects, and it may be slow.
        monkeypatch.setattr(listener, "GRACE", DEADLINE)
        dialled = meeting.dial(None)
        assert listening.result(DEADLINE).peer_hello == dialled.own_hello
    assert caplog.text.count("but it is not psicli") == 1


def test_a_listener_says_whom_both_sides_have_to_trust(meeting: Meeting, files: Path) -> None:
    listening = meeting.listen(credentials(files, LISTENER, LISTENER, DIALER))
    with pytest.raises(CertificateRefusedError):
        meeting.dial(credentials(files, "bob-foreign", DIALER, LISTENER))
    meeting.give_up()
    with pytest.raises(HandshakesFailedError) as caught:
        listening.result(DEADLINE)
    assert "issued by 'CN=psicli test CA', and its ca_file holds 'CN=psicli test CA'." in caught.value.advice


def answer(server: socket.socket, octets: bytes) -> None:
    while True:
        try:
            guest, _ = server.accept()
            with guest:
                guest.sendall(octets)
                guest.recv(1 << 16)
        except OSError:
            return
