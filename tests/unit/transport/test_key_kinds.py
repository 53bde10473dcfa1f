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
from support.processes.certificates import Authority, chain, credentials

from psicli.cli.main import cli
from psicli.core.peer_errors import WeakCertificateError
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
    with pytest.raises(WeakCertificateError, match="a signature that uses SHA1") as caught:
        certs.load_request(tmp_path / "bob.csr")
    assert caught.value.advice == "It must be signed with SHA-256 or SHA-384."


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


WEAK_AUTHORITIES = {
    "RSA key of 1,024 bits": ["RSA", "rsa_keygen_bits:1024"],
    "RSA key of 2,047 bits": ["RSA", "rsa_keygen_bits:2047"],
    "EC on secp224r1": ["EC", "ec_paramgen_curve:P-224"],
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", WEAK_AUTHORITIES)
def test_a_chain_that_can_be_forged_is_named(tmp_path: Path, kind: str) -> None:
    """The certificate is strong, but the authority between it and the root is not."""
    chain(tmp_path, "own", "alice", middle=WEAK_AUTHORITIES[kind])
    with pytest.raises(
        WeakCertificateError, match=rf"own\.pem: .* holds the certificate of 'CN=middle', which has .* {kind}"
    ) as caught:
        credentials(tmp_path, "own", "alice", "bob")
    assert caught.value.advice.startswith("Remove that certificate from the file, or replace it. Use a key on")


@pytest.mark.sample(2)
@pytest.mark.parametrize("label", ["CERTIFICATE", "TRUSTED CERTIFICATE"])
@pytest.mark.parametrize("kind", WEAK_AUTHORITIES)
def test_a_weak_authority_among_others_is_not_trusted(tmp_path: Path, kind: str, label: str) -> None:
    chain(tmp_path, "own", "alice")
    chain(tmp_path, "old", "alice", root=WEAK_AUTHORITIES[kind], ca="old-ca")
    old = (tmp_path / "old-ca.pem").read_text().replace("CERTIFICATE", label)
    (tmp_path / "ca.pem").write_text((tmp_path / "ca.pem").read_text() + old)
    with pytest.raises(
        WeakCertificateError, match=rf"ca\.pem: .* holds the certificate of 'CN=root of old', which has .* {kind}"
    ) as caught:
        credentials(tmp_path, "own", "alice", "bob")
    assert caught.value.code == 77


def test_the_signature_of_a_root_proves_nothing_and_may_use_sha1(tmp_path: Path) -> None:
    """Roots of twenty years ago have such signatures; whoever trusts them trusts the file they are in."""
    chain(tmp_path, "own", "alice", digest="-sha1")
    credentials(tmp_path, "own", "alice", "bob")


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


def test_a_request_with_a_wrong_signature_is_marked(tmp_path: Path) -> None:
    path = request(tmp_path / "bob.csr", STRONG["P-256"]())
    octets = bytearray(x509.load_pem_x509_csr(path.read_bytes()).public_bytes(serialization.Encoding.DER))
    octets[-1] ^= 1
    path.write_bytes(x509.load_der_x509_csr(bytes(octets)).public_bytes(serialization.Encoding.PEM))
    (facts,) = certs.describe(path)
    assert "psicli refuses it, because it has a signature that its own key did not make" in certs.to_text(facts)


def test_a_request_and_a_certificate_in_one_file_are_both_shown(folder: Path, tmp_path: Path) -> None:
    path = request(tmp_path / "both.pem", STRONG["P-256"]())
    path.write_bytes(path.read_bytes() + (folder / "ca.pem").read_bytes() + path.read_bytes())
    assert [facts["request"] for facts in certs.describe(path)] == [True, False, True]


def test_a_weak_key_is_marked_where_it_is_shown(tmp_path: Path) -> None:
    (facts,) = certs.describe(request(tmp_path / "bob.csr", WEAK["Ed25519"]()))
    assert "key        Ed25519: psicli refuses it, because it has a key of the kind Ed25519" in certs.to_text(facts)
