"""Tests of the warnings about keys that look right and may match nothing."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psicli.items.forms.names import Form
from psicli.items.spelling import Spellings
from psicli.items.spelling.patterns import HASHED_PLACEHOLDERS, LOOKS, PLACEHOLDERS
from psicli.items.spelling.remedies import CAUSES, KINDS

STRING, TEXT = pa.string(), pa.large_string()


def spellings(keys: Sequence[str | None], kind: Any = STRING, batch: int = 1000) -> Spellings:
    """Return what is found in one key column whose canonical texts are given."""
    found = Spellings(["id"])
    for start in range(0, len(keys), batch):
        found.add([pa.array(keys[start : start + batch], TEXT)], schema(kind))
    return found


def schema(kind: Any) -> Any:
    return pa.schema([("id", kind)])


def faults(keys: Sequence[str | None], kind: Any = STRING, batch: int = 1000) -> list[str]:
    matchless = sum(not key for key in keys)
    return [each.fault for each in spellings(keys, kind, batch).findings(matchless)]


HASHED = [("sha256", ""), ("md5", "NULL"), ("sha1", "nan"), ("sha256", "N/A")]
ODD: dict[str, tuple[list[str | None], str]] = {
    "spaces": ([" a", "b ", " c ", "d e"], "'id': 3 of 4 rows have spaces around the key"),
    "ideographic space": (["\u3000山田", "東京"], "'id': 1 of 2 rows has spaces around the key"),
    "blank": (["   ", "a", "\u00a0"], "'id': 2 of 3 rows have a key of nothing but spaces"),
    "byte order mark": (["\ufeffa", "b", "c"], "'id': 1 of 3 rows has an invisible character"),
    "zero-width space": (["a\u200bb", "b\u200b"], "'id': all 2 rows have an invisible character"),
    "no-break space": (["1\u00a0234"], "'id': the only row has an invisible character"),
    "decomposed": (["cafe\u0301", "caf\u00e9", "x"], "'id': 1 of 3 rows has accents as separate characters"),
    "quotes": (['"a"', "'b'", "'0012", "O'Brien", "'s-Hertogenbosch"], "'id': 3 of 5 rows have quotation marks"),
    "spreadsheet quotes": (['="0012"', "'0012", "=12"], "'id': 2 of 3 rows have quotation marks"),
    "header": (["a", "id", "b"], "'id': 1 of 3 rows has the name of the column as the key"),
    "placeholder": (["NA", "x", "\\N", "NA"], r"'id': 3 of 4 rows have a placeholder as the key (NA, \N)"),
    "point zero": (["517.0", "533.0", "12"], "'id': 2 of 3 rows have a whole number with .0 at the end"),
    "leading zeros": (["007", "7", "012", "113"], "'id': 2 of 4 rows have a number with leading zeros"),
    "exponent": (["1.23457E+11", "1e+05", "1.5E11", "123"], "'id': 3 of 4 rows have a number in scientific form"),
    "separators": (
        ["1,234", "1'234'567", "1.234,56", "517,5", "12"],
        "'id': 4 of 5 rows have a number with separators",
    ),
    "pandas time": (["2013-01-01 06:00:00+00:00"], "'id': the only row has a time that is not in the form"),
    "other times": (
        ["2013-01-01T06:00", "2013-01-01T06:00:00+00:00", "2013-01-01T06:00:00.500Z", "2013-01-01T06:00:00Z"],
        "'id': 3 of 4 rows have a time that is not in the form",
    ),
    "american time": (["3/1/2024 6:00 PM", "12/31/2024 11:59:59 AM"], "'id': all 2 rows have a time that is not"),
    "german date": (["01.02.2024", "2024-02-01"], "'id': 1 of 2 rows has a date that is not in the form"),
    "american date": (["12/31/2024", "3/1/24", "2024/01/31"], "'id': all 3 rows have a date that is not in the form"),
    "named months": (["1 Mar 2024", "Mar 1, 2024", "01-MAR-24"], "'id': all 3 rows have a date that is not"),
    "unpadded date": (["2024-3-1", "2024-11-2"], "'id': all 2 rows have a date that is not in the form"),
    "midnight": (["2024-03-01T00:00:00", "2024-03-02T00:00:00"], "'id': all 2 rows have a time at midnight"),
    "e-mail": (["Ben@x.org", "ann@x.org"], "'id': 1 of 2 rows has an e-mail address with capital letters"),
    "wrapped e-mail": (
        ["Ben <ben@x.org>", "mailto:ann@x.org", '"Ann" <ann@x.org>;', "eva@x.org,", "eva@x.org", "a<b@c"],
        "'id': 4 of 6 rows have an e-mail address inside other text",
    ),
    "international phone": (["+49 171 1234567", "+49171/1234568", "+491711234567"], "'id': 2 of 3 rows have a phone n"),
    "area codes": (["(0171) 1234567", "(555) 123-4567", "+1 (555) 123-4568"], "'id': all 3 rows have a phone number"),
    "dialled beside E.164": (
        ["+491711234567", "00491711234568", "01711234569", "0171/1234560", "517"],
        "'id': 3 of 5 rows have a phone number that is not in the form E.164",
    ),
    "hashes of placeholders": (
        ["", "x", *(hashlib.new(name, word.encode()).hexdigest() for name, word in HASHED), *["y"] * 9],
        "'id': 4 of 15 rows have the hash of an empty value or a placeholder",
    ),
    "UUIDs with and without hyphens": (
        [f"{uuid.UUID(int=7)}", f"{{{uuid.UUID(int=8)}}}", uuid.UUID(int=9).urn, uuid.UUID(int=10).hex],
        "'id': 3 of 4 rows have a UUID in braces, as a URN or without hyphens",
    ),
    "case": (["Abc", "aBC", "xyz", "XYZ", "Only"], "'id': 4 distinct keys differ from another one only in case"),
    "case beyond ASCII": (["Éva", "éva", "Eva"], "'id': 2 distinct keys differ from another one only in case"),
    "no row": ([], "the input has no rows, so nothing can match"),
    "no key": ([None, "", ""], "all 3 rows have no key, so nothing can match"),
}


@pytest.mark.parametrize(("keys", "fault"), ODD.values(), ids=ODD)
def test_a_warning_names_the_column_the_kind_and_the_number_of_rows(keys: list[str | None], fault: str) -> None:
    (found,) = faults(keys)
    assert found.startswith(fault)
    # However the rows come in batches.
    assert faults(keys, batch=1) == [found]


def test_capitals_in_uuids_and_hashes_are_odd_only_beside_small_letters() -> None:
    small = [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))) for number in range(40)]
    capitals = [each.upper() for each in small[:10]]
    braces = [f"{{{each.upper()}}}" for each in small[:10]]
    assert faults(capitals) == faults(braces) == faults(small) == []
    for keys in (capitals + small[10:], small[10:] + capitals):
        (fault,) = faults(keys, batch=10)
        assert fault.startswith("'id': 10 of 40 rows have capital letters in a UUID or a hash")
    (fault,) = faults(small[10:] + braces, batch=10)
    assert fault.startswith("'id': 10 of 40 rows have a UUID in braces")


QUIET: dict[str, list[str]] = {
    "UUIDs": [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))) for number in range(500)],
    "hashes": [uuid.uuid5(uuid.NAMESPACE_DNS, str(number)).hex for number in range(500)],
    "product codes": [f"{'AaBbXy'[n % 6]}{n:04}-{n * 7 % 1000:03}E{n % 97}" for n in range(500)],
    "part numbers": [f"{n % 100:02}-{n * 37 % 100:02}-{n * 7919 % 10_000:04}" for n in range(500)],
    "e-mails": [f"ann.{n}+news@mail{n % 9}.example.org" for n in range(500)],
    "integers": [str(n * n * 7919) for n in range(500)],
    "post codes": [f"{n * 13:05}" for n in range(500)],
    "wide padded": [f"{n * 13:04}" for n in range(5000)],
    "decimals": [f"{n // 10}.{n % 10}" for n in range(500)],
    "dates": [f"2024-{n % 12 + 1:02}-{n % 28 + 1:02}" for n in range(500)],
    "times": [f"2024-03-{n % 28 + 1:02}T{n % 24:02}:00:00Z" for n in range(500)],
    "fractions of seconds": [f"2024-03-01T06:00:00.{n}5" for n in range(500)],
    "addresses": [f"192.168.{100 + n % 100}.{100 + n % 150}" for n in range(500)],
    "versions": ["1.0", "1.1", "1.12", "2.0", "10.3.1"],
    "phone numbers": [f"+49171{n:07}" for n in range(500)],
    "signed numbers": [f"+{n * 7919}.{n % 100:02}" for n in range(500)],
    "codes with a hyphen": [f"0{n % 9 + 1}{n % 10}-{n:06}" for n in range(500)],
    "codes with zeros": [f"00{n * 1_000_003 + 10**7:010}" for n in range(500)],
    "citations": [f"12(3)45{n}-67{n}" for n in range(500)],
    "bar codes": [f"(01)0{9501101530000 + n}" for n in range(500)],
    "hashes of MD5": [hashlib.md5(str(n).encode()).hexdigest() for n in range(500)],
    "lists": [f"a{n},b{n};" for n in range(500)],
    "handles": [f"@ann{n}.org" for n in range(500)],
    "formulas": [f"={n}" for n in range(500)],
    "names": ["O'Brien", "McDonald", "de la Cruz", "Müller", "Nguyễn", "山田　太郎", "می‌خواهم", "Na", "No", "👩‍🚀"],
    "airports": ["JFK", "NAX", "LGA", "NRT"],
    "timestamps of one column": [str(1_700_000_000 + n) for n in range(500)],
}  # fmt: skip


@pytest.mark.parametrize("keys", QUIET.values(), ids=QUIET)
def test_ordinary_keys_cause_no_warning(keys: list[str]) -> None:
    assert faults(keys) == []


PHONES = [f"{'0' * (n % 3)}171 {n:07}" for n in range(50)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("phone", 50), ("mobile_number", 50), ("Telefon", 50), ("TEL", 50), ("telemetry", 0), ("hotel", 0), ("cells", 0)],
)
def test_digits_are_phone_numbers_if_the_column_is_called_so(name: str, count: int) -> None:
    found = Spellings([name])
    found.add([pa.array(PHONES, TEXT)], pa.schema([(name, STRING)]))
    assert [each.fault.partition(" a phone")[0] for each in found.findings(0)] == (
        [f"'{name}': all {count} rows have"] if count else []
    )


@pytest.mark.parametrize("address", ["b.en@gmail.com", "ben+x@googlemail.com", "ben+news@outlook.com", "ben+a@pm.me"])
def test_spellings_of_an_address_that_its_provider_ignores_are_a_note(address: str) -> None:
    (found,) = spellings([address, "ben@gmail.com", "b.en@x.org", "ben+a@x.org", "b.en@outlook.com"]).findings(0)
    assert found.is_note
    assert found.fault.startswith("'id': 1 of 5 rows has an e-mail address with dots or a +tag")
    assert "email/plain" in found.advice


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("rows", "distinct", "whole", "fault"),
    [
        (10_000, 3, True, "only 3 distinct keys in 10,000 rows"),
        (1000, 10, True, "only 10 distinct keys in 1,000 rows"),
        (2_000_000, 1000, True, "only 1,000 distinct keys in 2,000,000 rows"),
        (100_000, 100, False, "only 100 distinct keys in the first 100,000 rows"),
        # Several rows of each customer, many events of few customers, a small table, and the start of a sorted file.
        (10_000, 101, True, ""),
        (2_000_000, 1001, True, ""),
        (999, 1, True, ""),
        (100_000, 500, False, ""),
    ],
)
def test_few_distinct_keys_are_a_warning(rows: int, distinct: int, whole: bool, fault: str) -> None:
    found = spellings(["DE"] * rows, batch=rows)
    texts = [each.fault for each in found.findings(0, distinct, whole=whole)]
    assert texts == ([fault] if fault else [])
    assert [*found.findings(0, whole=whole)] == []


@pytest.mark.parametrize(("matchless", "fault"), [(10, ""), (11, "11 of 100 rows have no key")])
def test_many_rows_without_a_key_are_a_warning(matchless: int, fault: str) -> None:
    found = spellings([None] * matchless + ["x"] * (100 - matchless))
    assert [each.fault for each in found.findings(matchless)] == ([fault] if fault else [])


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_(), pa.date32(), pa.decimal128(9, 2)], ids=str)
def test_typed_columns_cause_no_warning(kind: Any) -> None:
    assert faults(["007", "7", "NA", " x"], kind) == []


def test_timestamps_that_may_be_dates_cause_a_warning() -> None:
    days = [f"2024-03-0{day}T00:00:00Z" for day in range(1, 9)]
    (fault,) = faults(days, pa.timestamp("us", "UTC"))
    assert fault.startswith("'id': all 8 rows have a time at midnight")
    assert faults([*days, "2024-03-01T06:00:00Z"], pa.timestamp("us", "UTC")) == []


def test_text_in_categories_is_text() -> None:
    assert len(faults(["NULL"], pa.dictionary(pa.int32(), pa.string()))) == 1


def test_the_first_rows_of_an_input_are_called_so() -> None:
    (found,) = spellings(["NA", "x"]).findings(0, whole=False)
    assert found.fault.startswith("'id': 1 of the first 2 rows has a placeholder")
    (found,) = spellings(["NA", "NA"]).findings(0, whole=False)
    assert found.fault.startswith("'id': all of the first 2 rows have a placeholder")
    # The others may have a key.
    (found,) = spellings(["", ""]).findings(2, whole=False)
    assert found.fault == "all of the first 2 rows have no key"


def test_columns_are_shown_with_their_types_and_what_they_hold() -> None:
    found = Spellings(["id", "day", "e", "x"])
    columns = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("e", pa.string()), ("x", pa.string())])
    assert found.columns(columns)[2] == "'e' (string)"
    found.add([pa.array([text], TEXT) for text in ("7", "2024-03-01", "ann@x.org", "?!")], columns)
    assert found.columns(columns) == [
        "'id' (int64, compared as text like 517)",
        "'day' (date32[day], compared as text like 2024-03-01)",
        "'e' (string, e-mail addresses)",
        "'x' (string)",
    ]


TEXTS = ["hash", "other", "phone"]


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        (
            [],
            [
                "'hash' holds hexadecimal hashes",
                "'phone' holds phone numbers",
                "'id' holds whole numbers",
                "'at' holds times",
            ],
        ),
        (
            [Form(), Form("integer"), Form("email", sha256=True, hashed=True), Form(), Form()],
            ["'hash' holds hashes", "'phone' holds phone numbers", "'at' holds times"],
        ),
    ],
    ids=["text", "forms"],
)
def test_the_most_likely_cause_comes_first(forms: list[Form], expected: list[str]) -> None:
    found = Spellings(["at", "id", *TEXTS], forms)
    columns = pa.schema(
        [("at", pa.timestamp("s")), ("id", pa.int64()), ("hash", STRING), ("other", STRING), ("phone", STRING)]
    )
    texts = ("2024-03-01T06:00:00", "7", "ab" * 32, "?!", "0171 1234567")
    found.add([pa.array([text] * 9, TEXT) for text in texts], columns)
    assert [each.partition(":")[0] for each in found.causes(columns)] == expected


@pytest.mark.parametrize(
    ("name", "keys", "form"),
    [
        ("mail", [" ben@x.de", "Eva <eva@x.de>", "Kim@x.de\u00a0", "NULL"], "email"),
        ("phone", [" 0171 1234567", "+491711234568", "491711234569.0", "NULL"], "phone"),
        ("id", ["{123e4567-e89b-12d3-a456-426614174000}", "123e4567-e89b-12d3-a456-426614174001 "], "uuid"),
        ("id", [" c-1", "c-2"], "trim"),
        ("id", ["517.0", "518"], "integer"),
    ],
)
def test_all_warnings_about_a_column_name_one_form(name: str, keys: list[str], form: str) -> None:
    found = Spellings([name])
    found.add([pa.array(keys * 3, TEXT)], pa.schema([(name, STRING)]))
    forms = [re.findall(r"key_form: \[(.*?)\]", each.advice) for each in found.findings(0)]
    assert forms
    assert forms == [[form]] * len(forms)


def test_a_column_is_described_with_its_form() -> None:
    forms = [Form("phone", "DE"), Form(), Form("email", sha256=True, hashed=True)]
    found = Spellings(["a", "b", "c"], forms)
    columns = pa.schema([("a", STRING), ("b", pa.int64()), ("c", STRING)])
    found.add([pa.array([text], TEXT) for text in ("+491711234567", "7", "ab" * 32)], columns)
    assert found.columns(columns) == [
        "'a' (string, phone numbers, as phone)",
        "'b' (int64, compared as text like 517)",
        "'c' (string, as email/sha256)",
    ]


@pytest.mark.more
def test_pairs_that_differ_in_case_are_found_among_very_many_keys() -> None:
    """The sample of a large column holds both keys of a pair, or neither."""
    numbers = np.random.default_rng(3).permutation(200_000)
    keys = [f"{'Kk'[i % 2]}ey-{number:06}" for i, number in enumerate(numbers)]
    keys += [f"{'Kk'[(i + 1) % 2]}ey-{number:06}" for i, number in enumerate(numbers)]
    (fault,) = faults(keys, batch=30_000)
    match = re.fullmatch(r"'id': at least ([\d,]+) distinct keys differ from another one only in case", fault)
    assert match
    # The sample has between 32,768 and 131,072 keys.
    assert 30_000 < int(match[1].replace(",", "")) <= 140_000


def test_bytes_of_a_null_are_no_key() -> None:
    texts = pa.Array.from_buffers(
        TEXT, 2, [pa.py_buffer(b"\x02"), pa.py_buffer(np.array([0, 2, 3])), pa.py_buffer(b"NAx")]
    )
    found = Spellings(["id"])
    found.add([texts], schema(STRING))
    assert [each.fault for each in found.findings(1)] == ["1 of 2 rows has no key"]


ODD_TEXT = st.text(st.sampled_from(" \u00a0\u200b\ufeff\u3000\u0301aEé09.,-+:/@'\"{}TZ"), max_size=12)
NUMBER = st.from_regex(
    r"[+-]?[0-9]{1,4}([.,/' -][0-9]{1,4}){0,2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?Z?)?", fullmatch=True
)
EMAIL = st.from_regex(r"[A-Za-z]{1,3}@[A-Z]?x\.(org|ORG)", fullmatch=True)
WRAPPED = st.from_regex(r"(mailto:|B <)[a-c]{1,3}(\+t)?@(x\.org|gmail\.com)[>;]?", fullmatch=True)
PHONE = st.from_regex(r"(\+49|0049|0| ?\(0)[ )]?[1-9]{2,4}[ /-]?[0-9]{5,7}", fullmatch=True)
CODE = st.uuids().map(str) | st.uuids().map(lambda each: f"{{{each}}}".upper()) | st.uuids().map(lambda each: each.hex)
CODE |= st.sampled_from(HASHED_PLACEHOLDERS)
KEY = (
    st.none() | ODD_TEXT | NUMBER | EMAIL | WRAPPED | PHONE | CODE | st.sampled_from(PLACEHOLDERS) | st.text(max_size=9)
)
_ROWS = r"(the only row has|all [0-9,]+ rows have|1 of [0-9,]+ rows has|[0-9,]+ of [0-9,]+ rows have)"
_WORDS = f"({'|'.join(map(re.escape, PLACEHOLDERS))})"
WARNINGS = [
    rf"'id': {_ROWS} {re.escape(f'{kind.fault}. {advice}').replace(re.escape('{words}'), f'{_WORDS}(, {_WORDS})*')}"
    for kind in KINDS.values()
    for advice in {kind.advice(form) for form in ("", *kind.also)}
]
WARNINGS += [
    r"'id': [0-9]+ distinct keys differ from another .*\.",
    r"the input has no rows, .*\.",
    rf"{_ROWS} no key(, so nothing can match)?\. A null or empty key matches nothing\. [A-Za-z ,]+[.?]",
    r"only [0-9]+ distinct keys? in [0-9]+ rows?\. Is 'id' the right key column\?",
]


@pytest.mark.more
@given(st.lists(KEY, max_size=30))
def test_a_warning_holds_only_words_of_psicli_the_column_and_numbers_of_rows(keys: list[str | None]) -> None:
    found = spellings(keys)
    for sentence in map(str, found.findings(sum(not key for key in keys))):
        assert any(re.fullmatch(warning, sentence) for warning in WARNINGS), sentence
    for cause in found.causes(schema(STRING)):
        assert re.fullmatch(r"'id' holds ([a-zA-Z0. -]+): (.*)", cause).groups() in CAUSES.items()  # type: ignore[union-attr]
    (column,) = found.columns(schema(STRING))
    assert column in {"'id' (string)", *(f"'id' (string, {look})" for look in LOOKS)}


@pytest.mark.more
@given(st.lists(KEY, max_size=30), st.integers(0, 30), st.integers(1, 31))
def test_rows_that_were_looked_at_elsewhere_change_nothing(keys: list[str | None], cut: int, batch: int) -> None:
    whole, found = spellings(keys), spellings(keys[:cut], batch=batch)
    found.merge(spellings(keys[cut:], batch=batch))
    matchless = sum(not key for key in keys)
    assert list(found.findings(matchless)) == list(whole.findings(matchless))
    assert found.columns(schema(STRING)) == whole.columns(schema(STRING))


@pytest.mark.more
@pytest.mark.parametrize("distinct", [40_000, 65_536, 65_537, 100_000, 200_000])
def test_a_sample_does_not_depend_on_which_rows_came_together(distinct: int) -> None:
    """Also with repeated keys and with rows of digits, which are in no sample."""
    numbers = np.random.default_rng(distinct).integers(0, distinct, 300_000)
    keys = [None if number % 7 == 0 else f"{'Kk'[number & 1]}ey-{number >> 1}" for number in numbers.tolist()]
    keys[1000:90_000] = map(str, range(89_000))
    expected = faults(keys, batch=70_000)
    for cuts in ([0, 10, 299_000], [0, 1000, 90_000, 91_000], [0, 150_000]):
        found = Spellings(["id"])
        for start, stop in zip(cuts, [*cuts[1:], len(keys)], strict=True):
            found.merge(spellings(keys[start:stop], batch=33_333))
        assert [each.fault for each in found.findings(sum(not key for key in keys))] == expected
