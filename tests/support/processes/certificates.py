"""Real certificates made for a test, valid or with any fault."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes as PrivateKey
from cryptography.x509.oid import NameOID
from support.kernel.programs import tool
from support.processes.runner import PARTIES, Pair

from psicli.transport.tls import TlsCredentials

HOUR = timedelta(hours=1)
Pins: TypeAlias = Mapping[str, Collection[str]]


class Authority:
    """A certificate authority with its key in memory."""

    def __init__(self, name: str = "psicli test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.pem = self._sign(self._name, self._key, [basic], -HOUR, HOUR)

    def issue(
        self,
        folder: Path,
        file_name: str,
        names: Sequence[str | x509.GeneralName],
        *,
        begins: timedelta = -HOUR,
        ends: timedelta = HOUR,
        common_name: str = "ignored",
        key: PrivateKey | None = None,
    ) -> None:
        """Write FILE_NAME.pem and FILE_NAME.key; names given as text are DNS names; times are relative to now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        general = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
        extensions = [x509.SubjectAlternativeName(general)] if general else []
        pem = self._sign(_named(common_name), key, extensions, begins, ends)
        folder.joinpath(f"{file_name}.pem").write_bytes(pem)
        octets = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key_file = folder / f"{file_name}.key"
        key_file.touch(0o600)
        key_file.write_bytes(octets)

    def _sign(
        self,
        subject: x509.Name,
        key: PrivateKey,
        extensions: Sequence[x509.ExtensionType],
        begins: timedelta,
        ends: timedelta,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self._name, subject, key.public_key(), x509.random_serial_number(), now + begins, now + ends
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


P256 = ("EC", "ec_paramgen_curve:P-256")


def openssl(*arguments: str | Path) -> None:
    subprocess.run([tool("openssl", "openssl"), *map(str, arguments)], check=True, capture_output=True)


def chain(
    folder: Path,
    file_name: str,
    dns_name: str,
    *,
    root: Sequence[str] = P256,
    middle: Sequence[str] = P256,
    ca: str = "ca",
    digest: str = "-sha256",
) -> None:
    """Write CA.pem, and FILE_NAME.pem, which also holds the authority between the two, and FILE_NAME.key.

    root, middle: the algorithms and options of the authorities' keys; digest: of the root's signature on itself.
    """

    def path(name: str) -> Path:
        return folder / f"{file_name}.{name}"

    for name, (algorithm, option) in (("root", root), ("middle", middle), ("party", P256)):
        openssl("genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", path(f"{name}.key"))
    roots = folder / f"{ca}.pem"
    openssl(
        "req", "-x509", "-new", digest, "-key", path("root.key"), "-subj", f"/CN=root of {file_name}", "-out", roots
    )
    for name, subject, issuer, extension in (
        ("middle", "/CN=middle", roots, "basicConstraints=critical,CA:TRUE"),
        ("party", "/CN=party", path("middle.pem"), f"subjectAltName=DNS:{dns_name}"),
    ):
        path("extensions").write_text(f"{extension}\n")
        openssl("req", "-new", "-key", path(f"{name}.key"), "-subj", subject, "-out", path(f"{name}.csr"))
        signer = path("middle.key" if name == "party" else "root.key")
        openssl(
            "x509", "-req", "-in", path(f"{name}.csr"), "-CA", issuer, "-CAkey", signer, "-CAcreateserial",
            "-extfile", path("extensions"), "-out", path(f"{name}.pem"),
        )  # fmt: skip
    path("pem").write_bytes(path("party.pem").read_bytes() + path("middle.pem").read_bytes())
    path("party.key").replace(path("key"))


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def issue(folder: Path, names: Mapping[str, str]) -> None:
    """Write ca.pem, and for every file name a certificate for its DNS name and the key."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    for file_name, dns_name in names.items():
        authority.issue(folder, file_name, [dns_name])


def with_tls(pair: Pair, **certificates: str) -> Pair:
    """Give each party a tls section; certificates: the files' name if it differs from the party's."""
    for party in PARTIES:
        name = certificates.get(party, party)
        pair.jobs[party]["cluster"]["tls"] = {
            "ca_file": "../ca.pem",
            "certificate_file": f"../{name}.pem",
            "private_key_file": f"../{name}.key",
        }
    return pair


def credentials(
    folder: Path, certificate: str, own: str, peer: str, ca: str = "ca", pins: Pins | None = None
) -> TlsCredentials:
    names = {"own_name": own, "peer_name": peer, "pins": pins}
    paths = [folder / f"{name}" for name in (f"{ca}.pem", f"{certificate}.pem", f"{certificate}.key")]
    return TlsCredentials(*paths, **names)
