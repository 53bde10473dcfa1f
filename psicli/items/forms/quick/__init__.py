"""Gives the texts of a column their form many at a time, where the values are what most columns hold.

A function takes a pa.LargeStringArray of ASCII texts without what is trimmed, and returns one as long. Where it has
null, the rule decides: it is slower, and defines the form. Elsewhere both give the same.

    values     choosing and replacing some of the values of a column
    text       all forms but those of times
    times      date, timestamp
    hashes     /sha256
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from psicli.items import compute as pc
from psicli.items.forms.names import Form
from psicli.items.forms.quick import text, times
from psicli.items.forms.rules.text import TRIMMED

_ASCII_TRIMMED = "".join(filter(str.isascii, TRIMMED))

_QUICK: dict[str, Callable[[Any], Any]] = {
    "trim": text.unchanged,
    "nfc": text.unchanged,
    "lower": pc.ascii_lower,
    "digits": text.digits,
    "integer": text.integer,
    "email": text.email,
    "email/plain": text.plain,
    "date": times.date,
    "timestamp": times.timestamp,
    "uuid": text.uuid,
}


def quick(form: Form, texts: Any) -> Any:
    """Return the texts in a form without its /sha256; null for all that the rule has to decide."""
    convert = text.hashed if form.hashed else _QUICK.get(form.base)
    if convert is None:
        return pa.nulls(len(texts), texts.type)
    ascii_only = pc.string_is_ascii(texts)
    if not pc.all(ascii_only).as_py():
        texts = pc.if_else(ascii_only, texts, None)
    return convert(pc.ascii_trim(texts, characters=_ASCII_TRIMMED))
