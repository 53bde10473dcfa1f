"""Says why keys may not match although people would call them the same: what to compare with the other party."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from psicli.core.errors import shown
from psicli.items import kinds
from psicli.items.forms.names import Form
from psicli.items.spelling.column import Column

# What a column holds, and what to do about it, the most likely cause first. Looks are those of `patterns`.
CAUSES = {
    "hexadecimal hashes": "ask what they are hashes of, and how the values were written before they were hashed. If "
    "the other party can hash its values in the same way, agree on a form such as key_form: [email/sha256], with "
    "normalize: hashed for the party that has only hashes",
    "e-mail addresses": "agree on key_form: [email], which ignores case and spaces",
    "phone numbers": "agree on key_form: [phone], with your own region in normalize, such as phone/DE",
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
