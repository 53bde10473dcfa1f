"""The forms of identifiers and hashes: uuid, hashed, and what /sha256 does."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256

from psicli.items.forms.rules.text import trim

_UUID = re.compile(
    r"(?:urn:uuid:)?(\{?)([0-9a-f]{8})(-?)([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{12})(\}?)"
)
_HASH = re.compile("[0-9a-f]{64}")
# Whoever hashes all rows of a column hashes the empty ones, too.
HASH_OF_NOTHING = sha256(b"").hexdigest()


def uuid(text: str) -> str | None:
    """Return a UUID in lower case with hyphens (RFC 9562)."""
    text = trim(text)
    if not text:
        return text
    found = _UUID.fullmatch(_ascii_lower(text))
    if found is None or bool(found[1]) != bool(found[8]):
        return None
    return "-".join(found.group(2, 4, 5, 6, 7))


def hashed(text: str) -> str | None:
    """Return a SHA-256 in lower-case hexadecimal digits; None for that of the empty text."""
    text = trim(text)
    if not text:
        return text
    text = _ascii_lower(text)
    return text if _HASH.fullmatch(text) and text != HASH_OF_NOTHING else None


def sha256_of(rule: Callable[[str], str | None], text: str) -> str | None:
    """Return the SHA-256 of what a rule makes of a text, in hexadecimal digits; an empty text stays empty."""
    value = rule(text)
    return value and sha256(value.encode()).hexdigest()


def _ascii_lower(text: str) -> str:
    """Return a text in lower case if it is ASCII: other letters can become ASCII letters, such as the Kelvin sign."""
    return text.lower() if text.isascii() else text
