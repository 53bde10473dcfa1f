"""A peer with a weak certificate, met in real handshakes by the listener and by the dialer."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from support.memory.meetings import Meeting, hello
from support.processes.certificates import Authority, chain, credentials
from support.processes.runner import DIALER, LISTENER
from support.waiting import wait_until

from psicli.core.peer_errors import IdentityError, PeerCertificateUnfitError, PeerRefusedError
from psicli.protocol.messages import HelloOctets
from psicli.protocol.wire import encode
from psicli.transport import certs, preflight
from psicli.transport.endpoint import METHOD, SERVICE
from psicli.transport.tls import TlsCredentials

# How long a client waits for a listener that refuses its key [s].
SHORT = 2.0

# TLS itself accepts these keys.
SUBTLE: dict[str, Callable[[], Any]] = {
    "RSA key of 2,040 bits": lambda: rsa.generate_private_key(65537, 2040),
    "RSA key of 2,048 bits with the exponent 3": lambda: rsa.generate_private_key(3, 2048),
}
# TLS refuses some of these, with or without a sentence of psicli.
PLAIN: dict[str, Callable[[], Any]] = {
    "RSA key of 1,024 bits": lambda: rsa.generate_private_key(65537, 1024),
    "EC on secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EC on secp224r1": lambda: ec.generate_private_key(ec.SECP224R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def careless(monkeypatch: pytest.MonkeyPatch, folder: Path, own: str, peer: str) -> TlsCredentials:
    """Return the credentials of a program that does not check its own certificate."""
    with monkeypatch.context() as patched:
        patched.setattr(certs, "weakness", lambda certificate: None)
        return credentials(folder, "weak", own, peer)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    for party in (LISTENER, DIALER):
        made.issue(tmp_path, party, [party])
    return made


@pytest.mark.parametrize("kind", SUBTLE)
def test_the_listener_refuses_a_weak_key_and_waits_for_the_peer(
    meeting: Meeting, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, kind: str,
) -> None:  # fmt: skip
    authority.issue(tmp_path, "weak", [DIALER], key=SUBTLE[kind]())
    listening = meeting.listen(credentials(tmp_path, LISTENER, LISTENER, DIALER))
    with pytest.raises(PeerRefusedError):
        meeting.dial(careless(monkeypatch, tmp_path, DIALER, LISTENER))
    said = f"psicli refused a connection whose certificate has an {kind}"
    wait_until(lambda: said in caplog.text, said)
    served = meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
    assert listening.result().peer_hello == served.own_hello


# Authorities between a root and a party.
MIDDLE = {
    "RSA key of 2,040 bits": ["RSA", "rsa_keygen_bits:2040"],
    "key of the kind EC on secp224r1": ["EC", "ec_paramgen_curve:P-224"],
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", MIDDLE)
def test_the_listener_refuses_a_chain_with_a_weak_authority(
    meeting: Meeting, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, kind: str,
) -> None:  # fmt: skip
    """The authority is in no file of the listener: only the dialer presents it."""
    chain(tmp_path, "weak", DIALER, middle=MIDDLE[kind], ca="chain-ca")
    with (tmp_path / "ca.pem").open("ab") as trusted:
        trusted.write((tmp_path / "chain-ca.pem").read_bytes())
    meeting.listen(credentials(tmp_path, LISTENER, LISTENER, DIALER))
    with pytest.raises(PeerRefusedError, match="it or its authority has a key that is too weak"):
        meeting.dial(careless(monkeypatch, tmp_path, DIALER, LISTENER))
    said = "psicli refused a connection whose certificate depends on the authority 'CN=middle', whose certificate has a"
    wait_until(lambda: said in caplog.text and kind in caplog.text, said)
    meeting.give_up()


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", MIDDLE)
def test_the_dialer_refuses_a_chain_with_a_weak_authority(
    meeting: Meeting, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    chain(tmp_path, "weak", LISTENER, middle=MIDDLE[kind], ca="chain-ca")
    with (tmp_path / "ca.pem").open("ab") as trusted:
        trusted.write((tmp_path / "chain-ca.pem").read_bytes())
    meeting.listen(careless(monkeypatch, tmp_path, LISTENER, DIALER))
    with pytest.raises(PeerCertificateUnfitError, match=f"depends on the authority 'CN=middle', .* {kind}"):
        meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
    meeting.give_up()


# The client waits for 20 s.
@pytest.mark.more
@pytest.mark.parametrize("kind", [kind for kind in PLAIN if "RSA" not in kind])
def test_the_listener_serves_no_client_with_a_weak_key(
    meeting: Meeting, authority: Authority, tmp_path: Path, kind: str
) -> None:
    authority.issue(tmp_path, "weak", [DIALER], key=PLAIN[kind]())
    listening = meeting.listen(credentials(tmp_path, LISTENER, LISTENER, DIALER))
    context = lax(ssl.PROTOCOL_TLS_CLIENT, tmp_path)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wait_until(lambda: listens(meeting.port), "the listener")
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", meeting.port)) as plain,
        context.wrap_socket(plain) as secure,
    ):
        secure.sendall(preflight._PREFACE)
        while secure.recv(1 << 12):
            pass
    served = meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
    assert listening.result().peer_hello == served.own_hello


@pytest.mark.more
def test_the_listener_answers_no_hello_of_a_client_with_a_short_key(
    meeting: Meeting, authority: Authority, tmp_path: Path
) -> None:
    """gRPC's TLS takes any RSA key; the listener's does not, so the connection never becomes ready."""
    authority.issue(tmp_path, "weak", [DIALER], key=PLAIN["RSA key of 1,024 bits"]())
    listening = meeting.listen(credentials(tmp_path, LISTENER, LISTENER, DIALER))
    pair = [(tmp_path / name).read_bytes() for name in ("weak.key", "weak.pem")]
    secured = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes(), *pair)
    options = [("grpc.ssl_target_name_override", LISTENER)]
    with grpc.secure_channel(f"127.0.0.1:{meeting.port}", secured, options) as channel:
        first = encode(HelloOctets(hello(DIALER)))
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter([first]), wait_for_ready=True, timeout=SHORT)
        with pytest.raises(grpc.RpcError):
            next(call)
    served = meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
    assert listening.result().peer_hello == served.own_hello


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def lax(protocol: int, folder: Path) -> ssl.SSLContext:
    """Return a context that presents the weak certificate."""
    context = ssl.SSLContext(protocol)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "weak.pem", folder / "weak.key")
    return context


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", SUBTLE)
def test_the_dialer_refuses_a_listener_with_a_weak_key(
    meeting: Meeting, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    authority.issue(tmp_path, "weak", [LISTENER], key=SUBTLE[kind]())
    meeting.listen(careless(monkeypatch, tmp_path, LISTENER, DIALER))
    with pytest.raises(
        PeerCertificateUnfitError, match=rf"the certificate at 127\.0\.0\.1:\d+ has an {kind}"
    ) as caught:
        meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
    assert caught.value.code == 77
    meeting.give_up()


@pytest.mark.parametrize("kind", PLAIN)
def test_the_dialer_says_what_is_weak_about_a_server(
    meeting: Meeting, authority: Authority, tmp_path: Path, kind: str
) -> None:
    authority.issue(tmp_path, "weak", [LISTENER], key=PLAIN[kind]())
    with socket.create_server(("127.0.0.1", meeting.port)) as server:
        threading.Thread(target=shake_hands, args=(server, lax(ssl.PROTOCOL_TLS_SERVER, tmp_path)), daemon=True).start()
        # No TLS of today speaks P-224.
        sentence = "the TLS handshake with .* failed" if kind.endswith("secp224r1") else f"has an? .*{kind}"
        with pytest.raises(IdentityError, match=sentence) as caught:
            meeting.dial(credentials(tmp_path, DIALER, DIALER, LISTENER))
        assert caught.value.code == 77
        server.shutdown(socket.SHUT_RDWR)


def shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = server.accept()
        except OSError:
            return
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as guest:
            guest.recv(1)
