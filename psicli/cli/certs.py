"""psicli certs: a private certificate authority for two companies."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from psicli.cli.options import PATH, Decorator, json_option
from psicli.cli.screen import warn, write
from psicli.core.errors import printable
from psicli.report.layout import Screen


@click.group()
def certs() -> None:
    """Make and show certificates.

    These commands are for companies without a certificate authority of their own. One company makes the authority (ca)
    and issues a certificate to each party (issue). The other company sends it a request (request), so that its private
    key never leaves its machine.
    """


def _matching(form: str, advice: str) -> Callable[[str], str]:
    """Return the type of an option whose text has a form that the job file defines."""

    def text(value: str) -> str:
        from psicli import config as job_file

        if not re.fullmatch(getattr(job_file, form), value):
            raise click.BadParameter(f"{value!r} is not valid: {advice}.")
        return value

    return text


# The width of the labels in the description of a certificate [columns].
_LABEL_WIDTH = 11
_KINDS = {"certificates": False, "requests": True}
_PARTY = _matching("NAME", "a party's name has 1 to 63 characters of a-z, 0-9 and -")
_DNS = _matching("DNS_NAME", "a DNS name has no wildcard and no port")


def _folder_option(name: str, text: str) -> Decorator:
    return click.option(name, type=PATH, default=".", metavar="DIR", help=text)


def _days_option(text: str) -> Decorator:
    return click.option("--days", type=click.IntRange(1, 36500), metavar="N", help=text)


@certs.command()
@_folder_option("--out", "Write ca.pem and ca.key to this folder. The default is the current folder.")
@click.option("--name", metavar="NAME", help="Name the authority. The default is psicli CA and a random number.")
@_days_option("Make it valid for N days. The default is 5 years.")
def ca(out: Path, name: str | None, days: int | None) -> None:
    """Make a certificate authority.

    Give ca.pem to both parties. ca.key is secret, because it can issue certificates for any party. Keep it on this
    machine.
    """
    from psicli.transport.certs import CA_DAYS, create_authority

    if name is not None and not 1 <= len(name.encode()) <= 64:
        raise click.BadParameter("use 1 to 64 characters", param_hint="--name")
    _say_written(create_authority(out, name, days or CA_DAYS))


@certs.command()
@click.argument("party", type=_PARTY)
@_folder_option("--out", "Write both files to this folder. The default is the current folder.")
def request(party: str, out: Path) -> None:
    """Make a secret key and a request for a certificate.

    Keep PARTY.key on this machine, and send PARTY.csr to the company that runs the authority.
    """
    from psicli.transport import certs

    _say_written(certs.request(out, party))


@certs.command()
@click.argument("party", type=_PARTY)
@click.option(
    "--dns", multiple=True, type=_DNS, metavar="NAME", help="Add this DNS name. Repeat the option for several."
)
@click.option("--csr", type=PATH, metavar="FILE", help="Issue the certificate for this request, and make no key.")
@_folder_option("--ca", "Use ca.pem and ca.key in this folder. The default is the current folder.")
@_folder_option("--out", "Write the certificate to this folder. The default is the current folder.")
@_days_option("Make it valid for N days, but not longer than the authority. The default is a year.")
def issue(party: str, dns: Sequence[str], csr: Path | None, ca: Path, out: Path, days: int | None) -> None:
    """Issue a certificate to a party.

    Without --csr, this command also makes the secret PARTY.key. The certificate PARTY.pem holds the party's name and
    each --dns name. Only the public key is taken from a request; names in the request are ignored.
    """
    from psicli.storage.files import exposure
    from psicli.transport import certs

    asked = None if csr is None else certs.load_request(csr)
    paths = certs.issue(out, ca, party, dns, days or certs.PARTY_DAYS, asked)
    if (warning := exposure(ca / "ca.key")) is not None:
        warn(warning)
    if asked is not None:
        write(f"signed the request {printable(csr)}\n{certs.fingerprint_lines(certs.fingerprint(asked))}")
    _say_written(paths)


@certs.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=PATH)
@json_option
def show(files: Sequence[Path], as_json: bool) -> None:
    """Show what certificates and requests say, and their fingerprints.

    sha256 is the fingerprint of a whole certificate or request: compare it with the other party by telephone. A job
    file can pin a certificate by it (certificate_sha256). key sha256 is that of the public key alone, which a request
    and its certificate have in common.
    """
    from psicli.transport.certs import describe, to_text

    found = [facts for path in files for facts in describe(path)]
    text = Screen.of(sys.stdout).wrap("\n".join(map(to_text, found)), indent=_LABEL_WIDTH)
    by_kind = {name: [each for each in found if each["request"] is asked] for name, asked in _KINDS.items()}
    write(json.dumps(by_kind, indent=2) if as_json else text)


def _say_written(paths: Sequence[Path]) -> None:
    from psicli.transport.certs import describe, fingerprint_lines

    for path in paths:
        if path.suffix == ".key":
            write(f"wrote {printable(path)}, a secret: keep it on this machine")
        else:
            write(f"wrote {printable(path)}\n{fingerprint_lines(describe(path)[0]['sha256'])}")
