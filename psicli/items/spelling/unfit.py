"""Warns of values that the form of a key column cannot take."""

from __future__ import annotations

from collections.abc import Iterator

from psicli.core.errors import counted, shown
from psicli.items.forms.columns import KeyColumns
from psicli.items.spelling.findings import Finding

# What the values are that a form takes, and what else to do about others.
_TAKEN = {
    "digits": ("text with digits", ""),
    "integer": ("a whole number", ""),
    "email": ("an e-mail address", ""),
    "email/plain": ("an e-mail address", ""),
    "phone": (
        "an international phone number",
        "name the country of national numbers under keys, as in [{{column: {name}, normalize: phone/DE}}]",
    ),
    "phone/": ("a possible phone number", ""),
    "date": (
        "a date",
        "name the order of day and month under keys, as in [{{column: {name}, normalize: date/DMY}}]",
    ),
    "date/": ("a date", ""),
    "timestamp": ("a time", ""),
    "uuid": ("a UUID", ""),
    "hashed": ("the SHA-256 of a value in hexadecimal digits", ""),
}


def unfit_findings(columns: KeyColumns, rows: int, unit: str, *, whole: bool = True) -> Iterator[Finding]:
    """Yield a warning for each column with values that its form cannot take.

    rows: how many were read; whole: whether these are all rows. unit: what the places count, `line` or `row`.
    """
    for name, form, unfit in zip(columns.names, columns.forms, columns.unfit, strict=True):
        if unfit.count:
            kind, advice = _TAKEN[str(form) if form.hashed else form.base + "/" * bool(form.option)]
            have = f"{unfit.count:,} of {'' if whole else 'the first '}{counted(rows, 'row')}"
            have += f" {'has' if unfit.count == 1 else 'have'} a value that is not {kind} (form {form})"
            first = "first in" if unfit.count > len(unfit.numbers) else "in"
            units = f"{unit}{'s' if len(unfit.numbers) > 1 else ''} {', '.join(map(str, unfit.numbers))}"
            fault = f"{shown(name)}: {have}, {first} {units}; such a row matches nothing"
            yield Finding(fault, f"Correct the values{', or ' + advice.format(name=shown(name)) if advice else ''}.")
