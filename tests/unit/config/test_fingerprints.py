"""The fingerprints of certificates in a job file."""

from __future__ import annotations

import pytest
from support.job_files import Errors, Load, with_nodes

from psicli.config import load_parties

DIGEST = "3f2a91bc7d0012e455c09a1f8e6b3d270b94ce61d8f7a23356e10c9f4ab8d275"
OTHER = "0" * 64
GROUPS = " ".join(DIGEST[at : at + 8] for at in range(0, 64, 8))
COLONS = ":".join(DIGEST[at : at + 2] for at in range(0, 64, 2)).upper()
TLS = "  tls: {ca_file: ca.pem, certificate_file: a.pem, private_key_file: a.key}\n"


def pinned(bob: str, alice: str = "", tls: str = TLS) -> str:
    first = f', certificate_sha256: "{alice}"' if alice else ""
    nodes = f'{{party: alice, address: "127.0.0.1:1"{first}}}', f"party: bob\n      certificate_sha256: {bob}"
    return with_nodes(*nodes, more=tls)


@pytest.mark.parametrize(
    "written", [DIGEST, DIGEST.upper(), GROUPS, f'"{COLONS}"', f"[{DIGEST}]", f'" {GROUPS} "', f"\n        {GROUPS}"]
)
def test_a_fingerprint_in_every_form(load: Load, written: str) -> None:
    assert load(pinned(written)).pins == {"alice": (), "bob": (DIGEST,)}


def test_a_fingerprint_as_two_lines_of_certs_show(load: Load) -> None:
    first, second = GROUPS[:35], GROUPS[36:]
    assert load(pinned(f"\n        {first}\n        {second}")).pins["bob"] == (DIGEST,)


def test_several_fingerprints_and_both_parties(load: Load) -> None:
    job = load(pinned(f"[{DIGEST}, {OTHER}]", "1" * 64))
    assert job.pins == {"alice": ("1" * 64,), "bob": (DIGEST, OTHER)}


def test_pins_follow_the_name_in_the_certificate(load: Load) -> None:
    text = pinned(DIGEST).replace("party: bob", "party: bob\n      tls_name: psi.bob.example")
    job = load(text)
    assert job.pins[job.peer_tls_name] == (DIGEST,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (pinned(DIGEST[:-1]), "is not the SHA-256 of a certificate; give the line sha256 of `psicli certs show`"),
        (pinned(DIGEST + "0"), "is not the SHA-256 of a certificate"),
        (pinned(DIGEST[:-1] + "g"), "is not the SHA-256 of a certificate"),
        (pinned('""'), "is empty; give the line sha256"),
        (pinned("[]"), "is empty; list the fingerprint of a certificate, or remove this field"),
        (pinned(f'[{DIGEST}, "{COLONS}"]'), "lists 3f2a91bc… more than once; list every certificate once"),
        (pinned("{a: b}"), "is a mapping; write it like `certificate_sha256: "),
        (pinned(DIGEST, COLONS), "lists a certificate of the other node; a certificate belongs to one party"),
        (pinned(DIGEST, tls=""), "has no effect without certificates; add cluster.tls, or remove this field"),
        (pinned(DIGEST, tls="  tls: insecure\n"), "has no effect without certificates"),
    ],
)
def test_pins_that_are_refused(errors: Errors, text: str, sentence: str) -> None:
    (error,) = errors(text)
    assert f"cluster.nodes[1].certificate_sha256{'[1]' if 'nothing' in error else ''}: " in error
    assert sentence in error


def test_simulate_ignores_pins(load: Load) -> None:
    both = (
        pinned(DIGEST).replace("{alice: [id]}", "{alice: [id], bob: [id]}").replace(": in.csv", ": in.csv, bob: b.csv")
    )
    job = load(both)
    assert all(not any(each.pins.values()) for each in load_parties(job.path, {}))
