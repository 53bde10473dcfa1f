"""The forms of keys that are worth a word, as regular expressions of RE2, and as words."""

from __future__ import annotations

# What tools write where there is no value. These words are psicli's, so a message may contain them.
PLACEHOLDERS = (
    "NULL", "null", "Null", "(null)", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "None", "none",
    "NONE", "nil", "undefined", "\\N", "-", "--", "?", '""', "''",
)  # fmt: skip

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
_UUID = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_HASH = "([0-9A-Fa-f]{8}){4,5}|[0-9A-Fa-f]{56}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{96}|[0-9A-Fa-f]{128}"
# Also in braces, as some systems write UUIDs.
HEXADECIMAL = rf"^(\{{?{_UUID}\}}?|{_HASH})$"
HEX_LENGTHS = (32, 36, 38, 40, 56, 64, 96, 128)

# What a column holds, if nearly all of its keys match one pattern.
LOOKS = (
    ("whole numbers", "^[+-]?[0-9]+$"),
    ("numbers with .0 at the end", r"^[+-]?[0-9]+\.0+$"),
    ("numbers with a fraction", r"^[+-]?[0-9]*\.[0-9]+$"),
    ("dates", rf"(?i)^([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|{_DATES})$"),
    ("times", TIME),
    ("e-mail addresses", EMAIL),
    ("UUIDs", rf"^\{{?{_UUID}\}}?$"),
    ("hexadecimal hashes", f"^({_HASH})$"),
    ("text in capitals", r"^[^\p{Ll}]*\p{Lu}[^\p{Ll}]*$"),
)
