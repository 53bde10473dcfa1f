"""Tests of what each key form makes of single texts."""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from psicli.items.forms.names import BASES, Form, parse_form
from psicli.items.forms.probe import TEXTS, phone_version, probe, unicode_version
from psicli.items.forms.rules.bases import rule
from psicli.items.forms.rules.text import TRIMMED

HASH = "e0b7d6e4fd1c7a6b5a3e9f0c8d2b4a6978695a4b3c2d1e0f1122334455667788"
UUID = "123e4567-e89b-12d3-a456-426614174000"

# What a form makes of texts; all those of the second list are null.
EXPECTED: dict[str, tuple[dict[str, str], list[str]]] = {
    "text": ({" A\u0301 ": " A\u0301 ", "": ""}, []),
    "trim": ({" a b\r\n": "a b", "\ufeffA\u200b": "A", "\x00\x85\xa0\u3000": ""}, []),
    "nfc": ({" Cafe\u0301 ": "Caf\xe9", "\ufb01": "\ufb01"}, []),
    "lower": ({" Stra\xdfE": "strasse", "E\u0301": "\xe9", "\u03a3\u0391\u03a3": "\u03c3\u03b1\u03c3"}, []),
    "digits": (
        {"DE-007/12": "00712", "517.0": "517", "517.00": "517", "12.50": "1250", "1.000": "1000", "12E4": "124"},
        ["DE", "4.9E+11", "4,9E11", "5E+11", "-"],
    ),
    "integer": (
        {"007": "7", "7.0": "7", "7.": "7", "7.000": "7", "+7": "7", "-07.0": "-7", "-0": "0", "00": "0"},
        # The last one took minutes when zeros could belong to two parts of the pattern.
        ["7.5", "1e3", "1,234", "1.234", "1 234", "0x7", "--7", ".0", "seven", "0" * 60_000 + "x"],
    ),
    "email": (
        {
            " Ben@X.de\t": "ben@x.de",
            "mailto:Ben@x.de?subject=Hi": "ben@x.de",
            '"Bell, Ben" <Ben@x.de>;': "ben@x.de",
            "'ben@x.de'": "ben@x.de",
            "o'neil@x.ie": "o'neil@x.ie",
            "STRA\xdfE@x.de": "stra\xdfe@x.de",
            "be\u0301n@\xc9.fr": "b\xe9n@\xe9.fr",
            "ben+a@gmail.com": "ben+a@gmail.com",
            f"{'a' * 64}@x.de": f"{'a' * 64}@x.de",
        },
        ["ben", "ben@x", "a@b@x.de", ".b@x.de", "b.@x.de", "b..n@x.de", "b n@x.de", "b@x..de", "b@-x.de", "b@x-.de",
         "b@x.de.", "b@x_y.de", "b@[192.0.2.1]", "<a@x.de> <b@x.de>", f"{'a' * 65}@x.de", f"a@{'b' * 64}.de", ";",
         "mailto:" * 9000 + "a@x.de"],
    ),
    "email/plain": (
        {
            "B.e.n+a+b@GMail.com": "ben@gmail.com",
            "b.en@googlemail.com": "ben@gmail.com",
            "b.en+a@outlook.com": "b.en@outlook.com",
            "ben+a@x.de": "ben+a@x.de",
            "b.+a@gmail.com": "b@gmail.com",
            "be.\u0301n@gmail.com": "b\xe9n@gmail.com",
        },
        ["+a@gmail.com", "b.+a@outlook.com", "ben"],
    ),
    "phone": (
        {
            "+49 (0)170 123 45-67": "+491701234567",
            "0049 170 1234567": "+491701234567",
            "+1 212 555 0100 x5": "+12125550100",
            "+49 170 1234567 (Mo-Fr 9-17)": "+491701234567",
            "+49 000000000301234": "+49301234",
        },
        ["0170 1234567", "491701234567", "4.9E+11", "+49", "+49 111 1111111", "ben", "\u043d 0049 170 1234567"],
    ),
    "phone/DE": (
        {
            "0170 1234567": "+491701234567",
            "1701234567.0": "+491701234567",
            "1701234567.00": "+491701234567",
            "Tel. 0170 1234567 App. 12": "+491701234567",
            "491701234567": "+491701234567",
            "0491 701234": "+49491701234",
            "001 212 555 0100": "+12125550100",
            "\u0660\u0661\u0667\u0660 1234567": "+491701234567",
        },
        ["0000000000", "112", "1.7E+9", "+4917"],
    ),
    "phone/US": (
        {"(212) 555-0100": "+12125550100", "12125550100": "+12125550100", "0049 170 1234567": "+491701234567"},
        ["555-0100", "911", "1-800-FLOWERS"],
    ),
    "date": (
        {"2024-3-1": "2024-03-01", "20240301": "2024-03-01", "2024/03/01 23:30:00-05:00": "2024-03-02"},
        ["01.03.2024", "2023-02-29", "0000-01-01", "2024-03/01", "2024-03-01T24:00", "2024", "1709272800"],
    ),
    "date/DMY": (
        {"1.3.2024": "2024-03-01", "2024-03-01": "2024-03-01", "01/03/2024 10:00": "2024-03-01"},
        ["3/13/2024"],
    ),
    "date/MDY": ({"1/3/2024": "2024-01-03", "2024-03-01": "2024-03-01"}, ["13/3/2024"]),
    "timestamp": (
        {
            "2024-03-01": "2024-03-01T00:00:00Z",
            "2024-03-01 06:00:00+00:00": "2024-03-01T06:00:00Z",
            "2024-03-01T06:00:00,500 -0130": "2024-03-01T07:30:00.5Z",
            "20240301T060000Z": "2024-03-01T06:00:00Z",
            "2024-03-01 6:00 UTC": "2024-03-01T06:00:00Z",
        },
        ["2024-03-01T24:00", "2024-03-01T23:59:60", "0001-01-01T00:00:00+01", "2024-03-01T06:00:00.1234567890"],
    ),
    "uuid": (
        {
            UUID.upper(): UUID,
            f"{{{UUID}}}": UUID,
            f"urn:uuid:{UUID}": UUID,
            UUID.replace("-", ""): UUID,
        },
        [f"{{{UUID}", f"{{{{{UUID}}}}}", f"{{}}{UUID}}}", UUID[:-1], UUID.replace("-", "", 1), "ben"],
    ),
    "email/sha256": ({" Ben@X.de": hashlib.sha256(b"ben@x.de").hexdigest()}, ["ben"]),
    "text/sha256": ({" a": hashlib.sha256(b" a").hexdigest(), "": ""}, []),
}  # fmt: skip
HASHED = Form("email", sha256=True, hashed=True)
FORMS = [*map(parse_form, [*EXPECTED, "email/plain/sha256", "phone/DE/sha256"]), HASHED]

# Characters that forms treat in their own way, besides any others.
PIECES = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from([*"09+-.,@;:<>\"'eETZ /()", "\u0301", "\u0345", "\u03a3", "\xdf", "\u0130", "\u0663", "\ufeff"]),
    st.sampled_from([text for text in chain.from_iterable(TEXTS.values()) if len(text) < 40]),
)
ANY_TEXT = st.lists(PIECES, max_size=8).map("".join)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_form_makes_what_it_is_for(name: str) -> None:
    made, null = EXPECTED[name]
    convert = rule(parse_form(name))
    assert {text: convert(text) for text in made} == made
    assert {text: convert(text) for text in null} == dict.fromkeys(null)


def test_every_form_has_expectations() -> None:
    assert {parse_form(name).base for name in EXPECTED} == set(BASES)


def test_hashes_are_folded_to_small_letters_and_the_hash_of_nothing_is_null() -> None:
    convert = rule(HASHED)
    assert convert(f" {HASH.upper()} ") == HASH
    nothing = hashlib.sha256(b"").hexdigest()
    assert [convert(text) for text in (HASH[1:], f"0x{HASH}", nothing, nothing.upper(), "\u212a" * 64)] == [None] * 5


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_text_of_nothing_but_what_is_trimmed_becomes_empty(form: Form) -> None:
    expected = "" if form.base != "text" else rule(form)(TRIMMED)
    assert rule(form)(TRIMMED) == expected
    assert rule(form)("") == ""


@given(text=ANY_TEXT)
@example("+49 00301234")
@example("\u1fb3\u0345")
def test_a_value_in_its_form_stays(text: str) -> None:
    for form in FORMS:
        made = rule(form)(text)
        assert made is None or (form.sha256 and not form.hashed) or rule(form)(made) == made, str(form)


@given(text=ANY_TEXT)
def test_every_form_but_text_trims(text: str) -> None:
    for form in FORMS:
        if form.base != "text":
            assert rule(form)(f"\ufeff \t{text}\u200b\n") == rule(form)(text), str(form)


@given(text=ANY_TEXT)
def test_it_does_not_matter_whether_accents_are_composed(text: str) -> None:
    for convert in map(rule, map(parse_form, ["nfc", "lower", "email"])):
        assert convert(unicodedata.normalize("NFD", text)) == convert(unicodedata.normalize("NFC", text))


@pytest.mark.more
@pytest.mark.parametrize("name", ["nfc", "lower", "email", "digits", "integer"])
def test_every_character_in_its_form_stays(name: str) -> None:
    convert = rule(parse_form(name))
    for point in range(sys.maxunicode + 1):
        if not 0xD800 <= point < 0xE000:
            for text in (f"a{chr(point)}@x.de", f"1{chr(point)}"):
                made = convert(text)
                assert made is None or convert(made) == made, hex(point)


@given(text=ANY_TEXT)
def test_a_hash_is_that_of_the_value(text: str) -> None:
    for form in FORMS:
        plain = rule(Form(form.base, form.option))(text)
        expected = plain and hashlib.sha256(plain.encode()).hexdigest()
        assert rule(Form(form.base, form.option, sha256=True))(text) == expected, str(form)


# From https://unifiedid.com/docs/getting-started/gs-normalization-encoding, and Meta's page on the parameters of its
# Conversions API.
PUBLISHED = [
    ("email", "user@example.com", "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"),
    ("email", "MYEMAIL@example.com", "16c18d336f0b250f0e2d907452ceb9658a74ecdae8bc94864c23122a72cc27a5"),
    ("email", "John_Smith@gmail.com", "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"),
    ("email", "JaneSaoirse+Work@example.com", "28aaee4815230cd3b4ebd88c515226550666e91ac019929e3adac3f66c288180"),
    ("email/plain", "JaneSaoirse+Work@gmail.com", "92ee26057ed9dea2535d6c8b141d48373932476599196e00352254896db5888f"),
    ("email/plain", "JANE.SAOIRSE@gmail.com", "92ee26057ed9dea2535d6c8b141d48373932476599196e00352254896db5888f"),
    ("phone/US", "1 (234) 567-8901", "10e6f0b47054a83359477dcb35231db6de5c69fb1816e1a6b98e192de9e5b9ee"),
]


@pytest.mark.parametrize(("name", "text", "digest"), PUBLISHED)
def test_hashes_that_platforms_publish(name: str, text: str, digest: str) -> None:
    assert rule(parse_form(f"{name}/sha256"))(text) == digest


# The probe ---------------------------------------------------------------------------------------------------------

PROBES = {
    "text": "c42d20ddc21962d66208fa68443a7866",
    "trim": "c364b55fba4397c83e92ff75ec11ff48",
    "nfc": "81c43543db6e26af816dd186c3bfa148",
    "lower": "b7fb659ee306c98afb3a28d183f42b33",
    "digits": "02d02f41faba28a02eb0d31f6581c132",
    "integer": "91ed32162700d61fb0fb02273dd91ee8",
    "email": "4e0951f8a0704f8627c43a65d47ace42",
    "email/plain": "619e0ea82b97d8611f7a67a25d9b2861",
    "phone": "2de6622ed2990c770d1002159732d8b5",
    "date": "9cc019060f5b5804e21612df9be164b6",
    "timestamp": "a5acb9e499c18e2d9571bc370b7fd039",
    "uuid": "bea870e86fede89cf31b3e4bfed7011c",
    "email/sha256": "040b9b1e7b32da3909e1e3fff9ac50ea",
    "phone/sha256": "cc6ed9446a59c349e6ca120ac1c7cc68",
}


@pytest.mark.parametrize("name", PROBES)
def test_known_answer_of_the_probe(name: str) -> None:
    assert probe([parse_form(name)]).hex() == PROBES[name]


def test_every_form_has_a_known_probe() -> None:
    assert {parse_form(name).base for name in PROBES if not name.endswith("/sha256")} == set(BASES)


def test_the_probe_of_several_columns_is_that_of_all_outputs_in_order() -> None:
    forms = [parse_form("email/sha256"), parse_form("date")]
    message = b"psicli/v1/forms\0"
    for form in forms:
        for text in chain.from_iterable(TEXTS.values()):
            value = rule(form)(text)
            message += b"\xff" * 4 if value is None else len(value.encode()).to_bytes(4, "big") + value.encode()
    assert probe(forms) == hashlib.sha256(message).digest()[:16]
    assert probe(forms) != probe(forms[::-1])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (parse_form("phone/DE"), parse_form("phone/US")),
        (parse_form("date/DMY"), parse_form("date")),
        (HASHED, parse_form("email/sha256")),
    ],
    ids=str,
)
def test_the_probe_is_the_same_however_a_party_holds_its_values(ours: Form, theirs: Form) -> None:
    assert probe([ours]) == probe([theirs])


def test_the_texts_of_the_probe_are_distinct_and_take_every_form_through_values_and_nulls() -> None:
    texts = list(chain.from_iterable(TEXTS.values()))
    assert len(set(texts)) == len(texts)
    assert json.loads(json.dumps(texts)) == texts
    for base in set(BASES) - {"text", "trim", "nfc", "lower"}:
        assert {rule(Form(base))(text) is None for text in texts} == {True, False}, base


def test_versions() -> None:
    import phonenumbers

    assert unicode_version() == unicodedata.unidata_version
    assert phone_version([parse_form("email"), parse_form("phone/DE/sha256")]) == phonenumbers.__version__
    assert phone_version([parse_form("email")]) == ""
