"""Who is at the other end of a connection, and in words what is wrong with a certificate.

gRPC says little or nothing about a connection or a handshake that failed, and its client takes more for a name than we
do (a wildcard, the common name of a certificate without alternative names). So the dialer makes a handshake of its own
first, with the standard library, and gRPC gets the one certificate that was found good as all it may trust. A party's
identity is a DNS subject alternative name, compared here and nowhere else.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from psicli.core import errors, signals
from psicli.core.errors import shown

# How far two clocks may differ before a certificate that is not valid yet is more than a matter of waiting.
CLOCK_SKEW = timedelta(minutes=5)
# From when on a certificate that comes to its end is worth a warning.
WARN_BEFORE = timedelta(days=30)
# How long the handshake by hand may take [s].
PREFLIGHT_TIMEOUT = 10.0
TIMED_OUT = "timed out"
# What a message shows of a name in a certificate [characters].
MAX_SHOWN_NAME = 64

# OpenSSL's X509_V_ERR_*: what it finds wrong with a chain.
_NOT_YET_VALID, _EXPIRED = 9, 10
# A signature that does not fit, and every way to say that no issuer was found.
_UNKNOWN_ISSUER = {2, 7, 18, 19, 20, 21}
# What OpenSSL makes of octets that are no TLS record.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
# A peer's alerts about our certificate (RFC 8446 section 6.2), by the end of OpenSSL's name for them.
_ALERTS = {
    "UNKNOWN_CA": "it does not know the authority that issued it",
    "CERTIFICATE_EXPIRED": "by its clock it has expired",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_REQUIRED": "it got none",
    "CERTIFICATE_UNKNOWN": "it does not accept it",
    "UNSUPPORTED_CERTIFICATE": "it does not know this kind",
    "BAD_CERTIFICATE": "it finds it bad",
    "ACCESS_DENIED": "it does not let it in",
}
_NO_REASON = "it does not say why; most likely its ca_file lacks the authority that issued it"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class TlsCredentials:
    """What one end shows and trusts (PEM), the name it has there, and the name the other end must have.

    context: for the handshake by hand.
    """

    def __init__(self, ca_file: Path, certificate_file: Path, key_file: Path, *, own_name: str, peer_name: str) -> None:
        """Read the three files; raises TlsFileError naming the one that cannot be read or is of no use."""
        self.ca_file, self.certificate_file = ca_file, certificate_file
        self.own_name, self.peer_name = own_name, peer_name
        self.ca, self.certificate, self.private_key = map(read_file, (ca_file, certificate_file, key_file))
        self.context = _context(ca_file, certificate_file, key_file)
        self.own = load_certificate(certificate_file, self.certificate)

    def check_own(self) -> None:
        """Raise OwnCertificateError for what the other side would refuse, to say it where it can be mended."""
        now, begins, ends = datetime.now(UTC), self.own.not_valid_before_utc, self.own.not_valid_after_utc
        if ends < now:
            fault = f"expired on {written(ends)} (it is {written(now)})"
            advice = f"Get a new one; where the authority is psicli's: `psicli certs issue {self.own_name}`."
        elif begins > now + CLOCK_SKEW:
            fault = f"is valid only from {written(begins)} (it is {written(now)})"
            advice = "Check this machine's clock; else wait, or get a certificate that is valid now."
        elif names_party(self.own, self.own_name):
            return
        elif names_party(self.own, self.peer_name):
            fault = f"names {shown_names(self.own)}, which is the other party, and not {self.own_name}"
            advice = (
                "Is self_party (or --party) the other party's, so that the two are swapped? Else give the job file "
                "this party's own certificate."
            )
        else:
            fault = f"names {shown_names(self.own)}, not {self.own_name}"
            advice = (
                f"It must hold {self.own_name} as a DNS subject alternative name; give the job file the right "
                "certificate, or this party's node the tls_name that the certificate holds."
            )
        raise errors.OwnCertificateError(path=self.certificate_file, fault=fault, advice=advice)


def read_file(path: Path) -> bytes:
    """Return the octets of a certificate or key file; raises TlsFileError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise errors.TlsFileError(path=path, reason=errors.reason(exc)) from exc


def _context(ca_file: Path, certificate_file: Path, private_key_file: Path) -> ssl.SSLContext:
    """Make the context of the handshake by hand; finds what gRPC would only report as a port that cannot be bound."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Names are compared exactly, and by us: OpenSSL would let a wildcard pass.
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as exc:
        raise errors.TlsFileError(path=ca_file, reason="it holds no certificate in PEM") from exc
    try:
        # The password keeps OpenSSL from asking on the terminal.
        context.load_cert_chain(certificate_file, private_key_file, password="")
    except ssl.SSLError as exc:
        reason = f"it is no certificate in PEM, or {private_key_file} is not its unencrypted key"
        raise errors.TlsFileError(path=certificate_file, reason=reason) from exc
    return context


# Certificates --------------------------------------------------------------------------------------------------


def load_certificate(path: Path, octets: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM file; raises TlsFileError."""
    try:
        return x509.load_pem_x509_certificate(octets)
    except ValueError as exc:
        raise errors.TlsFileError(path=path, reason="it holds no certificate in PEM") from exc


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS subject alternative names, as they stand there; the common name counts for nothing."""
    alternatives = extension(certificate, x509.SubjectAlternativeName)
    return [] if alternatives is None else alternatives.get_values_for_type(x509.DNSName)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return what a certificate's extension of a kind says; None where there is none, or none that can be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


def names_party(certificate: x509.Certificate, name: str) -> bool:
    """Return whether a certificate names a party: in full, whatever the case, never by a wildcard."""
    return name.lower() in (each.lower() for each in dns_names(certificate))


def shown_names(certificate: x509.Certificate) -> str:
    """Return who a certificate names, for a message."""
    return ", ".join(shown(each, MAX_SHOWN_NAME).strip("'") for each in dns_names(certificate)[:8]) or "nobody"


def shown_issuer(certificate: x509.Certificate) -> str:
    """Return who issued a certificate, for a message."""
    return shown(certificate.issuer.rfc4514_string())


def written(moment: datetime) -> str:
    """Return a moment as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def written_address(host: str, port: int) -> str:
    """Return HOST:PORT, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ending(certificate: x509.Certificate, whose: str, job_may_last: float) -> str | None:
    """Return a warning when a certificate that is valid ends within 30 days, or while the job may still run [s]."""
    end = certificate.not_valid_after_utc
    left = end - datetime.now(UTC)
    if not timedelta(0) < left < max(WARN_BEFORE, timedelta(seconds=job_may_last)):
        return None
    days = f"in {left.days} days" if left >= timedelta(days=2) else f"in {left.total_seconds() / 3600:.0f} hours"
    return f"{whose} expires on {written(end)}, {days}: renew it in time"


# Connections by hand -----------------------------------------------------------------------------------------------


@contextmanager
def _connected(host: str, port: int, timeout: float) -> Iterator[socket.socket]:
    """Connect, and translate what the network may do to the connection into PeerGoneError."""
    try:
        with signals.allowed(), socket.create_connection((host, port), timeout) as plain:
            yield plain
    except OSError as exc:
        why = TIMED_OUT if isinstance(exc, TimeoutError) else errors.reason(exc)
        raise errors.PeerGoneError(reason=why) from exc


def reach(host: str, port: int, timeout: float) -> None:
    """Find out whether a machine takes a connection within timeout [s]; raises PeerGoneError if it does not."""
    with _connected(host, port, timeout):
        pass


def preflight(host: str, port: int, credentials: TlsCredentials, timeout: float) -> x509.Certificate:
    """Make a handshake with the peer within timeout [s] and return its certificate, found good.

    Raises a subclass of IdentityError for what somebody has to mend, PeerGoneError for what may pass.
    """
    # A listener that is just ending looks the same as one that refuses, once.
    with suppress(errors.CertificateRefusedError):
        return _handshake(host, port, credentials, timeout)
    try:
        return _handshake(host, port, credentials, timeout)
    except errors.CertificateRefusedError as exc:
        since = credentials.own.not_valid_before_utc
        if datetime.now(UTC) - since < CLOCK_SKEW:
            reason = f"it refuses this side's certificate, which is valid since {written(since)}: do the clocks differ?"
            raise errors.PeerGoneError(reason=reason) from exc
        raise


def _handshake(host: str, port: int, credentials: TlsCredentials, timeout: float) -> x509.Certificate:
    where = written_address(host, port)
    with _connected(host, port, timeout) as plain:
        try:
            # A connection that just breaks off is no end of the stream.
            secure = credentials.context.wrap_socket(
                plain, server_hostname=credentials.peer_name, suppress_ragged_eofs=False
            )
        except ssl.SSLCertVerificationError as exc:
            raise _fault(exc, host, port, credentials, timeout) from exc
        except ssl.SSLError as exc:
            raise _failure(exc, where, credentials) from exc
        with secure:
            certificate = _named_certificate(secure, where, credentials.peer_name)
            _read_greeting(secure, where, credentials)
    return certificate


def _named_certificate(secure: ssl.SSLSocket, where: str, name: str) -> x509.Certificate:
    """Return the peer's certificate, its chain found good already, if it names who we want."""
    try:
        certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except ValueError as exc:
        raise errors.PeerCertificateError(where=where, reason="it cannot be read") from exc
    if not names_party(certificate, name):
        raise errors.PeerCertificateNameError(where=where, names=shown_names(certificate), name=name)
    return certificate


def _read_greeting(secure: ssl.SSLSocket, where: str, credentials: TlsCredentials) -> None:
    """Wait for the first octet of HTTP/2: in TLS 1.3 a client is through before its certificate is looked at."""
    try:
        greeting = secure.recv(1)
    except (ssl.SSLEOFError, ConnectionResetError) as exc:
        raise _refused(_NO_REASON, where, credentials) from exc
    except ssl.SSLError as exc:
        raise _failure(exc, where, credentials) from exc
    if not greeting:
        raise errors.PeerGoneError(reason="it closed the connection")


def _failure(exc: ssl.SSLError, where: str, credentials: TlsCredentials) -> errors.PeerGoneError | errors.IdentityError:
    """Translate what ended the handshake, but for a certificate of the peer that is no good."""
    reason = exc.reason or ""
    if isinstance(exc, ssl.SSLEOFError):
        return errors.PeerGoneError(reason="it closed the connection in the TLS handshake")
    if reason in _NO_TLS:
        return errors.PeerSpeaksPlainError(where=where)
    alert = re.sub(r"^.*_ALERT_", "", reason)
    if alert in _ALERTS:
        return _refused(_ALERTS[alert], where, credentials)
    return errors.TlsHandshakeError(reason=reason.replace("_", " ").lower() or "unknown")


def _refused(reason: str, where: str, credentials: TlsCredentials) -> errors.CertificateRefusedError:
    issuer = shown_issuer(credentials.own)
    return errors.CertificateRefusedError(where=where, path=credentials.certificate_file, issuer=issuer, reason=reason)


def _fault(
    exc: ssl.SSLCertVerificationError, host: str, port: int, credentials: TlsCredentials, timeout: float
) -> errors.PeerGoneError | errors.IdentityError:
    """Say what is wrong with the peer's certificate, in the words of the certificate itself."""
    now = datetime.now(UTC)
    facts = {"where": written_address(host, port), "now": written(now)}
    found = presented(host, port, timeout)
    if found is not None and exc.verify_code == _EXPIRED and found.not_valid_after_utc < now:
        return errors.PeerCertificateExpiredError(date=written(found.not_valid_after_utc), **facts)
    if found is not None and exc.verify_code == _NOT_YET_VALID and found.not_valid_before_utc > now:
        early = errors.PeerCertificateEarlyError(date=written(found.not_valid_before_utc), **facts)
        # A clock that is a little late catches up.
        soon = found.not_valid_before_utc - now < CLOCK_SKEW
        return errors.PeerGoneError(reason=early.message) if soon else early
    if found is not None and exc.verify_code in _UNKNOWN_ISSUER:
        return errors.PeerCertificateIssuerError(issuer=shown_issuer(found), ca_file=credentials.ca_file, **facts)
    return errors.PeerCertificateError(reason=exc.verify_message, **facts)


def presented(host: str, port: int, timeout: float) -> x509.Certificate | None:
    """Return the certificate shown at an address, unchecked: good for messages only. None where none is shown."""
    try:
        with signals.allowed():
            return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=timeout).encode())
    except (OSError, ValueError):
        return None
