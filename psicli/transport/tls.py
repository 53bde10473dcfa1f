"""TLS: checks who is at the other end of a connection, and explains what is wrong with a certificate or an address.

gRPC says little about why a handshake failed, and its client accepts names that we do not (wildcards, and the common
name of a certificate without alternative names). So the dialer first connects with the standard library, and gRPC then
trusts only the certificate that passed. A party's identity is a DNS subject alternative name; only this module compares
it, and only this module says which certificates of the peer psicli accepts.
"""

from __future__ import annotations

import _ssl
import re
import ssl
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from psicli.core import peer_errors, signals
from psicli.core.peer_errors import CertificateRefusedError, IdentityError, PeerGoneError, StrangerError
from psicli.transport.certs import (
    USABLE_KEYS,
    Weakness,
    check_strong,
    fingerprint,
    load_certificate,
    names_party,
    read_file,
    refuse_weak,
    shown_issuer,
    shown_names,
    shown_subject,
    weakness,
    written,
)
from psicli.transport.preflight import CLOSED, CLOSED_AFTER_TLS, check_greeting, check_plain, connected, written_address

# Two clocks may differ by this much: a certificate that becomes valid within this time causes a retry, not an error.
CLOCK_SKEW = timedelta(minutes=5)
# OpenSSL's X509_V_ERR_* codes for a faulty chain.
_NOT_YET_VALID, _EXPIRED = 9, 10
# The key of the certificate is too short, or on a curve that has no name.
_WEAK_KEY = {66, 94}
# A wrong signature, and all codes for an issuer that was not found.
_UNKNOWN_ISSUER = {2, 7, 18, 19, 20, 21}
# OpenSSL's reasons for octets that are not a TLS record.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
# A peer's alerts about our certificate (RFC 8446 section 6.2), by the end of OpenSSL's name for them.
_ALERTS = {
    "UNKNOWN_CA": "its ca_file does not contain this authority",
    "CERTIFICATE_EXPIRED": "the certificate has expired by its clock",
    "CERTIFICATE_REVOKED": "the certificate was revoked",
    "CERTIFICATE_REQUIRED": "it received no certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept the certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not support this kind of certificate",
    "BAD_CERTIFICATE": "it considers the certificate invalid",
    "DECRYPT_ERROR": "its ca_file holds another authority of the same name",
    "ACCESS_DENIED": "it denies access to this certificate",
}


class _Connection(ssl.SSLSocket):
    """A TLS connection that closes its socket if the other end has reset it before the handshake.

    ssl takes the socket over before it notices that, and leaves the closing to the garbage collector.
    """

    _begun = False

    def do_handshake(self, block: bool = False) -> None:
        self._begun = True
        super().do_handshake(block)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError:
            # Only ssl itself reads before the handshake.
            if not self._begun:
                self.close()
            raise


class TlsCredentials:
    """One end's certificate, private key and trusted authorities (PEM), its own name, and the expected peer's name.

    pins: for each name, the fingerprints of its certificates if the job file lists them. context: for the preflight
    handshake; server_context: for the handshakes of a listener.
    """

    def __init__(
        self,
        ca_file: Path,
        certificate_file: Path,
        key_file: Path,
        *,
        own_name: str,
        peer_name: str,
        pins: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Read the three files; raises TlsFileError for an unusable file, WeakCertificateError for a weak certificate.

        The authorities in both files are checked, too: whoever can forge one of them can pose as any party.
        """
        self.ca_file, self.certificate_file = ca_file, certificate_file
        self.own_name, self.peer_name = own_name, peer_name
        self.pins = pins or {}
        self.ca, self.certificate, self.private_key = map(read_file, (ca_file, certificate_file, key_file))
        self.own = load_certificate(certificate_file, self.certificate)
        refuse_weak(certificate_file, self.own)
        check_strong(certificate_file, _loaded(certificate_file, self.certificate))
        self.context = _context(ssl.PROTOCOL_TLS_CLIENT, ca_file, certificate_file, key_file)
        check_strong(ca_file, _trusted(ca_file, self.context))
        self.server_context = _server_context(ca_file, certificate_file, key_file)

    @property
    def trust(self) -> str:
        """Say whom the peer and this party have to trust, for a message."""
        try:
            authorities = [shown_subject(each) for each in x509.load_pem_x509_certificates(self.ca)]
        except ValueError:
            authorities = []
        trusted = ", ".join(authorities[:3]) + (" and others" if authorities[3:] else "")
        issuer = shown_issuer(self.own)
        return f"This side's certificate was issued by {issuer}, and its ca_file holds {trusted or 'no authority'}."

    def check_own(self) -> None:
        """Raise OwnCertificateError if the other party would refuse our certificate, so that the error appears here."""
        now, begins, ends = datetime.now(UTC), self.own.not_valid_before_utc, self.own.not_valid_after_utc
        if ends < now:
            fault = f"expired on {written(ends)} (it is {written(now)})"
            advice = f"Get a new one; if psicli made the authority, run `psicli certs issue {self.own_name}`."
        elif begins > now + CLOCK_SKEW:
            fault = f"is valid only from {written(begins)} (it is {written(now)})"
            advice = "Check this machine's clock. If it is right, wait or get a certificate that is valid now."
        elif names_party(self.own, self.own_name):
            if self._is_pinned(self.own, self.own_name):
                return
            fault = _not_pinned(self.own)
            advice = "Set certificate_file to a listed certificate, or list this one in both job files."
        elif names_party(self.own, self.peer_name):
            fault = f"names {shown_names(self.own)}, which is the other party, not {self.own_name}"
            advice = (
                "Check that self_party (or --party) is this party and not the other one. If it is right, set "
                "certificate_file to this party's certificate."
            )
        else:
            fault = f"names {shown_names(self.own)}, not {self.own_name}"
            advice = (
                f"Set certificate_file to a certificate with {self.own_name} as a DNS subject alternative name, or set "
                "tls_name of this party's node to a name in the certificate."
            )
        raise peer_errors.OwnCertificateError(path=self.certificate_file, fault=fault, advice=advice)

    def accept(self, chain: Sequence[x509.Certificate]) -> None:
        """Raise StrangerError unless a chain, as `verified_chain` returns it, is one that the peer may use."""
        certificate, name = chain[0], self.peer_name
        if not names_party(certificate, name):
            fault = f"names {shown_names(certificate)}, not {name}"
            advice = (
                f"It must hold {name} as a DNS subject alternative name; if it holds another name of the other party, "
                "set that name as the tls_name of the other party's node in the job file."
            )
        elif (weak := _weakest(chain)) is not None:
            fault, advice = weak.fault, f"The other party needs another certificate. {weak.advice}"
        elif not self._is_pinned(certificate, name):
            fault = _not_pinned(certificate)
            advice = (
                "If the other party confirms this fingerprint by telephone, list it in both job files; if not, "
                "somebody else has a certificate with its name."
            )
        else:
            return
        raise StrangerError(fault=fault, advice=advice)

    def _is_pinned(self, certificate: x509.Certificate, name: str) -> bool:
        """Return whether the job file lists this certificate, or none, for a party."""
        return not self.pins.get(name) or fingerprint(certificate) in self.pins[name]


def in_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM, as gRPC takes it."""
    return certificate.public_bytes(Encoding.PEM)


def verified_chain(secure: ssl.SSLSocket) -> list[x509.Certificate]:
    """Return the certificates by which the handshake verified the other end, from its own to the root's.

    Raises ValueError for one that cannot be read.
    """
    if sys.version_info >= (3, 13):
        octets = secure.get_verified_chain()
    else:
        # Python had the method for years before it made it public.
        found = secure._sslobj.get_verified_chain()  # type: ignore[attr-defined]
        octets = [each.public_bytes(_ssl.ENCODING_DER) for each in found or []]
    if not octets:
        raise ValueError("no certificate")
    return [x509.load_der_x509_certificate(each) for each in octets]


def _weakest(chain: Sequence[x509.Certificate]) -> Weakness | None:
    """Return what is weak about a certificate or about an authority that it depends on."""
    for certificate in chain:
        if (weak := weakness(certificate)) is not None:
            if certificate is chain[0]:
                return weak
            fault = f"depends on the authority {shown_subject(certificate)}, whose certificate {weak.fault}"
            return weak._replace(fault=fault)
    return None


def _loaded(path: Path, octets: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError as exc:
        raise peer_errors.TlsFileError(path=path, reason="a certificate in it is damaged") from exc


def _trusted(path: Path, context: ssl.SSLContext) -> list[x509.Certificate]:
    """Return the authorities that a context trusts: what OpenSSL found in ca_file, in whatever kind of PEM."""
    try:
        return [x509.load_der_x509_certificate(each) for each in context.get_ca_certs(binary_form=True)]
    except ValueError as exc:
        raise peer_errors.TlsFileError(path=path, reason="a certificate in it is damaged") from exc


def _not_pinned(certificate: x509.Certificate) -> str:
    return f"has the fingerprint {fingerprint(certificate)}, which certificate_sha256 of its node does not list"


def _server_context(ca_file: Path, certificate_file: Path, private_key_file: Path) -> ssl.SSLContext:
    """Return the context of a listener: it demands a certificate, and never resumes or renegotiates a session."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, ca_file, certificate_file, private_key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def _context(protocol: int, ca_file: Path, certificate_file: Path, private_key_file: Path) -> ssl.SSLContext:
    """Return a context for handshakes; raises TlsFileError for a file that is unusable."""
    context = ssl.SSLContext(protocol)
    context.sslsocket_class = _Connection
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Names are compared exactly, and by us: OpenSSL would let a wildcard pass.
    context.check_hostname = False
    # Python 3.11.2 sets this by default. A listener that refuses a certificate without an alert would then look like
    # one that ends the connection properly.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    # Level 2 refuses RSA keys below 2,048 bits and SHA-1 signatures in the whole chain. These suites are gRPC's.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2")
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as exc:
        raise peer_errors.TlsFileError(path=ca_file, reason="it contains no certificate in PEM format") from exc
    try:
        # The empty password keeps OpenSSL from prompting on the terminal.
        context.load_cert_chain(certificate_file, private_key_file, password="")
    except ssl.SSLError as exc:
        if (exc.reason or "").endswith(("_TOO_SMALL", "_TOO_WEAK")):
            fault = "holds a certificate whose key is too short, or whose signature can be forged"
            raise peer_errors.WeakCertificateError(path=certificate_file, fault=fault, advice=USABLE_KEYS) from exc
        reason = f"it is not a certificate in PEM format, or {private_key_file} is not its unencrypted private key"
        raise peer_errors.TlsFileError(path=certificate_file, reason=reason) from exc
    return context


# The dialer's handshake before gRPC's -----------------------------------------------------------------------------


def secure_preflight(host: str, port: int, credentials: TlsCredentials, timeout: float) -> x509.Certificate:
    """Check a server as `preflight.check` does, and return its certificate."""
    # A listener that is shutting down looks like one that refuses, so one refusal proves nothing.
    with suppress(CertificateRefusedError):
        return _handshake(host, port, credentials, timeout)
    try:
        return _handshake(host, port, credentials, timeout)
    except CertificateRefusedError as exc:
        since = credentials.own.not_valid_before_utc
        if datetime.now(UTC) - since < CLOCK_SKEW:
            reason = f"it refuses this side's certificate, valid only since {written(since)}: do the clocks differ?"
            raise PeerGoneError(reason=reason) from exc
        raise


def _handshake(host: str, port: int, credentials: TlsCredentials, timeout: float) -> x509.Certificate:
    where = written_address(host, port)
    with connected(host, port, timeout) as plain:
        try:
            # A connection that breaks off must not look like an orderly end of the stream.
            secure = credentials.context.wrap_socket(
                plain, server_hostname=credentials.peer_name, suppress_ragged_eofs=False
            )
        except ConnectionResetError as exc:
            raise PeerGoneError(reason=CLOSED) from exc
        except ssl.SSLCertVerificationError as exc:
            raise _fault(exc, host, port, credentials, timeout) from exc
        except ssl.SSLError as exc:
            if exc.reason in _NO_TLS:
                # Is it psicli without TLS, or another program?
                check_plain(host, port, timeout)
            raise _failure(exc, where, credentials) from exc
        with secure:
            certificate = _accepted_certificate(secure, where, credentials)
            if secure.selected_alpn_protocol() is None:
                raise peer_errors.NotPsicliError(where=where, program="a TLS server without HTTP/2")
            try:
                check_greeting(secure, where)
            except ConnectionResetError as exc:
                raise PeerGoneError(reason=CLOSED_AFTER_TLS) from exc
            except ssl.SSLError as exc:
                # In TLS 1.3 the client finishes before the server checks its certificate.
                cause = PeerGoneError(reason=CLOSED_AFTER_TLS) if _broke_off(exc) else None
                raise (cause or _failure(exc, where, credentials)) from exc
    return certificate


def _accepted_certificate(secure: ssl.SSLSocket, where: str, credentials: TlsCredentials) -> x509.Certificate:
    """Return the peer's certificate, whose chain is checked already; raises PeerCertificateError."""
    try:
        chain = verified_chain(secure)
        credentials.accept(chain)
    except ValueError as exc:
        raise peer_errors.PeerCertificateError(where=where, reason="psicli cannot read it") from exc
    except StrangerError as exc:
        raise peer_errors.PeerCertificateUnfitError(where=where, **exc.facts) from exc
    return chain[0]


def _broke_off(exc: ssl.SSLError) -> bool:
    """Return whether the connection ended without a TLS alert; Python 3.11.2 has no class of its own for this."""
    return isinstance(exc, ssl.SSLEOFError) or exc.reason == "UNEXPECTED_EOF_WHILE_READING"


def _failure(exc: ssl.SSLError, where: str, credentials: TlsCredentials) -> PeerGoneError | IdentityError:
    """Translate the error that ended the handshake, except a fault in the peer's certificate (see _fault)."""
    reason = exc.reason or ""
    if _broke_off(exc):
        return PeerGoneError(reason=CLOSED)
    if reason in _NO_TLS:
        return peer_errors.PeerSpeaksPlainError(where=where)
    alert = re.sub(r"^.*_ALERT_", "", reason)
    if alert in _ALERTS:
        return _refused(_ALERTS[alert], where, credentials)
    return peer_errors.TlsHandshakeError(reason=reason.replace("_", " ").lower() or "unknown")


def _refused(reason: str, where: str, credentials: TlsCredentials) -> CertificateRefusedError:
    issuer = shown_issuer(credentials.own)
    return CertificateRefusedError(where=where, path=credentials.certificate_file, issuer=issuer, reason=reason)


def _fault(
    exc: ssl.SSLCertVerificationError, host: str, port: int, credentials: TlsCredentials, timeout: float
) -> PeerGoneError | IdentityError:
    """Return the error that says what is wrong with the peer's certificate."""
    now = datetime.now(UTC)
    facts = {"where": written_address(host, port), "now": written(now)}
    found = presented(host, port, timeout)
    if found is not None and exc.verify_code == _EXPIRED and found.not_valid_after_utc < now:
        return peer_errors.PeerCertificateExpiredError(date=written(found.not_valid_after_utc), **facts)
    if found is not None and exc.verify_code == _NOT_YET_VALID and found.not_valid_before_utc > now:
        early = peer_errors.PeerCertificateEarlyError(date=written(found.not_valid_before_utc), **facts)
        # If the clock is only slightly behind, a retry succeeds.
        soon = found.not_valid_before_utc - now < CLOCK_SKEW
        return PeerGoneError(reason=early.message) if soon else early
    if found is not None and exc.verify_code in _UNKNOWN_ISSUER:
        return peer_errors.PeerCertificateIssuerError(issuer=shown_issuer(found), ca_file=credentials.ca_file, **facts)
    if found is not None and exc.verify_code in _WEAK_KEY and (weak := weakness(found)) is not None:
        return peer_errors.PeerCertificateUnfitError(**weak._asdict(), **facts)
    return peer_errors.PeerCertificateError(reason=exc.verify_message, **facts)


def presented(host: str, port: int, timeout: float) -> x509.Certificate | None:
    """Return the certificate that an address presents, or None; it is not verified, so use it for messages only."""
    try:
        with signals.allowed():
            return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=timeout).encode())
    except (OSError, ValueError):
        return None
