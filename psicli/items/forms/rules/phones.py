"""The form of phone numbers. The library phonenumbers is loaded when the first number needs it."""

from __future__ import annotations

import re

from psicli.items.forms.rules.numbers import ascii_digits, without_point_zero
from psicli.items.forms.rules.text import trim

# The digits 00 that many countries dial for +.
_ZERO_ZERO = re.compile(r"[^0-9+A-Za-z]*00")


def region_exists(region: str) -> bool:
    """Return whether the library knows the numbers of a region, such as DE."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS


def library_version() -> str:
    """Return the version of the library, which has the plans of all countries."""
    import phonenumbers

    return str(phonenumbers.__version__)


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
    found = _possible(number, region or None)
    if found is None and (zeros := _ZERO_ZERO.match(number)):
        found = _possible("+" + number[zeros.end() :], None)
    return found


def _possible(text: str, region: str | None) -> str | None:
    from phonenumbers import NumberParseException, ValidationResult, parse
    from phonenumbers.phonenumberutil import is_possible_number_with_reason, national_significant_number

    try:
        number = parse(text, region)
    except NumberParseException:
        return None
    # Not whether it is valid: that changes with each version of the library, and two versions would match less.
    if is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    national = national_significant_number(number)
    # 0000000000 stands for no number.
    if len(set(national)) == 1:
        return None
    return f"+{number.country_code}{national}"
