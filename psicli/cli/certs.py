"""psicli certs: a private certificate authority."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from psicli.cli.options import PATH, Decorator, json_option
from psicli.cli.screen import write


@click.group()
def certs() -> None:
    """Make and look at certificates: a small private authority for two companies that have none.

    One company runs the authority (ca) and issues a certificate to each party. The other one asks for its own with a
    request, so that its key never travels.
    """


def _matching(form: str, advice: str) -> Callable[[str], str]:
    """Return the type of a text that has a form that the job file knows, too."""

    def text(value: str) -> str:
        from psicli import config as job_file

        if not re.fullmatch(getattr(job_file, form), value):
            raise click.BadParameter(f"{value!r} is not a name; {advice}.")
        return value

    return text


_PARTY = _matching("NAME", "a party's name is 1 to 63 of a-z, 0-9 and -")
_DNS = _matching("DNS_NAME", "a DNS name has no wildcard and no port")


def _folder_option(name: str, text: str) -> Decorator:
    return click.option(name, type=PATH, default=".", metavar="DIR", help=text)


def _days_option(text: str) -> Decorator:
    return click.option("--days", type=click.IntRange(1, 36500), metavar="N", help=text)


@certs.command()
@_folder_option("--out", "Where to write ca.pem and ca.key; by default here.")
@click.option("--name", help="What the authority calls itself; by default psicli CA and a number.")
@_days_option("How long it lasts; by default 5 years.")
def ca(out: Path, name: str | None, days: int | None) -> None:
    """Make a certificate authority: ca.pem, for both sides, and ca.key, which stays here."""
    from psicli.transport.certs import CA_DAYS, create_authority

    if name is not None and not 1 <= len(name.encode()) <= 64:
        raise click.BadParameter("it must have 1 to 64 characters", param_hint="--name")
    _say_written(create_authority(out, name, days or CA_DAYS))


@certs.command()
@click.argument("party", type=_PARTY)
@_folder_option("--out", "Where to write both files; by default here.")
def request(party: str, out: Path) -> None:
    """Make PARTY.key, which stays here, and PARTY.csr, for whoever runs the authority."""
    from psicli.transport import certs

    _say_written(certs.request(out, party))


@certs.command()
@click.argument("party", type=_PARTY)
@click.option("--dns", multiple=True, type=_DNS, metavar="NAME", help="A further name of the party (repeatable).")
@click.option("--csr", type=PATH, metavar="FILE", help="The party's request; it keeps its key.")
@_folder_option("--ca", "The folder with ca.pem and ca.key; by default here.")
@_folder_option("--out", "Where to write the certificate; by default here.")
@_days_option("How long it lasts; by default a year, and never longer than the authority.")
def issue(party: str, dns: Sequence[str], csr: Path | None, ca: Path, out: Path, days: int | None) -> None:
    """Issue PARTY.pem, which names the party and every --dns; without --csr with a new key, PARTY.key.

    Of a request nothing but the public key is used: the names are those given here.
    """
    from psicli.transport import certs

    _say_written(certs.issue(out, ca, party, dns, days or certs.PARTY_DAYS, csr))


@certs.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=PATH)
@json_option
def show(files: Sequence[Path], as_json: bool) -> None:
    """Show what certificates say: names, issuer, validity, days left, what they are for."""
    from psicli.transport.certs import describe, to_text

    found = [facts for path in files for facts in describe(path)]
    text = "\n".join(map(to_text, found))
    write(json.dumps({"certificates": found}, indent=2, ensure_ascii=False) if as_json else text)


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        write(f"wrote {path}{', a secret: keep it here' if path.suffix == '.key' else ''}")
