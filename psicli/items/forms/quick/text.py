"""The quick way for all forms but those of times."""

from __future__ import annotations

from functools import partial
from typing import Any

from psicli.items import compute as pc
from psicli.items.forms.domains import GMAIL, WITH_TAGS
from psicli.items.forms.quick.values import changed, matching, only, without
from psicli.items.forms.rules.codes import HASH_OF_NOTHING
from psicli.items.text import joined

# A local part of ASCII characters, which does not begin with a quotation mark, and a domain.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_EMAIL = rf"^{_ATOM.replace(chr(39), '')}{_ATOM}*(?:\.{_ATOM}+)*@(?:{_LABEL}\.)+{_LABEL}$"
# No part of so short an address can be too long [bytes].
_SHORT = 64
_TAGGED = rf"^[^@]*\+[^@]*@(?:{'|'.join(WITH_TAGS).replace('.', chr(92) + '.')})$"

_UUID = "^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_BARE_UUID = "^([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})$"

_EXPONENT = r"^[+-]?[0-9]+(?:[.,][0-9]+[eE][+-]?|[eE][+-])[0-9]+$"


def unchanged(texts: Any) -> Any:
    return texts


def email(texts: Any) -> Any:
    texts = pc.ascii_lower(texts)
    return only(texts, pc.and_(matching(texts, _EMAIL), pc.less_equal(pc.binary_length(texts), _SHORT)))


def plain(texts: Any) -> Any:
    texts = email(texts)
    texts = only(texts, pc.invert(pc.starts_with(texts, pattern="+")))
    texts = changed(texts, pc.match_substring(texts, pattern="+"), _without_tags)
    for domain in GMAIL:
        texts = changed(texts, pc.ends_with(texts, pattern=f"@{domain}"), partial(_gmail, len(domain) + 1))
    # A dot before the tag.
    return only(texts, pc.invert(pc.match_substring(texts, pattern=".@")))


def _without_tags(texts: Any) -> Any:
    return changed(texts, matching(texts, _TAGGED), without(r"\+[^@]*"))


def _gmail(length: int, texts: Any) -> Any:
    """Return addresses of Gmail without dots; length: that of the domain with its @."""
    local = pc.utf8_slice_codeunits(texts, start=0, stop=-length)
    return joined(pc.replace_substring(local, pattern=".", replacement=""), f"@{GMAIL[0]}")


def integer(texts: Any) -> Any:
    """Return whole numbers; those below zero only if they are written as the form writes them."""
    whole = matching(texts, r"^\+?[0-9]+(?:\.0*)?$")
    texts = only(texts, pc.or_(whole, matching(texts, "^-[1-9][0-9]*$")))
    texts = changed(texts, pc.match_substring(texts, pattern="."), without(r"\..*"))
    return changed(texts, matching(texts, "^[+0]"), _without_zeros)


def _without_zeros(texts: Any) -> Any:
    texts = pc.ascii_ltrim(texts, characters="+0")
    return pc.if_else(pc.equal(texts, ""), "0", texts)


def digits(texts: Any) -> Any:
    others = pc.invert(matching(texts, "^[0-9]+$"))
    if not others.true_count:
        return texts
    texts = only(texts, pc.invert(matching(texts, _EXPONENT)))
    texts = changed(texts, others, _digits_alone)
    return only(texts, pc.not_equal(texts, ""))


def _digits_alone(texts: Any) -> Any:
    texts = changed(texts, matching(texts, r"^[+-]?[0-9]+\.00?$"), without(r"\.00?$"))
    return without("[^0-9]+")(texts)


def uuid(texts: Any) -> Any:
    texts = pc.ascii_lower(texts)
    texts = changed(texts, matching(texts, r"^\{.+\}$"), _without_braces)
    texts = changed(texts, matching(texts, _BARE_UUID), _with_hyphens)
    return only(texts, matching(texts, _UUID))


def _with_hyphens(texts: Any) -> Any:
    return pc.replace_substring_regex(texts, pattern=_BARE_UUID, replacement=r"\1-\2-\3-\4-\5")


def _without_braces(texts: Any) -> Any:
    return pc.utf8_slice_codeunits(texts, start=1, stop=-1)


def hashed(texts: Any) -> Any:
    texts = pc.ascii_lower(texts)
    return only(texts, pc.and_(matching(texts, "^[0-9a-f]{64}$"), pc.not_equal(texts, HASH_OF_NOTHING)))
