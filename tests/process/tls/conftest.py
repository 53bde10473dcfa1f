"""Certificates and meetings that the TLS tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from support.memory.meetings import Clock, Meeting
from support.processes.certificates import HOUR, Authority
from support.processes.runner import DIALER, LISTENER, PARTIES
from support.waiting import DEADLINE

from psicli.transport import dialer, listener
from psicli.transport.door import strangers

SOON = timedelta(minutes=2)


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Path:
    """Return a folder of valid and invalid certificates from one authority, and some from another of the same name."""
    folder = tmp_path_factory.mktemp("certificates")
    foreign = Authority()
    (folder / "ca.pem").write_bytes(ours.pem)
    (folder / "foreign-ca.pem").write_bytes(foreign.pem)
    for party in PARTIES:
        ours.issue(folder, party, [party])
        ours.issue(folder, f"{party}-expired", [party], begins=-2 * HOUR, ends=-HOUR)
        ours.issue(folder, f"{party}-early", [party], begins=HOUR, ends=2 * HOUR)
        foreign.issue(folder, f"{party}-foreign", [party])
    ours.issue(folder, "carol", ["carol", "carol.example.com"])
    ours.issue(folder, "common-name", [], common_name=LISTENER)
    ours.issue(folder, "wildcard", ["*.example.com"])
    ours.issue(folder, "no-dns-name", [x509.RFC822Name(DIALER), x509.UniformResourceIdentifier(DIALER)])
    return folder


@pytest.fixture
def soon(files: Path, ours: Authority) -> Path:
    """Return the folder with certificates that become valid in two minutes from now, however long other tests took."""
    for party in PARTIES:
        ours.issue(files, f"{party}-soon", [party], begins=SOON, ends=HOUR)
    return files


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    for module in (listener, strangers):
        monkeypatch.setattr(module, "GRACE", 0.3)
    # Every plain-text listener of these tests is psicli, and hears of TLS in the end.
    monkeypatch.setattr(dialer, "PLAIN_REFUSAL_TIMEOUT", DEADLINE)
    clock = Clock()
    monkeypatch.setattr(listener, "time", clock)
    with ExitStack() as stack:
        yield Meeting(stack, clock)
