"""What a party checks of its own certificate, and what it shows of its credentials."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from support.processes.certificates import HOUR, Authority, credentials
from support.processes.runner import DIALER, LISTENER

from psicli.core.peer_errors import OwnCertificateError
from psicli.transport import certs


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        ("alice-expired", r"alice-expired\.pem: this party's certificate expired on 20"),
        ("alice-early", r"alice-early\.pem: this party's certificate is valid only from 20"),
        ("carol", r"carol\.pem: .* names carol, carol\.example\.com, not alice"),
        ("common-name", "names nobody, not alice"),
    ],
)
def test_own_certificate(files: Path, certificate: str, sentence: str) -> None:
    with pytest.raises(OwnCertificateError, match=sentence):
        credentials(files, certificate, LISTENER, DIALER).check_own()


@pytest.mark.parametrize("certificate", ["alice", "alice-soon"])
def test_own_certificate_that_is_accepted(soon: Path, certificate: str) -> None:
    credentials(soon, certificate, LISTENER, DIALER).check_own()


def test_nothing_secret_is_shown(files: Path) -> None:
    shown = repr(credentials(files, LISTENER, LISTENER, DIALER))
    assert "PRIVATE" not in shown
    assert "context" not in shown


@pytest.mark.parametrize(
    ("ends", "job_may_last", "expected"),
    [
        (timedelta(days=29, hours=1), 0.0, r"^the certificate expires on 20.* UTC, in 29 days: renew it in time$"),
        (timedelta(hours=5), 0.0, "in 5 hours"),
        (timedelta(days=31), 0.0, None),
        (timedelta(days=40), 41 * 86400.0, "in 39 days"),
        (-HOUR, 0.0, None),
    ],
)
def test_a_certificate_that_is_about_to_expire(
    tmp_path: Path, ends: timedelta, job_may_last: float, expected: str | None
) -> None:
    Authority().issue(tmp_path, "own", [LISTENER], begins=-2 * HOUR, ends=ends)
    certificate = x509.load_pem_x509_certificate((tmp_path / "own.pem").read_bytes())
    warning = certs.ending(certificate, "the certificate", job_may_last)
    assert (warning is None) if expected is None else re.search(expected, warning or "")
