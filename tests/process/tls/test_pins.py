"""Certificates that a job file pins: what each side accepts of the other, and of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from support.memory.meetings import Meeting
from support.processes.certificates import Authority, credentials, with_tls
from support.processes.expectations import Untouched, failed, marked_pair, succeeded
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair
from support.waiting import wait_until

from psicli.core.peer_errors import OwnCertificateError, PeerCertificateUnfitError, PeerRefusedError
from psicli.transport.certs import fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two certificates of each party: one in use, and one that was stolen."""
    folder, authority = tmp_path_factory.mktemp("pinned"), Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    for party in PARTIES:
        authority.issue(folder, party, [party])
        authority.issue(folder, f"{party}-stolen", [party])
    return folder


def pin(folder: Path, file_name: str) -> str:
    return fingerprint(x509.load_pem_x509_certificate((folder / f"{file_name}.pem").read_bytes()))


def pins(folder: Path) -> dict[str, tuple[str, ...]]:
    return {party: (pin(folder, party),) for party in PARTIES}


def test_pinned_certificates_meet(meeting: Meeting, folder: Path) -> None:
    listening = meeting.listen(credentials(folder, LISTENER, LISTENER, DIALER, pins=pins(folder)))
    dialled = meeting.dial(credentials(folder, DIALER, DIALER, LISTENER, pins=pins(folder)))
    assert listening.result().peer_hello == dialled.own_hello


def test_while_a_certificate_is_replaced_both_are_accepted(meeting: Meeting, folder: Path) -> None:
    both = {DIALER: (pin(folder, DIALER), pin(folder, f"{DIALER}-stolen"))}
    listening = meeting.listen(credentials(folder, LISTENER, LISTENER, DIALER, pins=both))
    dialled = meeting.dial(credentials(folder, f"{DIALER}-stolen", DIALER, LISTENER))
    assert listening.result().peer_hello == dialled.own_hello


def test_the_listener_turns_a_stolen_certificate_away_and_waits_for_the_peer(
    meeting: Meeting, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listening = meeting.listen(credentials(folder, LISTENER, LISTENER, DIALER, pins=pins(folder)))
    with pytest.raises(PeerRefusedError, match="job file lists other certificates for it") as caught:
        meeting.dial(credentials(folder, f"{DIALER}-stolen", DIALER, LISTENER))
    assert caught.value.code == 77
    stolen = pin(folder, f"{DIALER}-stolen")
    said = f"whose certificate has the fingerprint {stolen}, which certificate_sha256 of its node does not list"
    wait_until(lambda: said in caplog.text, said)
    dialled = meeting.dial(credentials(folder, DIALER, DIALER, LISTENER))
    assert listening.result().peer_hello == dialled.own_hello


def test_the_dialer_says_which_certificate_it_met(meeting: Meeting, folder: Path) -> None:
    meeting.listen(credentials(folder, f"{LISTENER}-stolen", LISTENER, DIALER))
    stolen = pin(folder, f"{LISTENER}-stolen")
    with pytest.raises(PeerCertificateUnfitError, match=f"has the fingerprint {stolen}, which") as caught:
        meeting.dial(credentials(folder, DIALER, DIALER, LISTENER, pins=pins(folder)))
    assert "confirms this fingerprint by telephone" in caught.value.advice
    meeting.give_up()


def test_a_party_that_would_be_refused_says_so_itself(folder: Path) -> None:
    stolen = f"{LISTENER}-stolen"
    with pytest.raises(OwnCertificateError, match=f"has the fingerprint {pin(folder, stolen)}, which") as caught:
        credentials(folder, stolen, LISTENER, DIALER, pins=pins(folder)).check_own()
    assert caught.value.code == 77
    credentials(folder, LISTENER, LISTENER, DIALER, pins=pins(folder)).check_own()
    credentials(folder, stolen, LISTENER, DIALER, pins={DIALER: (pin(folder, DIALER),)}).check_own()


# Between processes -------------------------------------------------------------------------------------------------


def pinned(pair: Pair, folder: Path, **certificates: str) -> Pair:
    """Give both parties certificates, and pin those in use in both job files."""
    for path in [*folder.glob("*.pem"), *folder.glob("*.key")]:
        (pair.folder / path.name).write_bytes(path.read_bytes())
        (pair.folder / path.name).chmod(0o600)
    with_tls(marked_pair(pair), **certificates)
    for job in pair.jobs.values():
        for node in job["cluster"]["nodes"]:
            node["certificate_sha256"] = [pin(folder, node["party"])]
    return pair


@pytest.mark.more
def test_a_run_with_pinned_certificates(pair: Pair, folder: Path) -> None:
    succeeded(pinned(pair, folder).run())


@pytest.mark.more
def test_a_run_with_a_certificate_that_the_peer_does_not_list(pair: Pair, folder: Path) -> None:
    pinned(pair, folder, bob=f"{DIALER}-stolen")
    # Bob believes that he may use it.
    pair.jobs[DIALER]["cluster"]["nodes"][1].pop("certificate_sha256")
    untouched = Untouched(pair)
    pair.link(LISTENER, connect_retry_times=200)
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    failed(pair.start(DIALER).result(), 77, "alice's job file lists other certificates for it")
    failed(alice.result(), 69, f"whose certificate has the fingerprint {pin(folder, f'{DIALER}-stolen')}")
    untouched.check()
    pair.nothing_left()


@pytest.mark.more
def test_an_own_certificate_that_is_not_listed_ends_the_run(pair: Pair, folder: Path) -> None:
    pinned(pair, folder, alice=f"{LISTENER}-stolen")
    bob = pair.start(DIALER)
    bob.wait_for("connecting to")
    failed(pair.start(LISTENER).result(), 77, "this party's certificate has the fingerprint .* does not list")
    failed(bob.result(), 77, r"the certificate at \S+ has the fingerprint .* does not list")
    pair.nothing_left()


def test_a_check_tells_what_is_pinned_and_which_key_is_open(pair: Pair, folder: Path) -> None:
    pinned(pair, folder)
    (pair.folder / "alice.key").chmod(0o644)
    for node in pair.jobs[LISTENER]["cluster"]["nodes"][1:]:
        node["certificate_sha256"].append(pin(folder, f"{DIALER}-stolen").upper())
    done = pair.start_command("check", "--config", pair.job_file(LISTENER), "--wait", "0").result()
    assert done.code == 0
    said = done.stdout.decode()
    assert "only 2 certificates of bob are accepted" in said
    assert "alice.key is open to every user of this machine (mode 0644): type `chmod o= " in said
