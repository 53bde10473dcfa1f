"""A small private certificate authority, for two organisations that do not share one.

Keys are EC keys on P-256. Private keys are readable by their owner only, and no file is ever overwritten. A party that
sends a signing request keeps its private key to itself; only the request's public key is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from psicli.core.errors import counted, printable, shown, shown_name
from psicli.core.peer_errors import TlsFileError
from psicli.storage.files import create_files
from psicli.transport.tls import MAX_SHOWN_NAME, dns_names, extension, load_certificate, read_file, written

# How long certificates are valid by default [days].
CA_DAYS = 5 * 365
PARTY_DAYS = 365
# New certificates are backdated so that a peer whose clock is slightly behind ours accepts them.
_BACKDATED = timedelta(minutes=10)

_PRIVATE, _PUBLIC = 0o600, 0o644
_USES = {ExtendedKeyUsageOID.SERVER_AUTH: "listening", ExtendedKeyUsageOID.CLIENT_AUTH: "dialling"}


# Creating ------------------------------------------------------------------------------------------------------


def create_authority(folder: Path, name: str | None, days: int) -> list[Path]:
    """Write ca.pem and ca.key and return their paths; raises CannotCreateError."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The identifier keeps two authorities apart in messages.
    subject = _common_name(name or f"psicli CA {identifier.digest[:4].hex()}")
    builder = (
        _blank(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return _create({folder / "ca.key": _private_pem(key), folder / "ca.pem": certificate.public_bytes(Encoding.PEM)})


def request(folder: Path, party: str) -> list[Path]:
    """Write PARTY.key and a signing request, PARTY.csr; return their paths. Raises CannotCreateError."""
    key = ec.generate_private_key(ec.SECP256R1())
    asked = x509.CertificateSigningRequestBuilder(_common_name(party)).sign(key, hashes.SHA256())
    octets = asked.public_bytes(Encoding.PEM)
    return _create({folder / f"{party}.key": _private_pem(key), folder / f"{party}.csr": octets})


def issue(
    folder: Path, authority: Path, party: str, dns: Sequence[str], days: int, csr: Path | None = None
) -> list[Path]:
    """Write PARTY.pem, signed with ca.key in the folder `authority`; return the paths of all files written.

    Without a signing request, create a private key too and write it to PARTY.key. Raises TlsFileError,
    CannotCreateError.
    """
    ca, ca_key = _load_authority(authority)
    files: dict[Path, bytes] = {}
    if csr is None:
        key = ec.generate_private_key(ec.SECP256R1())
        public_key: Any = key.public_key()
        files[folder / f"{party}.key"] = _private_pem(key)
    else:
        public_key = _load_request(csr).public_key()
    certificate = _leaf(ca, party, dns, public_key, days).sign(ca_key, hashes.SHA256())
    files[folder / f"{party}.pem"] = certificate.public_bytes(Encoding.PEM)
    return _create(files)


def _leaf(ca: x509.Certificate, party: str, dns: Sequence[str], public_key: Any, days: int) -> x509.CertificateBuilder:
    alternatives = [x509.DNSName(name) for name in dict.fromkeys([party, *dns])]
    uses = x509.ExtendedKeyUsage(list(_USES))
    identifier = extension(ca, x509.SubjectKeyIdentifier) or x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return (
        _blank(_common_name(party), ca.subject, public_key, days, ca.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(uses, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )


def _blank(
    subject: x509.Name, issuer: x509.Name, public_key: Any, days: int, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = min(now + timedelta(days=days), latest or datetime.max.replace(tzinfo=UTC))
    return x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number(), now - _BACKDATED, end)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _create(files: dict[Path, bytes]) -> list[Path]:
    create_files({path: (octets, _PRIVATE if path.suffix == ".key" else _PUBLIC) for path, octets in files.items()})
    return list(files)


# Reading -------------------------------------------------------------------------------------------------------


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = folder / "ca.pem", folder / "ca.key"
    certificate = load_certificate(path, read_file(path))
    try:
        key = load_pem_private_key(read_file(key_path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise TlsFileError(path=key_path, reason="it contains no unencrypted private key in PEM format") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise TlsFileError(path=key_path, reason=f"it is not the private key of {path}")
    if not _is_authority(certificate) or certificate.not_valid_after_utc < datetime.now(UTC):
        raise TlsFileError(path=path, reason="it is not the certificate of an authority, or it has expired")
    return certificate, key


def _load_request(path: Path) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_pem_x509_csr(read_file(path))
    except ValueError as exc:
        raise TlsFileError(path=path, reason="it contains no signing request in PEM format") from exc
    # The signature proves that the requester has the private key.
    if not asked.is_signature_valid:
        raise TlsFileError(path=path, reason="the signature of the request is invalid")
    return asked


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


# Showing -------------------------------------------------------------------------------------------------------


def describe(path: Path) -> list[dict[str, Any]]:
    """Return the contents of every certificate in a PEM file, ready for JSON; raises TlsFileError."""
    try:
        return [_described(path, each) for each in x509.load_pem_x509_certificates(read_file(path))]
    except ValueError as exc:
        raise TlsFileError(path=path, reason="it contains no certificate in PEM format") from exc


def _described(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    now = datetime.now(UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    listed = extension(certificate, x509.ExtendedKeyUsage)
    uses = [use for oid, use in _USES.items() if listed is None or oid in listed]
    return {
        "file": str(path),
        "subject": certificate.subject.rfc4514_string(),
        "names": dns_names(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": begins.isoformat(),
        "not_after": ends.isoformat(),
        "days_left": (ends - now).days,
        "valid_now": begins <= now <= ends,
        "uses": ["issuing certificates"] if _is_authority(certificate) else uses,
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def to_text(facts: Mapping[str, Any]) -> str:
    """Return the contents of a certificate as readable lines; its text is quoted so that it cannot confuse a terminal.

    facts: as `describe` returns them.
    """
    begins, ends = (written(datetime.fromisoformat(facts[name])) for name in ("not_before", "not_after"))
    state = f"{counted(facts['days_left'], 'day')} left" if facts["valid_now"] else "NOT VALID NOW"
    lines = [
        ("subject", shown(facts["subject"])),
        ("names", ", ".join(shown_name(name, MAX_SHOWN_NAME) for name in facts["names"]) or "none"),
        ("issuer", shown(facts["issuer"])),
        ("valid", f"from {begins} to {ends}, {state}"),
        ("for", ", ".join(facts["uses"]) or "no use in psicli"),
        ("sha256", facts["sha256"]),
    ]
    return "\n".join([printable(facts["file"]), *(f"  {label:8} {text}" for label, text in lines)])
