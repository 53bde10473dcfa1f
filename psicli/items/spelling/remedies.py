"""Says what to do about keys that may not match: which form mends them, and what else would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import shown
from psicli.items import kinds
from psicli.items.forms.names import Form
from psicli.items.spelling.column import Column
from psicli.items.spelling.patterns import FORMS_OF_LOOKS

# What to say about a form besides its name.
_WITH = {
    "phone": ", and name your own region under keys, as in [{column: NAME, normalize: phone/DE}]",
    "date": ", and say under keys if the year comes last, as in [{column: NAME, normalize: date/DMY}]",
}
_TYPED = tuple(FORMS_OF_LOOKS.values())


class Kind(NamedTuple):
    """A kind of key that is worth a word.

    fault: what a number of rows "have". export: what to do without a form. form: the one that mends the key in any
    column, if there is one. also: the forms that mend it in the columns that need them.
    """

    fault: str
    export: str
    form: str = ""
    also: tuple[str, ...] = ()

    def advice(self, needed: str = "") -> str:
        """Return what to do; needed: the form that the column needs for most of its keys, so that one form is named."""
        form = needed if needed in self.also else self.form
        if not form:
            return f"{self.export[0].upper()}{self.export[1:]}."
        return f"Agree with the other party on {agree_on(form)}{f', or {self.export}' if self.export else ''}."


def agree_on(form: str) -> str:
    """Return a form as the job file has it, and what belongs to it."""
    return f"key_form: [{form}]{_WITH.get(form, '')}"


# In the order of the warnings.
KINDS = {
    "blank": Kind("a key of nothing but spaces", "leave such keys empty: an empty key matches nothing", "trim", _TYPED),
    "spaces": Kind(
        "spaces around the key, which count when keys are compared", "trim the keys in the export", "trim", _TYPED
    ),
    "invisible": Kind(
        "an invisible character in the key",
        "remove byte order marks (U+FEFF), zero-width spaces (U+200B) and no-break spaces (U+00A0) in the export; the "
        "form removes them only around a key",
        "trim",
        _TYPED,
    ),
    "accents": Kind(
        "accents as separate characters", "bring the keys to the Unicode form NFC in the export", "nfc", ("email",)
    ),
    "quotes": Kind(
        "quotation marks as part of the key",
        'remove them in the export, also an apostrophe and ="…", which spreadsheets need',
        also=("email", "phone"),
    ),
    "header": Kind("the name of the column as the key", "remove header lines below the first; were files joined?"),
    "placeholder": Kind(
        "a placeholder as the key ({words}), which matches the same text of the other party",
        "export real nulls, or list it under csv.null_values if the file is CSV or TSV",
        also=_TYPED,
    ),
    "hashed placeholder": Kind(
        "the hash of an empty value or a placeholder, which matches the same hash of the other party",
        "hash only rows that have a value; of such hashes, normalize: hashed takes that of the empty text for null",
    ),
    "point zero": Kind(
        "a whole number with .0 at the end, which does not match one without",
        "make the column an integer before the export (in pandas: Int64)",
        "integer",
        ("phone",),
    ),
    "padded": Kind(
        "a number with leading zeros, and there are shorter numbers without; 007 does not match 7",
        "write all numbers with the same number of digits",
        "integer",
    ),
    "exponent": Kind("a number in scientific form, such as 1.2E+11", "export all digits; the file may have lost some"),
    "separators": Kind("a number with separators, such as 1,234 or 517,5", "write digits, and a point for fractions"),
    "phone": Kind("a phone number that is not in the form E.164, such as +491711234567", "", "phone"),
    "time": Kind(
        "a time that is not in the form which psicli gives to timestamps",
        "write 2024-03-01T06:00:00, or 2024-03-01T06:00:00Z in UTC if the timestamps have a time zone",
        "timestamp",
        ("date",),
    ),
    "date": Kind(
        "a date that is not in the form which psicli gives to dates", "write 2024-03-01", "date", ("timestamp",)
    ),
    "midnight": Kind(
        "a time at midnight, which does not match a date",
        "give the column the type date if it holds dates, or write 2024-03-01",
        "timestamp",
    ),
    "wrapped e-mail": Kind(
        "an e-mail address inside other text, such as mailto: or a name", "export the address alone", "email"
    ),
    "e-mail": Kind("an e-mail address with capital letters", "write lower case in the export", "email"),
    "e-mail variant": Kind(
        "an e-mail address with dots or a +tag that its provider ignores",
        "agree on key_form: [email/plain] if both parties want to match all spellings of such an address",
    ),
    "hexadecimal": Kind(
        "capital letters in a UUID or a hash, and other rows have small letters",
        "write lower case in the export",
        "lower",
        ("uuid",),
    ),
    "uuid": Kind(
        "a UUID in braces, as a URN or without hyphens, and other rows have plain ones",
        "write all UUIDs in one way",
        "uuid",
    ),
}
# What is ordinary, but worth knowing when keys are agreed on; the other kinds are warnings.
NOTES = {"e-mail variant"}
# Keys that differ from another one only in case.
CASE = Kind("differ from another one only in case", "", "lower", ("email", "uuid"))

# What a column holds, and what to do about it, the most likely cause first. Looks are those of `patterns`.
CAUSES = {
    "hexadecimal hashes": "ask what they are hashes of, and how the values were written before they were hashed. If "
    "the other party can hash its values in the same way, agree on a form such as key_form: [email/sha256], with "
    "normalize: hashed for the party that has only hashes. If they are UUIDs without hyphens, agree on "
    "key_form: [uuid]",
    "e-mail addresses": "agree on key_form: [email], which ignores case and spaces, or on [email/sha256] if the "
    "other party has only hashes",
    "phone numbers": f"agree on {agree_on('phone')}",
    "whole numbers": "agree on key_form: [integer], because 517 matches neither 0517 nor 517.0",
    "numbers with .0 at the end": "agree on key_form: [integer], because 517.0 does not match 517",
    "dates": "agree on key_form: [date], because a date matches no time, and no date in another order",
    "times": "agree on key_form: [timestamp], because times are compared as text",
    "UUIDs": "agree on key_form: [uuid], which ignores case, braces and hyphens",
    "text in capitals": "agree on key_form: [lower], because capital letters match no small ones",
}
# The looks of columns that are not text.
_TYPES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (kinds.is_uuid, "UUIDs"),
    (pa.types.is_integer, "whole numbers"),
    (pa.types.is_date, "dates"),
    (pa.types.is_timestamp, "times"),
)
_HASHES = "ask whether its hashes have a salt, and how the values were written before they were hashed"


def cause_of(name: str, column: Column, kind: Any, form: Form) -> tuple[int, str] | None:
    """Return the most likely cause in a key column, after a number that is lower if it is more likely.

    kind: the type of the column in the file. Nothing in it depends on the other party.
    """
    looks = [*CAUSES]
    if form.hashed:
        return 0, f"{shown(name)} holds hashes: {_HASHES}"
    look = column.look() or next((look for test, look in _TYPES if test(kinds.value_type(kind))), "")
    if not form.is_text or look not in CAUSES:
        return None
    return looks.index(look), f"{shown(name)} holds {look}: {CAUSES[look]}"
