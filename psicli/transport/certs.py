"""Certificates: what they say, which keys psicli accepts, and a small private authority that issues them.

The authority is for two organisations that do not share one. Its keys are EC keys on P-256. Private keys are readable
by their owner only, and no file is ever overwritten. A party that sends a signing request keeps its private key to
itself; only the request's public key is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from psicli.core.errors import counted, printable, reason, shown, shown_name
from psicli.core.peer_errors import TlsFileError, WeakCertificateError
from psicli.storage.files import create_files

# How long certificates are valid by default [days].
CA_DAYS = 5 * 365
PARTY_DAYS = 365
# A certificate that expires within this time causes a warning.
WARN_BEFORE = timedelta(days=30)
# The longest name from a certificate that a message shows in full [characters].
MAX_SHOWN_NAME = 64
# The keys that are strong and that both sides' TLS can use. gRPC's cannot use a certificate with a key on P-521, of
# Ed25519 or of RSA-PSS, and OpenSSL takes seconds with a longer RSA key or exponent.
RSA_BITS = range(2048, 8192 + 1)
RSA_EXPONENTS = range(65537, 1 << 32)
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}
USABLE_KEYS = (
    "Use a key on the elliptic curve P-256 or P-384, or an RSA key of 2,048 to 8,192 bits with the exponent 65537."
)
WEAK_HASHES = {"md5", "sha1"}
# New certificates are backdated so that a peer whose clock is slightly behind ours accepts them.
_BACKDATED = timedelta(minutes=10)

_PRIVATE, _PUBLIC = 0o600, 0o644
_USES = {ExtendedKeyUsageOID.SERVER_AUTH: "listening", ExtendedKeyUsageOID.CLIENT_AUTH: "dialling"}


# The certificates and requests in a PEM file.
_BLOCK = re.compile(rb"-----BEGIN (?:X509 |NEW )?CERTIFICATE( REQUEST)?-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL)

_Signed: TypeAlias = x509.Certificate | x509.CertificateSigningRequest
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


# What a certificate says ----------------------------------------------------------------------------------------


def read_file(path: Path) -> bytes:
    """Return the octets of a certificate or key file; raises TlsFileError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise TlsFileError(path=path, reason=reason(exc)) from exc


def load_certificate(path: Path, octets: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM file; raises TlsFileError."""
    try:
        return x509.load_pem_x509_certificate(octets)
    except ValueError as exc:
        raise TlsFileError(path=path, reason="it contains no certificate in PEM format") from exc


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS subject alternative names exactly as written; the common name is ignored."""
    alternatives = extension(certificate, x509.SubjectAlternativeName)
    return [] if alternatives is None else alternatives.get_values_for_type(x509.DNSName)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return the value of an extension, or None if the certificate has none that can be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


class Weakness(NamedTuple):
    """Why psicli refuses a certificate or request, as the end of a sentence, and what to do."""

    fault: str
    advice: str


def weakness(signed: _Signed) -> Weakness | None:
    """Return why psicli refuses a certificate, of a party or an authority, or a request for one; None if it does not.

    Its key is weak or of a kind that not every TLS can use, or its signature can be forged or is wrong.
    """
    if fault := _faulty_key(signed):
        return Weakness(fault, USABLE_KEYS)
    with suppress(UnsupportedAlgorithm):
        used = signed.signature_hash_algorithm
        if used and used.name in WEAK_HASHES and not _signs_itself(signed):
            fault = f"has a signature that uses {used.name.upper()}, which can be forged"
            return Weakness(fault, "It must be signed with SHA-256 or SHA-384.")
    # The signature proves that the requester has the private key.
    if isinstance(signed, x509.CertificateSigningRequest) and not signed.is_signature_valid:
        fault = "has a signature that its own key did not make"
        return Weakness(fault, "Ask the party for a new request; `psicli certs request` makes one.")
    return None


def _faulty_key(signed: _Signed) -> str | None:
    key = _key(signed)
    if key is None:
        return "has a key that psicli cannot read"
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if key.key_size not in RSA_BITS or exponent not in RSA_EXPONENTS:
            return f"has an RSA key of {counted(key.key_size, 'bit')} with the exponent {exponent}"
    elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        return f"has a key of the kind {key_kind(signed)}"
    body = signed.tbs_certificate_bytes if isinstance(signed, x509.Certificate) else signed.tbs_certrequest_bytes
    if _encoded(key) not in body:
        return "has a key that only RSA-PSS may use, or whose curve has no name"
    return None


def _signs_itself(signed: _Signed) -> bool:
    """Return whether a certificate is a root: who trusts it trusts the file it is in, and not its signature.

    OpenSSL checks the signature of any other certificate that only looks like a root.
    """
    return isinstance(signed, x509.Certificate) and signed.issuer == signed.subject


def check_strong(path: Path, certificates: Sequence[x509.Certificate]) -> None:
    """Check all certificates in a file, those of authorities included; raises WeakCertificateError for a weak one."""
    for each in certificates:
        if (weak := weakness(each)) is not None:
            fault = f"holds the certificate of {shown_subject(each)}, which {weak.fault}"
            advice = f"Remove that certificate from the file, or replace it. {weak.advice}"
            raise WeakCertificateError(path=path, fault=fault, advice=advice)


def _key(signed: _Signed) -> CertificatePublicKeyTypes | None:
    try:
        return signed.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return None


def _encoded(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_kind(signed: _Signed) -> str:
    """Return the kind of key in a certificate or request, for people."""
    key = _key(signed)
    if key is None:
        return "unknown"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC on {CURVES.get(key.curve.name, key.curve.name)}"
    size = f" of {counted(key.key_size, 'bit')}" if hasattr(key, "key_size") else ""
    return type(key).__name__.removesuffix("PublicKey") + size


def fingerprint(signed: _Signed) -> str:
    """Return the SHA-256 of a certificate, as a job file pins it, or of a request, in hex."""
    return _sha256(signed.public_bytes(Encoding.DER))


def _sha256(octets: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(octets)
    return digest.finalize().hex()


def names_party(certificate: x509.Certificate, name: str) -> bool:
    """Return whether a certificate names a party: the full name, ignoring case; wildcards do not match."""
    return name.lower() in (each.lower() for each in dns_names(certificate))


def shown_names(certificate: x509.Certificate) -> str:
    """Return the names in a certificate, for a message."""
    return ", ".join(shown_name(each, MAX_SHOWN_NAME).strip("'") for each in dns_names(certificate)[:8]) or "nobody"


def shown_issuer(certificate: x509.Certificate) -> str:
    """Return the issuer of a certificate, for a message."""
    return shown(certificate.issuer.rfc4514_string())


def shown_subject(certificate: x509.Certificate) -> str:
    """Return whom a certificate names, for a message."""
    return shown(certificate.subject.rfc4514_string())


def written(moment: datetime) -> str:
    """Return a time as text for people."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def ending(certificate: x509.Certificate, whose: str, job_may_last: float) -> str | None:
    """Return a warning if a valid certificate expires within 30 days or job_may_last [s]; else None."""
    end = certificate.not_valid_after_utc
    left = end - datetime.now(UTC)
    if not timedelta(0) < left < max(WARN_BEFORE, timedelta(seconds=job_may_last)):
        return None
    hours = counted(round(left.total_seconds() / 3600), "hour")
    soon = f"{left.days} days" if left >= timedelta(days=2) else hours
    return f"{whose} expires on {written(end)}, in {soon}: renew it in time"


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
    folder: Path,
    authority: Path,
    party: str,
    dns: Sequence[str],
    days: int,
    asked: x509.CertificateSigningRequest | None = None,
) -> list[Path]:
    """Write PARTY.pem, signed with ca.key in the folder `authority`; return the paths of all files written.

    Without a signing request, create a private key too and write it to PARTY.key. Raises TlsFileError,
    WeakCertificateError, CannotCreateError.
    """
    ca, ca_key = _load_authority(authority)
    files: dict[Path, bytes] = {}
    if asked is None:
        key = ec.generate_private_key(ec.SECP256R1())
        public_key: Any = key.public_key()
        files[folder / f"{party}.key"] = _private_pem(key)
    else:
        public_key = asked.public_key()
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
    refuse_weak(path, certificate)
    return certificate, key


def load_request(path: Path) -> x509.CertificateSigningRequest:
    """Return a request for a certificate if psicli would sign it; raises TlsFileError, WeakCertificateError."""
    try:
        asked = x509.load_pem_x509_csr(read_file(path))
    except ValueError as exc:
        raise TlsFileError(path=path, reason="it contains no signing request in PEM format") from exc
    refuse_weak(path, asked)
    return asked


def refuse_weak(path: Path, signed: _Signed) -> None:
    """Raise WeakCertificateError if psicli refuses the certificate or request that a file is for."""
    if (weak := weakness(signed)) is not None:
        raise WeakCertificateError(path=path, **weak._asdict())


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


# Showing -------------------------------------------------------------------------------------------------------


def describe(path: Path) -> list[dict[str, Any]]:
    """Return what the certificates and requests in a PEM file say, ready for JSON; raises TlsFileError."""
    found: list[dict[str, Any]] = []
    try:
        for block in _BLOCK.finditer(read_file(path)):
            if block[1]:
                found.append(_described_request(path, x509.load_pem_x509_csr(block[0])))
            else:
                found.append(_described(path, x509.load_pem_x509_certificate(block[0])))
    except ValueError as exc:
        raise TlsFileError(path=path, reason="a certificate or request in it is damaged") from exc
    if not found:
        raise TlsFileError(path=path, reason="it contains no certificate or request in PEM format")
    return found


def _described_request(path: Path, asked: x509.CertificateSigningRequest) -> dict[str, Any]:
    return {
        "file": str(path),
        "request": True,
        "subject": asked.subject.rfc4514_string(),
        **_described_key(asked),
    }


def _described_key(signed: _Signed) -> dict[str, Any]:
    key, weak = _key(signed), weakness(signed)
    return {
        "key": key_kind(signed),
        "weakness": weak.fault if weak else None,
        "key_sha256": None if key is None else _sha256(_encoded(key)),
        "sha256": fingerprint(signed),
    }


def _described(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    now = datetime.now(UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    listed = extension(certificate, x509.ExtendedKeyUsage)
    uses = [use for oid, use in _USES.items() if listed is None or oid in listed]
    return {
        "file": str(path),
        "request": False,
        "subject": certificate.subject.rfc4514_string(),
        "names": dns_names(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": begins.isoformat(),
        "not_after": ends.isoformat(),
        "days_left": (ends - now).days,
        "valid_now": begins <= now <= ends,
        "uses": ["issuing certificates"] if _is_authority(certificate) else uses,
        **_described_key(certificate),
    }


def to_text(facts: Mapping[str, Any]) -> str:
    """Return what a certificate or request says as lines; its text is quoted so that it cannot confuse a terminal.

    facts: as `describe` returns them.
    """
    weak = f": psicli refuses it, because it {facts['weakness']}" if facts["weakness"] else ""
    key = [
        ("key", facts["key"] + weak),
        *_in_groups("key sha256", facts["key_sha256"] or ""),
        *_in_groups("sha256", facts["sha256"]),
    ]
    lines = [("subject", shown(facts["subject"])), *([] if facts["request"] else _validity(facts)), *key]
    title = printable(facts["file"]) + (", a request for a certificate" if facts["request"] else "")
    return "\n".join([title, *(f"  {label:10} {text}".rstrip() for label, text in lines)])


def _validity(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    begins, ends = (written(datetime.fromisoformat(facts[name])) for name in ("not_before", "not_after"))
    state = f"{counted(facts['days_left'], 'day')} left" if facts["valid_now"] else "NOT VALID NOW"
    return [
        ("names", ", ".join(shown_name(name, MAX_SHOWN_NAME) for name in facts["names"]) or "none"),
        ("issuer", shown(facts["issuer"])),
        ("valid", f"from {begins} to {ends}, {state}"),
        ("for", ", ".join(facts["uses"]) or "no use in psicli"),
    ]


def _in_groups(label: str, digest: str) -> list[tuple[str, str]]:
    """Return a fingerprint as two lines of four groups, to be read aloud and compared."""
    groups = [digest[at : at + 8] for at in range(0, len(digest), 8)]
    return [(label, " ".join(groups[:4])), ("", " ".join(groups[4:]))] if groups else []


def fingerprint_lines(sha256: str) -> str:
    """Return a fingerprint as `to_text` shows it."""
    return "\n".join(f"  {label:10} {text}" for label, text in _in_groups("sha256", sha256))
