"""Shows both parties that their forms make the same of the same texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import sha256

from psicli.items.forms.names import Form
from psicli.items.forms.rules import phones, rule

_LABEL = b"psicli/v1/forms\0"
_LENGTH = 16
_NULL = b"\xff\xff\xff\xff"

# What the forms are tried on, as docs/key-forms.md has it. Any change changes the probes.
TEXTS: tuple[str, ...] = ("Ben@X.de ", "517.0")


def probe(forms: Sequence[Form]) -> bytes:
    """Return 16 bytes that are the same for all implementations of these forms.

    It does not depend on what the parties may have different: regions, the order of day and month, hashed columns.
    """
    return sha256(_LABEL + b"".join(_outputs(forms))).digest()[:_LENGTH]


def unicode_version() -> str:
    """Return the version of Unicode whose letters and marks this Python knows."""
    return unicodedata.unidata_version


def phone_version(forms: Sequence[Form]) -> str:
    """Return the version of the library for phone numbers; empty if no form needs it."""
    return phones.library_version() if any(form.base == "phone" for form in forms) else ""


def _outputs(forms: Sequence[Form]) -> Iterator[bytes]:
    for form in forms:
        agreed = rule(Form(form.base, sha256=form.sha256))
        for text in TEXTS:
            value = agreed(text)
            octets = b"" if value is None else value.encode()
            yield _NULL if value is None else len(octets).to_bytes(4, "big") + octets
