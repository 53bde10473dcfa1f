"""The form of phone numbers. The library phonenumbers is loaded when the first number needs it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from psicli.items.forms.rules.numbers import ascii_digits, without_point_zero
from psicli.items.forms.rules.text import trim

# The digits 00 that many countries dial for +.
_ZERO_ZERO = re.compile(r"[^\w+]*00")
# The first letter behind the first digit.
_REMARK = re.compile(r"([^0-9]*[0-9](?:[\d\W_])*)[^\W\d_]")
_NO_DIGITS = re.compile("[^0-9]+")
# So many digits without 0 or + in front are an international number if they begin with the country code.
_FULL = 12
# No number has so many digits.
_MOST_ROUNDS = 20
_NOTHING = "(?!)"


@cache
def _library() -> Any:
    import phonenumbers

    return phonenumbers


def region_exists(region: str) -> bool:
    """Return whether the library knows the numbers of a region, such as DE."""
    return region in _library().SUPPORTED_REGIONS


def region_of(number: str) -> str:
    """Return the region of an international number, or the largest of those that share its country code.

    It is empty if no region has the code.
    """
    import phonenumbers

    try:
        code = phonenumbers.parse(number).country_code or 0
    except phonenumbers.NumberParseException:
        return ""
    region = phonenumbers.region_code_for_country_code(code)
    return region if region in phonenumbers.SUPPORTED_REGIONS else ""


def library_version() -> str:
    """Return the version of the library, which has the plans of all countries."""
    return str(_library().__version__)


def phone(region: str, text: str) -> str | None:
    """Return a phone number as E.164 has it; None if it is no possible number.

    region: where numbers without a country code belong; without it, only international numbers are taken.
    """
    text = trim(text)
    if not text:
        return text
    number = without_point_zero(ascii_digits(text))
    if number is None:
        return None
    if remark := _REMARK.match(number):
        # Extensions do not count, and the library would dial words.
        number = remark[1]
    if region and _has_country_code(number, region):
        number = "+" + number
    found = _possible(number, region or None)
    if found is None and (zeros := _ZERO_ZERO.match(number)):
        found = _possible("+" + number[zeros.end() :], None)
    return found


def _has_country_code(text: str, region: str) -> bool:
    """Return whether a number without a plus is long enough for its first digits to be the country code.

    The library takes 491701234567 for a number in the town of Leer, whose numbers begin with 491, but have 11 digits.
    """
    if text[0] not in "123456789" or len(digits := _NO_DIGITS.sub("", text)) < _FULL:
        return False
    return digits.startswith(str(_library().country_code_for_region(region)))


def _possible(text: str, region: str | None) -> str | None:
    """Return a possible number that the library finds in a text, as E.164 has it."""
    library = _library()
    for _ in range(_MOST_ROUNDS):
        try:
            number = library.parse(text, region)
        except library.NumberParseException:
            return None
        # Not whether it is valid: that changes with each version of the library, and two versions would match less.
        if library.is_possible_number_with_reason(number) != library.ValidationResult.IS_POSSIBLE:
            return None
        national: str = library.national_significant_number(number)
        # 0000000000 stands for no number.
        if len(set(national)) == 1:
            return None
        before, text, region = text, f"+{number.country_code}{national}", None
        # The library takes one trunk prefix off, such as the first 0 of +49 00301234; the next may be there.
        if text == before or not _trunk_prefix(number.country_code).match(national):
            return text
    return None


@cache
def _trunk_prefix(country_code: int) -> re.Pattern[str]:
    library = _library()
    region = library.region_code_for_country_code(country_code)
    metadata = library.PhoneMetadata.metadata_for_region_or_calling_code(country_code, region)
    return re.compile((metadata and metadata.national_prefix_for_parsing) or _NOTHING)
