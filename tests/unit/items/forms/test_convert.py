"""Tests of columns: many values at once become what the rules make of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli.items.forms.convert import Converter
from psicli.items.forms.names import Form, parse_form
from psicli.items.forms.probe import TEXTS
from psicli.items.forms.quick import quick
from psicli.items.forms.rules.bases import rule

TEXT = pa.large_string()
NAMES = [
    "text", "trim", "nfc", "lower", "digits", "integer", "email", "email/plain", "date", "date/DMY", "date/MDY",
    "timestamp", "uuid", "text/sha256", "email/sha256", "email/plain/sha256",
]  # fmt: skip
FORMS = [*map(parse_form, NAMES), Form("email", sha256=True, hashed=True)]

# Values that the quick way takes, and pieces that spoil them.
GOOD = [
    ["ben", "@", "x", ".", "de"], ["Be.n", "+", "a", "@", "gmail.com"], ["-", "007", ".", "0"], ["DE-", "12", "E", "4"],
    ["2024", "-", "02", "-", "29", "T", "23", ":", "59", ":", "59", ".", "500", "Z"], ["01", ".", "03", ".", "2024"],
    ["123e4567", "-", "e89b", "-", "12d3", "-", "a456", "-", "426614174000"], ["0" * 32, "F" * 32],
]  # fmt: skip
PIECES = [
    *"\"'<>;:,.@+-/\\{}()[]!#$%^&*?=_`|~ \t\n\x00\x7f019aAzZ", "\xdf", "\u0301", "\u0130", "\u200b", "\u0663", "00",
    ".0", "E+1", "mailto:", "urn:uuid:", "UTC", "+00:00", " +01", "T", "..", "googlemail.com", "outlook.com", "a" * 64,
]  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """Draw a value that is nearly or just right for a form."""
    pieces = list(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(pieces)))
        pieces[at : at + draw(st.integers(0, 1))] = [draw(st.sampled_from(PIECES))]
    return "".join(pieces)


VALUES = st.lists(
    st.one_of(spoilt(), st.none(), st.text(max_size=5), st.sampled_from([*chain.from_iterable(TEXTS.values())]))
)


def expected(form: Form, values: list[str | None]) -> list[str | None]:
    convert = rule(form)
    return [value if value is None else convert(value) for value in values]


def converted(form: Form, texts: Any) -> Any:
    """Return a converted column, after checking that it is well formed and as long as the texts."""
    with Converter([Form(), form]) as converter:
        made = converter.convert(1, texts)
    made.validate(full=True)
    assert made.type == TEXT
    assert len(made) == len(texts)
    return made


@settings(max_examples=40)
@given(values=VALUES, before=st.integers(0, 9), after=st.integers(0, 9))
def test_a_column_becomes_what_the_rules_make_of_each_value(values: list[str | None], before: int, after: int) -> None:
    texts = pa.array(["x" * 7] * before + values + [None, "y"] * after, TEXT)[before : before + len(values)]
    for form in FORMS:
        made = converted(form, texts)
        assert made.to_pylist() == expected(form, values), str(form)
        if not form.sha256 or form.hashed:
            assert converted(form, made).to_pylist() == made.to_pylist()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_texts_of_the_probe_become_what_the_rules_make_of_them(form: Form) -> None:
    values: list[str | None] = [*chain.from_iterable(TEXTS.values())]
    assert converted(form, pa.array(values, TEXT)).to_pylist() == expected(form, values)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "values", [[], [None], ["", None, " "], [None] * 9, ["ben@x.de"] * 3, ["\ufeff"], list(TEXTS["emails"])], ids=len
)
def test_columns_of_nothing_or_one_kind(form: Form, values: list[str | None]) -> None:
    assert converted(form, pa.array(values, TEXT)).to_pylist() == expected(form, values)
    assert converted(form, pa.array(["a", *values, "b"], TEXT)[1:-1]).to_pylist() == expected(form, values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("email", ["Ben@X.de", " ben.a+b@mail.x-y.co.uk\t", "O'Neil@x.ie"]),
        ("email/plain", ["b.e.n+a@gmail.com", "BEN@googlemail.com", "ben+a@outlook.com", "ben+a@x.de"]),
        ("integer", ["7", "007", "+7.0", "-7", "7.", "0.00", "000"]),
        ("digits", ["DE-007/12", "517.0", "12.000", "12E4", "+49 (170)"]),
        ("timestamp", ["2024-02-29 23:59:59", "2024-03-01T06:00:00.500Z", "2024-03-01 06:00:00+00:00"]),
        ("date", ["2024-02-29", "2024-03-01 06:00:00", "2024-03-01T06:00:00Z"]),
        ("uuid", ["123E4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000"]),
        ("lower", ["STRASSE", " a "]),
    ],
)
def test_common_values_take_the_quick_way(name: str, values: list[str]) -> None:
    form = parse_form(name)
    assert quick(form, pa.array(values, TEXT)).to_pylist() == expected(form, list(values))


def test_several_columns_have_their_own_forms() -> None:
    with Converter([Form(), parse_form("integer"), parse_form("phone/DE"), parse_form("phone/US/sha256")]) as converter:
        texts = pa.array([" 007", "0170 1234567"], TEXT)
        made = [converter.convert(column, texts).to_pylist() for column in range(4)]
    assert made[:3] == [[" 007", "0170 1234567"], ["7", None], [None, "+491701234567"]]
    assert made[3] == expected(parse_form("phone/US/sha256"), [" 007", "0170 1234567"])


@pytest.mark.more
@pytest.mark.parametrize("name", ["email", "email/plain", "email/sha256"])
def test_a_column_of_addresses_takes_a_fraction_of_the_time_of_its_values(name: str) -> None:
    """A million take 0.2 to 1.2 s on a quiet core, and one by one 6 to 12 s."""
    domains = ["gmail.com", "Example.org", "mail.example.co.uk", "web.de", "outlook.com"]
    addresses = [f"{('Anna', 'ben.c', 'd.e+news')[n % 3]}{n}@{domains[n % 5]}" for n in range(200_000)]
    form, texts, few = parse_form(name), pa.array(addresses, TEXT), addresses[:20_000]
    column, each = (
        min(_seconds(act) for _ in range(3)) for act in (lambda: converted(form, texts), lambda: expected(form, few))
    )
    assert column / len(addresses) < each / len(few) / 3


def _seconds(act: Callable[[], object]) -> float:
    """Return what the process computes, and not how long it waits for a core [s]."""
    started = time.process_time()
    act()
    return time.process_time() - started
