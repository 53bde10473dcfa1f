"""The forms of e-mail addresses."""

from __future__ import annotations

import re
import unicodedata

from psicli.items.forms.domains import GMAIL, WITH_TAGS
from psicli.items.forms.rules.text import TRIMMED, trim

# The longest text with an address [characters], and the longest address and its parts [bytes].
_LONGEST_TEXT = 1000
_LONGEST, _LONGEST_LOCAL, _LONGEST_LABEL = 254, 64, 63
# What may stand around an address: quotation marks, and what separates addresses in a list.
_AROUND = TRIMMED + "\"';,\u2018\u2019\u201c\u201d"
_NAMED = re.compile(r"[^<>]*<([^<>]*)>")
_MAILTO = "mailto:"
_NOT_ALLOWED = re.compile(f'[{re.escape(TRIMMED)},;:<>()\\[\\]"\\\\]')


def email(text: str) -> str | None:
    """Return an e-mail address in lower case, without what surrounds it; None if it is none."""
    if len(text) > _LONGEST_TEXT:
        return None
    text = trim(unicodedata.normalize("NFC", text))
    if not text:
        return text
    # Not case folding: it makes ss of ß, which is another address and another domain.
    text = unicodedata.normalize("NFC", _unwrapped(text).lower())
    return text if _is_address(text) else None


def plain(text: str) -> str | None:
    """Return an e-mail address without what its provider ignores."""
    address = email(text)
    if not address:
        return address
    local, _, domain = address.partition("@")
    if domain in WITH_TAGS:
        local = local.partition("+")[0]
    if domain in GMAIL:
        # A mark that stood behind a dot now stands behind a letter.
        local, domain = unicodedata.normalize("NFC", local.replace(".", "")), GMAIL[0]
    address = f"{local}@{domain}"
    return address if _is_address(address) else None


def _unwrapped(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = text.strip(_AROUND)
        if found := _NAMED.fullmatch(text):
            text = found[1]
        if text[: len(_MAILTO)].lower() == _MAILTO:
            text = text[len(_MAILTO) :].partition("?")[0]
    return text


def _is_address(text: str) -> bool:
    local, at, domain = text.partition("@")
    labels = domain.split(".")
    return (
        bool(local and at)
        and len(text.encode()) <= _LONGEST
        and len(local.encode()) <= _LONGEST_LOCAL
        and _NOT_ALLOWED.search(text) is None
        and all(local.split("."))
        and len(labels) > 1
        and all(map(_is_label, labels))
    )


def _is_label(label: str) -> bool:
    return (
        0 < len(label) <= _LONGEST_LABEL
        and label[0] != "-" != label[-1]
        and all(each == "-" or unicodedata.category(each)[0] in "LMN" for each in label)
    )
