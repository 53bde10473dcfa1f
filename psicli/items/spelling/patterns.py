"""The forms of keys that are worth a word, as regular expressions of RE2, and as words."""

from __future__ import annotations

import hashlib
import re

from psicli.items.forms.domains import GMAIL, WITH_TAGS

# What tools write where there is no value. These words are psicli's, so a message may contain them.
PLACEHOLDERS = (
    "NULL", "null", "Null", "(null)", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "None", "none",
    "NONE", "nil", "undefined", "\\N", "-", "--", "?", '""', "''",
)  # fmt: skip

# The hashes of nothing, of a space and of placeholders, as hashing tools spell them.
_DIGESTS = [
    hashlib.new(name, word.encode(), usedforsecurity=False).hexdigest()
    for name in ("md5", "sha1", "sha256")
    for word in ("", " ", *PLACEHOLDERS)
]
HASHED_PLACEHOLDERS = (*_DIGESTS, *map(str.upper, _DIGESTS))
HASHED_LENGTHS = sorted({len(each) for each in _DIGESTS})

SPACE, NOT_SPACE = r"[\s\p{Z}]", r"[^\s\p{Z}]"
# Direction marks, soft hyphens and the like, but not the joiners that Persian, Hindi and emoji need.
INVISIBLE = r"[\x{AD}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2069}\x{FEFF}]"
NO_BREAK_SPACE = r"[\x{A0}\x{2007}\x{202F}]"
_DAY, _MONTH, _YEAR = "(0?[1-9]|[12][0-9]|3[01])", "(0?[1-9]|1[0-2])", "(19|20)[0-9]{2}"
_NAMED_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATES = "|".join(
    [
        *(rf"({_DAY}{by}{_MONTH}|{_MONTH}{by}{_DAY}){by}{_YEAR}" for by in (r"\.", "/", "-")),
        rf"({_DAY}/{_MONTH}|{_MONTH}/{_DAY})/[0-9]{{2}}",
        rf"{_YEAR}([./]){_MONTH}[./]{_DAY}",
        rf"{_YEAR}-([1-9]-{_DAY}|{_MONTH}-[1-9])",
        rf"{_DAY}[- .]{_NAMED_MONTH}[- .,]*([0-9]{{2}}){{1,2}}|{_NAMED_MONTH} {_DAY}, ?{_YEAR}",
    ]
)
_CLOCK = "[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?"
_ZONE = "( ?(z|utc|gmt|[+-][0-9]{2}(:?[0-9]{2})?))?"
DATE = f"(?i)^({_DATES})$"
TIME = rf"(?i)^([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[t ]{_CLOCK}{_ZONE}|({_DATES}),?[t ]+{_CLOCK}.*)$"
ISO_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]*[1-9])?Z?$"
DIGITS = "^[0-9]+$"
EXPONENT = "^[+-]?([0-9]([.,][0-9]+)?[eE][+-][0-9]{2,3}|[0-9][.,][0-9]+[eE]-?[0-9]{1,3})$"
SEPARATORS = (
    r"^[+-]?([0-9]{1,3}((,[0-9]{3})+(\.[0-9]+)?|('[0-9]{3})+([.,][0-9]+)?|(\.[0-9]{3})+,[0-9]+)|[0-9]+,[0-9]+)$"
)
EMAIL = r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$"
# With an address somewhere.
_ADDRESS = r"^[^@]*[^@\s<>]@[^@\s<>]+\.\p{L}{2,}[^@]*$"
# Within other text, as mail programs copy it.
WRAPPED_EMAIL = (
    r"^(mailto:[^@\s]+@[^@\s]+|.*<[^@\s<>]+@[^@\s<>]+\.[A-Za-z]{2,}>[;,]?|[^@\s]+@[^@\s]+\.[A-Za-z]{2,}[;,])$"
)
# Addresses whose provider ignores dots, or a plus sign and what follows it.
_WITH_DOTS, _WITH_TAGS = ("|".join(map(re.escape, domains)) for domains in (GMAIL, WITH_TAGS))
EMAIL_VARIANT = rf"^([^@+]*\.[^@]*@({_WITH_DOTS})|[^@+]+\+[^@]*@({_WITH_TAGS}))$"
# Phone numbers have 7 to 15 digits.
E164 = r"^\+[1-9][0-9]{6,14}$"
_BETWEEN = r"[ ()./\x{A0}\x{2010}-\x{2013}-]{0,3}"
_DIGITS_OF_PHONE = rf"([0-9]{_BETWEEN}){{6,14}}[0-9]$"
PHONE = rf"^\(?{_DIGITS_OF_PHONE}"
SPACED_PHONE = rf"^\+ ?\(?{_DIGITS_OF_PHONE}"
SIGNED_NUMBER = r"^\+[0-9]+(\.[0-9]+)?$"
# An area code in parentheses shows that a number is a phone number.
AREA_CODE = r"\((0[0-9]{1,5}|[2-9][0-9]{2})\)"
# With 0 before the area code, or 00 before the country code.
DIALLED_PHONE = rf"^0?0[1-9]{_BETWEEN}([0-9]{_BETWEEN}){{5,13}}[0-9]$"
# The names of columns that hold phone numbers, in a few languages.
PHONE_NAME = (
    r"(?i)^(.*[^a-z])?(tele?(ph|f)oon|tele(ph|f)one?o?|(mobile|cell|home|work)?phone|mobile?|cell|handy|gsm|fax|tel"
    r"|msisdn)[^a-z]*(number|nummer|numero|num|no|nr)?[^a-z]*$"
)
_UUID = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_HASH = "([0-9A-Fa-f]{8}){4,5}|[0-9A-Fa-f]{56}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{96}|[0-9A-Fa-f]{128}"
HEXADECIMAL = rf"^({_UUID}|{_HASH})$"
HEX_LENGTHS = (32, 36, 40, 56, 64, 96, 128)
UUID, UUID_LENGTH = f"^{_UUID}$", 36
# Without hyphens; in braces, or as a URN.
BARE_UUID_LENGTH = 32
OTHER_UUID = rf"^(\{{{_UUID}\}}|(?i:urn:uuid:){_UUID})$"
OTHER_UUID_LENGTHS = (38, 45)

# What a column holds, if nearly all of its keys match one pattern.
PHONES = "phone numbers"
LOOKS = {
    PHONES: rf"{E164}|{SPACED_PHONE}|^(\+?[0-9]{{1,4}}[ .-]?)?{AREA_CODE}[0-9 ./-]{{5,}}$",
    "whole numbers": "^[+-]?[0-9]+$",
    "numbers with .0 at the end": r"^[+-]?[0-9]+\.0+$",
    "numbers with a fraction": r"^[+-]?[0-9]*\.[0-9]+$",
    "dates": rf"(?i)^([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|{_DATES})$",
    "times": TIME,
    "e-mail addresses": _ADDRESS,
    "UUIDs": rf"^(\{{?{_UUID}\}}?|(?i:urn:uuid:){_UUID})$",
    "hexadecimal hashes": f"^({_HASH})$",
    "text in capitals": r"^[^\p{Ll}]*\p{Lu}[^\p{Ll}]*$",
}
# The form that the keys of a column need, by what most of them are.
FORMS_OF_LOOKS = {
    PHONES: "phone",
    "e-mail addresses": "email",
    "UUIDs": "uuid",
    "dates": "date",
    "times": "timestamp",
}
