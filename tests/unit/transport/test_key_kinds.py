"""Tests of the keys that psicli refuses wherever it meets them: in requests, authorities and its own certificates."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from support.kernel.programs import tool
from support.processes.certificates import Authority, credentials

from psicli.cli.main import cli
from psicli.core.peer_errors import TlsFileError, WeakCertificateError
from psicli.transport import certs

STRONG = {
    "RSA of 2,048 bits": lambda: rsa.generate_private_key(65537, 2048),
    "RSA of 3,072 bits": lambda: rsa.generate_private_key(65537, 3072),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
}
WEAK = {
    "RSA key of 1,024 bits": lambda: rsa.generate_private_key(65537, 1024),
    "RSA key of 2,040 bits": lambda: rsa.generate_private_key(65537, 2040),
    "with the exponent 3": lambda: rsa.generate_private_key(3, 2048),
    "DSA of 2,048 bits": lambda: dsa.generate_private_key(2048),
    "EC on secp224r1": lambda: ec.generate_private_key(ec.SECP224R1()),
    "EC on secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EC on secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "EC on brainpoolP256r1": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}
# What the cryptography library reads as a plain RSA key, or as a key on a curve with a name.
IN_DISGUISE = {
    "RSA-PSS": ["RSA-PSS", "rsa_keygen_bits:2048"],
    "a curve without a name": ["EC", "ec_paramgen_curve:P-256", "ec_param_enc:explicit"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    certs.create_authority(folder, None, certs.CA_DAYS)
    return folder


def request(path: Path, key: object) -> Path:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    signed_hash = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    path.write_bytes(builder.sign(key, signed_hash).public_bytes(serialization.Encoding.PEM))  # type: ignore[arg-type]
    return path


def openssl(*arguments: str | Path) -> None:
    subprocess.run([tool("openssl", "openssl"), *map(str, arguments)], check=True, capture_output=True)


def disguised(kind: str, folder: Path) -> Path:
    """Write own.key of this kind; return its path."""
    algorithm, *options = IN_DISGUISE[kind]
    key = folder / "own.key"
    openssl("genpkey", "-algorithm", algorithm, *(part for each in options for part in ("-pkeyopt", each)), "-out", key)
    return key


@pytest.mark.parametrize("kind", STRONG)
def test_a_strong_request_is_signed(folder: Path, tmp_path: Path, kind: str) -> None:
    asked = certs.load_request(request(tmp_path / "bob.csr", STRONG[kind]()))
    certs.issue(tmp_path, folder, "bob", [], 1, asked)
    assert certs.weakness(x509.load_pem_x509_certificate((tmp_path / "bob.pem").read_bytes())) is None


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", WEAK)
def test_a_weak_request_is_not_signed(folder: Path, tmp_path: Path, kind: str) -> None:
    path = request(tmp_path / "bob.csr", WEAK[kind]())
    done = CliRunner().invoke(
        cli, ["certs", "issue", "bob", "--csr", str(path), "--ca", str(folder), "--out", str(tmp_path)]
    )
    assert isinstance(done.exception, WeakCertificateError)
    assert re.match(rf".*bob\.csr: psicli refuses it, because it has an? .*{kind}", done.exception.message)
    assert "P-256 or P-384" in done.exception.advice
    assert [each.name for each in tmp_path.iterdir()] == ["bob.csr"]


@pytest.mark.parametrize("kind", IN_DISGUISE)
def test_a_request_whose_key_is_not_what_it_looks_like(tmp_path: Path, kind: str) -> None:
    key = disguised(kind, tmp_path)
    openssl("req", "-new", "-key", key, "-subj", "/CN=bob", "-out", tmp_path / "bob.csr")
    with pytest.raises(WeakCertificateError, match="only RSA-PSS may use, or whose curve has no name"):
        certs.load_request(tmp_path / "bob.csr")


def test_a_request_with_a_signature_that_can_be_forged(tmp_path: Path) -> None:
    openssl(
        "req", "-new", "-sha1", "-newkey", "rsa:2048", "-nodes",
        "-keyout", tmp_path / "bob.key", "-subj", "/CN=bob", "-out", tmp_path / "bob.csr",
    )  # fmt: skip
    with pytest.raises(WeakCertificateError, match="a signature that uses SHA1"):
        certs.load_request(tmp_path / "bob.csr")


def test_a_weak_authority_issues_nothing(tmp_path: Path) -> None:
    key = tmp_path / "ca.key"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-224", "-out", key)
    openssl("req", "-x509", "-new", "-key", key, "-subj", "/CN=ca", "-out", tmp_path / "ca.pem")
    with pytest.raises(WeakCertificateError, match=r"ca\.pem: psicli refuses it, .* EC on secp224r1"):
        certs.issue(tmp_path, tmp_path, "alice", [], 1)
    assert not [*tmp_path.glob("alice.*")]


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", WEAK)
def test_a_weak_certificate_of_this_party_is_not_used(tmp_path: Path, kind: str) -> None:
    issued(tmp_path, WEAK[kind]())
    with pytest.raises(
        WeakCertificateError, match=rf"own\.pem: psicli refuses it, because it has an? .*{kind}"
    ) as caught:
        credentials(tmp_path, "own", "alice", "bob")
    assert caught.value.code == 77


def issued(folder: Path, key: object) -> None:
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    authority.issue(folder, "own", ["alice"], key=key)  # type: ignore[arg-type]


def test_a_chain_that_can_be_forged_is_named(tmp_path: Path) -> None:
    """The certificate is strong, but the authority between it and the root is not."""
    for name, algorithm, option in (
        ("root", "EC", "ec_paramgen_curve:P-256"),
        ("middle", "RSA", "rsa_keygen_bits:1024"),
        ("own", "EC", "ec_paramgen_curve:P-256"),
    ):
        openssl("genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", tmp_path / f"{name}.key")
    root = tmp_path / "root.key"
    openssl("req", "-x509", "-new", "-key", root, "-subj", "/CN=root", "-out", tmp_path / "ca.pem")
    sign(tmp_path, "middle", "middle", "ca.pem", "root.key", "basicConstraints=critical,CA:TRUE")
    sign(tmp_path, "own", "alice", "middle.pem", "middle.key", "subjectAltName=DNS:alice")
    (tmp_path / "own.pem").write_bytes((tmp_path / "own.pem").read_bytes() + (tmp_path / "middle.pem").read_bytes())
    with pytest.raises(TlsFileError, match=r"own\.pem: .* a key that is too short, or a signature that can be forged"):
        credentials(tmp_path, "own", "alice", "bob")


def sign(folder: Path, file_name: str, common_name: str, ca: str, ca_key: str, extension: str) -> None:
    (folder / "extensions").write_text(f"{extension}\n")
    asked, made = folder / f"{file_name}.csr", folder / f"{file_name}.pem"
    openssl("req", "-new", "-key", folder / f"{file_name}.key", "-subj", f"/CN={common_name}", "-out", asked)
    openssl(
        "x509", "-req", "-in", asked, "-CA", folder / ca, "-CAkey", folder / ca_key, "-extfile", folder / "extensions",
        "-out", made,
    )  # fmt: skip


# Fingerprints ------------------------------------------------------------------------------------------------------


def test_both_sides_see_the_same_fingerprint_of_a_request(folder: Path, tmp_path: Path) -> None:
    ask = CliRunner().invoke(cli, ["certs", "request", "bob", "--out", str(tmp_path)])
    (facts,) = certs.describe(tmp_path / "bob.csr")
    spoken = certs.fingerprint_lines(facts["sha256"])
    shown = CliRunner().invoke(cli, ["certs", "show", str(tmp_path / "bob.csr")])
    arguments = ["--csr", str(tmp_path / "bob.csr"), "--ca", str(folder), "--out", str(tmp_path)]
    signed = CliRunner().invoke(cli, ["certs", "issue", "bob", *arguments])
    for done in (ask, shown, signed):
        assert spoken in done.output
    # The key in the request is the one in the certificate.
    (certificate,) = certs.describe(tmp_path / "bob.pem")
    assert certificate["key_sha256"] == facts["key_sha256"]
    assert certs.fingerprint_lines(certificate["sha256"]) in signed.output


def test_a_weak_key_is_marked_where_it_is_shown(tmp_path: Path) -> None:
    (facts,) = certs.describe(request(tmp_path / "bob.csr", WEAK["Ed25519"]()))
    assert "key        Ed25519: psicli refuses it, because it has a key of the kind Ed25519" in certs.to_text(facts)
