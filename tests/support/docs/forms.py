"""The tables of docs/key-forms.md: what each form makes of the texts of the probe."""

from __future__ import annotations

import json

from psicli.items.forms.domains import WITH_TAGS
from psicli.items.forms.names import BASES, Form, parse_form
from psicli.items.forms.probe import TEXTS, probe
from psicli.items.forms.rules.bases import rule
from psicli.items.forms.rules.text import TRIMMED_RANGES

# The forms whose results the tables show, for each topic of the texts.
_SHOWN = {
    "text": ("trim", "nfc", "lower"),
    "numbers": ("digits", "integer"),
    "emails": ("email", "email/plain"),
    "phones": ("phone", "phone/DE", "phone/US"),
    "times": ("date", "date/DMY", "date/MDY", "timestamp"),
    "codes": ("uuid", "hashed"),
}
_TITLES = {
    "text": "Text", "numbers": "Numbers", "emails": "E-mail addresses", "phones": "Phone numbers",
    "times": "Dates and times", "codes": "Identifiers and hashes",
}  # fmt: skip
_HASHED = (
    ("text/sha256", " Ben@X.de "), ("email/sha256", " Ben@X.de "), ("email/plain/sha256", "B.en+a@googlemail.com"),
    ("phone/DE/sha256", "0170 1234567"), ("date/DMY/sha256", "01.03.2024"), ("email/sha256", " "),
    ("email/sha256", "ben"),
)  # fmt: skip


def trimmed() -> str:
    """Return the characters that forms trim."""
    ranges = [f"U+{first:04X}" if first == last else f"U+{first:04X} to U+{last:04X}" for first, last in TRIMMED_RANGES]
    return f"{', '.join(ranges)}."


def providers() -> str:
    """Return the domains whose addresses email/plain shortens."""
    return f"{', '.join(f'`{domain}`' for domain in WITH_TAGS)}."


def vectors() -> str:
    """Return a table of texts and results for each topic, in the order of the probe."""
    assert list(_SHOWN) == list(TEXTS)
    return "\n\n".join(f"### {_TITLES[topic]}\n\n{_vectors(topic, names)}" for topic, names in _SHOWN.items())


def _vectors(topic: str, names: tuple[str, ...]) -> str:
    rules = [rule(Form(sha256=True, hashed=True) if name == "hashed" else parse_form(name)) for name in names]
    rows = [[_cell(text), *(_cell(convert(text)) for convert in rules)] for text in TEXTS[topic]]
    return _table(["text", *(f"`{name}`" for name in names)], rows)


def hashes() -> str:
    """Return a table of hashes."""
    rows = [[f"`{name}`", _cell(text), _cell(rule(parse_form(name))(text))] for name, text in _HASHED]
    return _table(["form", "text", "result"], rows)


def probes() -> str:
    """Return a table of the probes of single forms, and of two key columns."""
    named = [*((base,) for base in BASES), *((f"{base}/sha256",) for base in ("email", "phone")), ("email", "date")]
    rows = [
        [", ".join(f"`{name}`" for name in names), f"`{probe([*map(parse_form, names)]).hex()}`"] for names in named
    ]
    return _table(["key_form", "probe"], rows)


def _cell(value: str | None) -> str:
    """Return a text as JSON has it."""
    assert value is None or not {"|", "`"} & set(value), "Markdown needs other marks"
    return f"`{json.dumps(value)}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
