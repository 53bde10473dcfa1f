"""Shows both parties that their forms make the same of the same texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from itertools import chain

from psicli.items.forms.names import Form
from psicli.items.forms.rules import phones
from psicli.items.forms.rules.bases import rule

_LABEL = b"psicli/v1/forms\0"
_LENGTH = 16
_NULL = b"\xff\xff\xff\xff"

# What the forms are tried on, by the forms that a text is for. docs/key-forms.md shows what becomes of each; any change
# changes the probes. Phone numbers are of plans that no version of the library changes.
TEXTS: dict[str, tuple[str, ...]] = {
    "text": (
        "", " ", " a b ", "\t\r\n\x85\xa0\u2003a\u3000", "\ufeff\u200b\u200e\xada\u2060", "\u200da\u200c",
        "Cafe\u0301", "\u212bngstro\u0308m", "STRASSE", "Stra\xdfe", "\ufb01n", "\u0130I", "\u03a3\u0391\u03a3",
        "\u1fb3\u0345", "'a'",
    ),
    "numbers": (
        "7", "007", "+7", "-7", "-007", "0", "-0", "000", "7.", "7.0", "7.00", "7.5", ".0", "1e3", "1E+3", "1.2E3",
        "12E4", "1,234", "1 234", "\u0661\u0662", "\uff17", "DE-007/12", "12.000", "12.00", "517.0", "-517.0",
    ),
    "emails": (
        "Ben@X.de", " ben@x.de\u200b", "mailto:Ben@x.de?subject=Hi", "\"Bell, Ben\" <ben@x.de>;", "'ben@x.de',",
        "<MAILTO:ben@x.de>", "\u201cben@x.de\u201d", "o'neil@x.ie", "ben+news@x.de", "Stra\xdfe@Stra\xdfe.de",
        "BE\u0301N@\u00c9.FR", "\u03a3\u0391\u03a3@x.gr", "ben@xn--bcher-kva.example", "a!#$%&*+/=?^_{}~-z@x.de",
        "ben", "@x.de", "ben@", "ben@x", "a@b@x.de", ".ben@x.de", "ben.@x.de", "b..n@x.de", "b n@x.de", "ben@x..de",
        "ben@x.de.", "ben@-x.de", "ben@x-.de", "ben@x_y.de", "ben@[192.0.2.1]", "b\\n@x.de", "b\u200bn@x.de",
        "(ben)@x.de", "<a@x.de> <b@x.de>", "a@x.de;b@x.de", f"{'a' * 64}@x.de", f"{'a' * 65}@x.de",
        f"a@{'b' * 63}.de", f"a@{'b' * 64}.de", f"a@{'.'.join(['b' * 49] * 5)}.de",
        f"a@{'.'.join(['b' * 49] * 5)}.com", "B.e.n+news@GMail.com", "b.en@googlemail.com", "b.en+a+b@Outlook.com",
        "b.+a@outlook.com", "be.\u0301n@gmail.com",
        "b.en+a@hotmail.com", "ben+a@live.com", "ben+a@msn.com", "ben+a@icloud.com", "ben+a@me.com", "ben+a@mac.com",
        "ben+a@fastmail.com", "ben+a@fastmail.fm", "ben+a@proton.me", "ben+a@protonmail.com", "ben+a@pm.me",
        "ben+a@mail.gmail.com", "+a@gmail.com", "ben+@gmail.com",
    ),
    "phones": (
        "+49 170 1234567", "+49 (0)170 / 123 45-67", "+49 00170 1234567", "0049 170 1234567", "tel:+49-170-1234567",
        "+491701234567.0", "+49170 1234567 ext. 5", "\uff0b\uff14\uff19 170 1234567", "+1 (212) 555-0100",
        "0170 1234567 (9-17 Uhr)", "1-800-FLOWERS", "491701234567.00",
        "0170 1234567", "(0170) 123-4567", "491701234567", "491701234567.0", "1701234567.0", "4.9170123E+11",
        "212 555 0100", "001 212 555 0100", "00000000000", "+49 111 1111111", "+49", "+49 17",
        "+49 170 1234567 1234567", "112", "+999 1234567",
    ),
    "times": (
        "2024-03-01", "2024-3-1", "2024/03/01", "2024.3.1", "20240301", "2024-03/01", "24-03-01", "2024-02-29",
        "2023-02-29", "0000-01-01", "0001-01-01", "9999-12-31", "01.03.2024", "1/3/2024", "13-03-2024", "03-13-2024",
        "1 March 2024", "2024-03-01T06:00:00Z", "2024-03-01 06:00", "2024-03-01t6:00:00z", "2024/3/1 06:00:00",
        "20240301T060000Z", "20240301 0600", "2024-03-01T0600", "2024-03-01T06:00:00.500", "2024-03-01T06:00:00,000",
        "2024-03-01T06:00:00.123456789", "2024-03-01T06:00:00.1234567890", "2024-03-01T06:00:00 UTC",
        "2024-03-01T06:00:00GMT", "2024-03-01 06:00:00+00:00", "2024-03-01T00:30:00+01", "2024-03-01T23:30:00 -0130",
        "2024-03-01T06:00:00-00:00", "2024-03-01T06:00:00+24:00", "2024-03-01T06:00:00+01:60", "2024-03-01T24:00:00",
        "2024-03-01T23:60:00", "2024-03-01T23:59:60", "0001-01-01T00:00:00+01:00", "9999-12-31T23:30:00-01:00",
        "2024-03-01T06", "06:00:00", "1709272800", "01.03.2024 06:00:00+01:00",
    ),
    "codes": (
        "123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000",
        "123e4567e89b12d3a456426614174000", "{123E4567-e89b-12d3-a456-426614174000}",
        "{123e4567e89b12d3a456426614174000}", "URN:UUID:123e4567-e89b-12d3-a456-426614174000",
        "{123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b12d3a456426614174000",
        "{{123e4567-e89b-12d3-a456-426614174000}}",
        "123e4567-e89b-12d3-a456-42661417400g", "E0B7D6E4FD1C7A6B5A3E9F0C8D2B4A6978695A4B3C2D1E0F1122334455667788",
        " e0b7d6e4fd1c7a6b5a3e9f0c8d2b4a6978695a4b3c2d1e0f1122334455667788 ",
        "0xe0b7d6e4fd1c7a6b5a3e9f0c8d2b4a6978695a4b3c2d1e0f1122334455667788",
        "e0b7d6e4fd1c7a6b5a3e9f0c8d2b4a6978695a4b3c2d1e0f112233445566778",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ),
}  # fmt: skip


def probe(forms: Sequence[Form]) -> bytes:
    """Return 16 bytes that are the same for all implementations of these forms.

    It does not depend on what the parties may have different: regions, the order of day and month, hashed columns.
    """
    outputs = (_outputs(Form(form.base, sha256=form.sha256)) for form in forms)
    return sha256(_LABEL + b"".join(outputs)).digest()[:_LENGTH]


def unicode_version() -> str:
    """Return the version of Unicode whose letters and marks this Python knows."""
    return unicodedata.unidata_version


def phone_version(forms: Sequence[Form]) -> str:
    """Return the version of the library for phone numbers; empty if no form needs it."""
    return phones.library_version() if any(form.base == "phone" for form in forms) else ""


@cache
def _outputs(form: Form) -> bytes:
    """Return what a form makes of all texts; once, because a job may have thousands of tasks."""
    convert, outputs = rule(form), []
    for text in chain.from_iterable(TEXTS.values()):
        value = convert(text)
        octets = b"" if value is None else value.encode()
        outputs.append(_NULL if value is None else len(octets).to_bytes(4, "big") + octets)
    return b"".join(outputs)
