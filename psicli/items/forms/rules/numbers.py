"""The forms of numbers: digits, integer."""

from __future__ import annotations

import re
import unicodedata

from psicli.items.forms.rules.text import trim

_INTEGER = re.compile(r"([+-]?)([0-9]+)(?:\.0*)?")
# A number that a spreadsheet wrote with few digits: the others are lost. 12E4 may be a code.
_EXPONENT = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+[eE][+-]?|[eE][+-])[0-9]+")
# A whole number that a tool holds as a floating-point number.
_POINT_ZERO = re.compile(r"([+-]?[0-9]+)\.00?")
_NO_DIGITS = re.compile(r"[^0-9]+")


def integer(text: str) -> str | None:
    """Return a whole number without leading zeros, a plus or a fraction of zeros."""
    text = ascii_digits(trim(text))
    if not text:
        return text
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    # Not in the pattern, where zeros that could belong to either part take very long.
    digits = found[2].lstrip("0") or "0"
    return f"-{digits}" if found[1] == "-" and digits != "0" else digits


def digits(text: str) -> str | None:
    """Return the digits of a text."""
    text = ascii_digits(trim(text))
    plain = without_point_zero(text)
    return plain and (_NO_DIGITS.sub("", plain) or None)


def without_point_zero(text: str) -> str | None:
    """Return a text without the .0 or .00 that tools give to whole numbers; None for a number with an exponent."""
    if found := _POINT_ZERO.fullmatch(text):
        return found[1]
    return None if _EXPONENT.fullmatch(text) else text


def ascii_digits(text: str) -> str:
    """Return a text with the decimal digits of all scripts (category Nd) as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(each)) if each.isdecimal() else each for each in text)
