"""Tests of the certificate authority: its certificates, its refusals, and that no key is ever overwritten or shown."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from support.processes.certificates import HOUR, Authority
from support.processes.runner import Result, Run

from psicli.cli.main import cli
from psicli.core.errors import CannotCreateError, FileThereError
from psicli.core.peer_errors import TlsFileError, WeakCertificateError
from psicli.transport import certs
from psicli.transport.certs import dns_names
from psicli.transport.tls import TlsCredentials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.create_authority(tmp_path, None, certs.CA_DAYS)
    return tmp_path


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def lasts(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - datetime.now(UTC)


# Certificates ------------------------------------------------------------------------------------------------------


def test_an_authority(folder: Path) -> None:
    ca = load(folder / "ca.pem")
    assert re.fullmatch(r"CN=psicli CA [0-9a-f]{8}", ca.subject.rfc4514_string())
    assert ca.issuer == ca.subject
    ca.verify_directly_issued_by(ca)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert timedelta(days=5 * 365 - 1) < lasts(ca) < timedelta(days=5 * 365 + 1)


def test_a_party(folder: Path) -> None:
    certs.issue(folder, folder, "alice", ["alice.example.com", "alice"], certs.PARTY_DAYS)
    ca, alice = load(folder / "ca.pem"), load(folder / "alice.pem")
    alice.verify_directly_issued_by(ca)
    assert dns_names(alice) == ["alice", "alice.example.com"]
    assert isinstance(alice.public_key(), ec.EllipticCurvePublicKey)
    kinds = {each.oid: each for each in alice.extensions}
    assert kinds[x509.BasicConstraints.oid].value == x509.BasicConstraints(ca=False, path_length=None)
    assert kinds[x509.BasicConstraints.oid].critical
    assert kinds[x509.KeyUsage.oid].value.digital_signature
    assert not kinds[x509.KeyUsage.oid].value.key_cert_sign
    assert [use.dotted_string for use in kinds[x509.ExtendedKeyUsage.oid].value] == [
        "1.3.6.1.5.5.7.3.1",
        "1.3.6.1.5.5.7.3.2",
    ]
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert kinds[x509.AuthorityKeyIdentifier.oid].value.key_identifier == identifier.digest
    assert timedelta(days=364) < lasts(alice) < timedelta(days=366)
    # It is valid immediately, even for a clock that is behind.
    assert alice.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=5)


def test_a_run_accepts_an_issued_certificate(folder: Path) -> None:
    certs.issue(folder, folder, "alice", [], 90)
    files = folder / "ca.pem", folder / "alice.pem", folder / "alice.key"
    TlsCredentials(*files, own_name="alice", peer_name="bob").check_own()


def test_nothing_outlives_its_authority(tmp_path: Path) -> None:
    certs.create_authority(tmp_path, None, 10)
    certs.issue(tmp_path, tmp_path, "alice", [], 365)
    assert load(tmp_path / "alice.pem").not_valid_after_utc == load(tmp_path / "ca.pem").not_valid_after_utc


def test_only_the_owner_can_read_the_keys(folder: Path) -> None:
    before = os.umask(0)
    try:
        certs.issue(folder, folder, "alice", [], 1)
        certs.request(folder, "bob")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ca.key", "alice.key", "bob.key"}
    assert {modes[name] for name in ("alice.pem", "bob.csr")} == {0o644}


def test_only_the_public_key_of_a_request_is_used(folder: Path) -> None:
    """The request also asks to be an authority and to be named alice; both are ignored."""
    key = rsa.generate_private_key(65537, 2048)
    asked = (
        x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("alice")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "bob.csr").write_bytes(asked.public_bytes(serialization.Encoding.PEM))
    assert certs.issue(folder, folder, "bob", [], 365, certs.load_request(folder / "bob.csr")) == [folder / "bob.pem"]
    bob = load(folder / "bob.pem")
    assert bob.public_key() == key.public_key()
    assert (bob.subject.rfc4514_string(), dns_names(bob)) == ("CN=bob", ["bob"])
    assert not bob.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["alice.key", "alice.pem"])
def test_nothing_is_overwritten(folder: Path, there: str) -> None:
    (folder / there).write_text("precious")
    with pytest.raises(FileThereError, match=there):
        certs.issue(folder, folder, "alice", [], 1)
    assert (folder / there).read_text() == "precious"
    assert len(list(folder.glob("alice.*"))) == 1


def test_no_authority_is_overwritten(folder: Path) -> None:
    before = (folder / "ca.key").read_bytes()
    with pytest.raises(FileThereError, match=r"ca\.key"):
        certs.create_authority(folder, None, 1)
    assert (folder / "ca.key").read_bytes() == before


def test_no_link_is_followed(folder: Path) -> None:
    (folder / "alice.key").symlink_to(folder / "elsewhere")
    with pytest.raises(FileThereError):
        certs.issue(folder, folder, "alice", [], 1)
    assert not (folder / "elsewhere").exists()


def test_a_missing_folder(folder: Path) -> None:
    with pytest.raises(CannotCreateError, match="its folder does not exist"):
        certs.issue(folder / "nowhere", folder, "alice", [], 1)


def another_key(folder: Path) -> None:
    certs.request(folder, "other")
    (folder / "ca.key").write_bytes((folder / "other.key").read_bytes())


def no_key(folder: Path) -> None:
    (folder / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")


def encrypted_key(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"secret")
    octets = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (folder / "ca.key").write_bytes(octets)


def key_missing(folder: Path) -> None:
    (folder / "ca.key").unlink()


def a_party_for_an_authority(folder: Path) -> None:
    certs.issue(folder, folder, "bob", [], 1)
    for suffix in ("pem", "key"):
        (folder / f"bob.{suffix}").replace(folder / f"ca.{suffix}")


def expired_authority(folder: Path) -> None:
    Authority().issue(folder, "ca", ["ca"], begins=-2 * HOUR, ends=-HOUR)


def no_certificate(folder: Path) -> None:
    (folder / "ca.pem").write_text("nothing")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (another_key, r"ca\.key: .*it is not the private key of .*ca\.pem"),
        (no_key, r"ca\.key: .*no unencrypted private key"),
        (encrypted_key, r"ca\.key: .*no unencrypted private key"),
        (key_missing, r"ca\.key: .*no such file"),
        (a_party_for_an_authority, r"ca\.pem: .*not the certificate of an authority"),
        (expired_authority, r"ca\.pem: .*not the certificate of an authority, or it has expired"),
        (no_certificate, r"ca\.pem: .*contains no certificate"),
    ],
)  # fmt: skip
def test_an_unusable_authority(folder: Path, spoil: object, sentence: str) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(TlsFileError, match=sentence):
        certs.issue(folder, folder, "alice", [], 1)
    assert list(folder.glob("alice.*")) == []


def test_an_invalid_request(folder: Path) -> None:
    certs.request(folder, "bob")
    octets = x509.load_pem_x509_csr((folder / "bob.csr").read_bytes()).public_bytes(serialization.Encoding.DER)
    forged = x509.load_der_x509_csr(octets[:-1] + bytes([octets[-1] ^ 1]))
    (folder / "bob.csr").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(WeakCertificateError, match="has a signature that its own key did not make"):
        certs.load_request(folder / "bob.csr")
    (folder / "bob.csr").write_text("nothing")
    with pytest.raises(TlsFileError, match="no signing request"):
        certs.load_request(folder / "bob.csr")


# The commands ------------------------------------------------------------------------------------------------------


def psicli(folder: Path, *arguments: str) -> Result:
    run = Run(arguments, cwd=folder)
    try:
        return run.result()
    finally:
        run.kill()


def fingerprint_shown(path: Path) -> str:
    """Return the lines that show the fingerprint of a certificate, which OpenSSL's form gives, too."""
    digest = load(path).fingerprint(hashes.SHA256()).hex()
    groups = [digest[at : at + 8] for at in range(0, 64, 8)]
    return f"  sha256     {' '.join(groups[:4])}\n             {' '.join(groups[4:])}"


@pytest.mark.more
def test_from_nothing_to_a_certificate_that_is_shown(tmp_path: Path) -> None:
    results = [
        psicli(tmp_path, "certs", "ca", "--name", "Two \u001b[31mcompanies"),
        psicli(tmp_path, "certs", "issue", "alice", "--dns", "alice.example.com", "--days", "20"),
        psicli(tmp_path, "certs", "show", "ca.pem", "alice.pem"),
        psicli(tmp_path, "certs", "show", "alice.pem", "--json"),
        psicli(tmp_path, "certs", "ca"),
    ]
    assert [result.code for result in results] == [0, 0, 0, 0, 73]
    made = [result.stdout.decode() for result in results]
    for text, name in ((made[0], "ca"), (made[1], "alice")):
        secret = f"wrote {name}.key, a secret: keep it on this machine\nwrote {name}.pem\n"
        assert text == secret + f"{fingerprint_shown(tmp_path / f'{name}.pem')}\n"
        assert fingerprint_shown(tmp_path / f"{name}.pem") in made[2]
    assert "\u001b" not in made[2]
    for line in (
        r"ca\.pem\n  subject    'CN=Two \\x1b\[31mcompanies'\n  names      none\n",
        r"  for        issuing certificates\n",
        r"alice\.pem\n  subject    'CN=alice'\n  names      'alice', 'alice\.example\.com'\n",
        r"  valid      from \d{4}-\S+ \d\d:\d\d UTC to \S+ \S+ UTC, 19 days left\n  for        listening, dialling\n",
    ):
        assert re.search(line, made[2]), made[2]
    (shown,) = json.loads(made[3])["certificates"]
    assert (shown["names"], shown["days_left"], shown["valid_now"]) == (["alice", "alice.example.com"], 19, True)
    assert made[4] == ""
    assert "ca.key: the file already exists" in results[4].stderr
    keys = [(tmp_path / name).read_text().splitlines()[1] for name in ("ca.key", "alice.key")]
    assert not [key for key in keys for result in results if key in result.text or "PRIVATE" in result.text]


@pytest.mark.parametrize(
    "arguments",
    [
        ["issue", "Alice"],
        ["issue", "../alice"],
        ["issue", "alice", "--dns", "*.example.com"],
        ["issue", "alice", "--dns", "a b"],
        ["issue", "alice", "--days", "0"],
        ["ca", "--name", "x" * 65],
        ["request", ""],
        ["show"],
    ],
)
def test_a_wrong_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["certs", *arguments]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_shown(folder: Path) -> None:
    with pytest.raises(TlsFileError, match="contains no certificate"):
        certs.describe(folder / "ca.key")
    with pytest.raises(TlsFileError, match="no such file"):
        certs.describe(folder / "nowhere.pem")


def test_an_expired_certificate_is_marked(tmp_path: Path) -> None:
    Authority().issue(tmp_path, "old", ["old"], begins=-2 * HOUR, ends=-HOUR)
    (facts,) = certs.describe(tmp_path / "old.pem")
    assert certs.to_text(facts).splitlines()[4].endswith("NOT VALID NOW")
