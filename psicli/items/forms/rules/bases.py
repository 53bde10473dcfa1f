"""Finds the function that defines a form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from psicli.items.forms.names import Form
from psicli.items.forms.rules import codes, emails, numbers, phones, text, times

Rule = Callable[[str], str | None]

_RULES: dict[str, Rule] = {
    "text": lambda value: value,
    "trim": text.trim,
    "nfc": text.nfc,
    "lower": text.lower,
    "digits": numbers.digits,
    "integer": numbers.integer,
    "email": emails.email,
    "email/plain": emails.plain,
    "timestamp": times.timestamp,
    "uuid": codes.uuid,
}


def rule(form: Form) -> Rule:
    """Return the function that defines a form.

    It returns None for a text that the form cannot take, and "" for one with nothing but what is trimmed.
    """
    return partial(codes.sha256_of, base_rule(form)) if form.sha256 and not form.hashed else base_rule(form)


def base_rule(form: Form) -> Rule:
    """Return the function that defines a form without its /sha256."""
    if form.hashed:
        return codes.hashed
    if form.base == "phone":
        return partial(phones.phone, form.option)
    if form.base == "date":
        return partial(times.date, form.option)
    return _RULES[form.base]
