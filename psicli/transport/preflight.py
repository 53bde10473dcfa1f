"""The connection that the dialer makes before gRPC's: is anything there, and is it a gRPC server?

gRPC says little about why a connection failed, so the standard library connects first. What concerns TLS is in `tls`,
which a run without TLS does not import: the library for certificates takes a while.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from psicli.core import errors, peer_errors, signals
from psicli.core.peer_errors import PeerGoneError

if TYPE_CHECKING:
    from cryptography import x509

    from psicli.transport.tls import TlsCredentials

TIMED_OUT = "its machine did not answer in time"
UNRESOLVED = "the host name cannot be resolved"
NO_ANSWER = "it accepts connections, but no psicli answers"
CLOSED = "it closes connections, and no psicli answers"
# A psicli that refuses a certificate says so with an alert; one that is shutting down or beset by strangers does not.
CLOSED_AFTER_TLS = "it closes connections right after the TLS handshake"

# What an HTTP/2 client sends first: the preface and an empty SETTINGS frame (RFC 9113 sections 3.4 and 6.5).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# The size of a frame's header; the server's first frame is SETTINGS, too [bytes].
_HEADER_BYTES = 9
_SETTINGS = 4
# How answers in other protocols begin.
_OTHER_PROGRAMS = (
    (b"SSH-", "an SSH server"),
    (b"HTTP/", "a web server"),
    (b"<", "a web server"),
    (b"220", "a mail or FTP server"),
    (b"-ERR", "a Redis server"),
)
# A TLS alert: what a TLS server answers to plain text.
_TLS_ALERT = b"\x15\x03"


def written_address(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def connected(host: str, port: int, timeout: float) -> Iterator[socket.socket]:
    """Connect within timeout [s]; translates errors of the network into PeerGoneError."""
    is_connected = False
    # As octets: for text, Python imports its tables of international names.
    name: Any = host.encode() if host.isascii() else host
    try:
        with signals.allowed(), socket.create_connection((name, port), timeout) as plain:
            is_connected = True
            yield plain
    except socket.gaierror as exc:
        raise PeerGoneError(reason=f"{UNRESOLVED} ({errors.reason(exc)})") from exc
    except TimeoutError as exc:
        raise PeerGoneError(reason=NO_ANSWER if is_connected else TIMED_OUT) from exc
    except OSError as exc:
        raise PeerGoneError(reason=errors.reason(exc)) from exc


def reach(host: str, port: int, timeout: float) -> None:
    """Check that a machine accepts a connection within timeout [s]; raises PeerGoneError if it does not."""
    with connected(host, port, timeout):
        pass


def check(host: str, port: int, credentials: TlsCredentials | None, timeout: float) -> x509.Certificate | None:
    """Check within timeout [s] that a gRPC server answers, and return its certificate after checking that.

    Raises NotPsicliError for any other server, a subclass of IdentityError for faults that somebody must fix, and
    PeerGoneError for those that may pass.
    """
    if credentials is None:
        check_plain(host, port, timeout)
        return None
    # Imported late, as everything about certificates.
    from psicli.transport.tls import secure_preflight

    return secure_preflight(host, port, credentials, timeout)


def check_plain(host: str, port: int, timeout: float) -> None:
    """Check that a gRPC server without TLS answers; raises as `check`."""
    try:
        with connected(host, port, timeout) as plain:
            # A server that speaks first may have closed the connection already.
            with suppress(BrokenPipeError):
                plain.sendall(_PREFACE)
            try:
                check_greeting(plain, written_address(host, port))
            except ConnectionResetError as exc:
                raise PeerGoneError(reason=CLOSED) from exc
    except PeerGoneError as exc:
        if exc.facts["reason"] == CLOSED:
            # Imported late, as everything about certificates.
            from psicli.transport.tls import presented

            # Some TLS servers close the connection without a word.
            if presented(host, port, timeout) is not None:
                raise peer_errors.PeerSpeaksTlsError(who=written_address(host, port)) from exc
        raise


def check_greeting(connection: socket.socket, where: str) -> None:
    """Check that the server begins with its HTTP/2 settings, as a gRPC server does.

    Raises NotPsicliError, PeerSpeaksTlsError, PeerGoneError and OSError.
    """
    greeting = b""
    while len(greeting) < _HEADER_BYTES and (octets := connection.recv(_HEADER_BYTES - len(greeting))):
        greeting += octets
    if not greeting:
        raise PeerGoneError(reason=CLOSED)
    if greeting.startswith(_TLS_ALERT):
        raise peer_errors.PeerSpeaksTlsError(who=where)
    if len(greeting) < _HEADER_BYTES or greeting[3] != _SETTINGS or any(greeting[5:]):
        program = next((name for start, name in _OTHER_PROGRAMS if greeting.startswith(start)), "not a gRPC server")
        raise peer_errors.NotPsicliError(where=where, program=program)
