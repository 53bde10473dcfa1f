"""Which columns of two files are the keys, and in which form they are compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.keys.proposals import Columns, normalized, proposed

from psicli.core.errors import ColumnError, InputMissingError
from psicli.setup.propose import Given

MAILS = [f"person.{number}@example.com" for number in range(40)]
PHONES = [f"+49151234567{number:02d}" for number in range(40)]
HASHES = [hashlib.sha256(mail.encode()).hexdigest() for mail in MAILS]
UUIDS = [f"123e4567-e89b-12d3-a456-4266141740{number:02d}" for number in range(40)]
DAYS = [f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}" for number in range(40)]
COUNTRIES = ["DE", "FR"] * 20


@pytest.mark.parametrize(
    ("columns", "key", "form", "normalize"),
    [
        ({"since": DAYS, "email": MAILS, "country": COUNTRIES}, "email", "email", ""),
        ({"notes": ["long text " * 10 + mail for mail in MAILS], "Kunde_ID": range(40)}, "Kunde_ID", "text", ""),
        ({"country": COUNTRIES, "mail_hash": HASHES}, "mail_hash", "email/sha256", "hashed"),
        ({"country": COUNTRIES, "hash": HASHES}, "hash", "text/sha256", "hashed"),
        ({"country": COUNTRIES, "Telefon": PHONES}, "Telefon", "phone", ""),
        ({"Telefon": [*PHONES[:30], *("0" + each[3:] for each in PHONES[30:])]}, "Telefon", "phone/DE", ""),
        ({"Telefon": ["0" + each[3:] for each in PHONES]}, "Telefon", "phone", ""),
        ({"amount": [f"{each}.5" for each in range(40)], "tail": [f"N{n}" for n in range(40)]}, "tail", "text", ""),
        ({"guid": UUIDS}, "guid", "uuid", ""),
        ({"id": [f"{number}.0" for number in range(40)]}, "id", "integer", ""),
        ({"id": [f"{number:04d}" for number in range(40)]}, "id", "trim", ""),
        ({"id": [f"{number:04d}" for number in range(39)] + ["17"]}, "id", "integer", ""),
        ({"id": [f" c-{number}" for number in range(40)]}, "id", "trim", ""),
        ({"day": DAYS}, "day", "date", ""),
        ({"day": [f"{day[8:]}.{day[5:7]}.{day[:4]}" for day in DAYS]}, "day", "date", "date/DMY"),
        ({"day": [f"{day[5:7]}/{day[8:]}/{day[:4]}" for day in DAYS]}, "day", "date", "date/MDY"),
        ({"at": [f"{day} 10:00:00+02:00" for day in DAYS]}, "at", "timestamp", ""),
    ],
)  # fmt: skip
def test_the_key_of_one_file(tmp_path: Path, columns: Columns, key: str, form: str, normalize: str) -> None:
    task = proposed(tmp_path, columns)
    assert task.sides["alice"].keys == (key,)
    assert task.forms == (form,)
    assert task.sides["alice"].normalize == (normalize,)


@pytest.mark.parametrize(
    ("own", "peer", "keys", "form", "normalize"),
    [
        ({"id": range(40), "mail": [each.upper() for each in MAILS]}, {"no": range(90, 130), "contact": MAILS},
         ("mail", "contact"), "email", ("", "")),
        ({"mail": MAILS, "name": COUNTRIES}, {"c": COUNTRIES, "hash": HASHES}, ("mail", "hash"), "email/sha256",
         ("", "hashed")),
        ({"hash": [each.upper() for each in HASHES]}, {"m": [f"Ben <{each}>" for each in MAILS], "x": COUNTRIES},
         ("hash", "m"), "email/sha256", ("hashed", "")),
        ({"h": [each.upper() for each in HASHES]}, {"hash": HASHES}, ("h", "hash"), "text/sha256",
         ("hashed", "hashed")),
        ({"e-mail": HASHES}, {"hash": HASHES}, ("e-mail", "hash"), "email/sha256", ("hashed", "hashed")),
        ({"tel_hash": HASHES}, {"mobile": HASHES}, ("tel_hash", "mobile"), "phone/sha256", ("hashed", "hashed")),
        ({"mobile": ["0" + each[3:] for each in PHONES]}, {"c": COUNTRIES, "tel": PHONES}, ("mobile", "tel"),
         "phone/DE", ("", "")),
        ({"a": [f"A-{each}" for each in range(40)]}, {"b": [f"a-{each}" for each in range(40)]}, ("a", "b"), "lower",
         ("", "")),
        ({"a": [f"A-{each}" for each in range(40)]}, {"b": [f"A-{each} " for each in range(40)]}, ("a", "b"), "trim",
         ("", "")),
        ({"id": [f"{each}.0" for each in range(40)]}, {"id": range(40)}, ("id", "id"), "integer", ("", "")),
        ({"d": [f"{day[8:]}.{day[5:7]}.{day[:4]}" for day in DAYS]}, {"d": DAYS}, ("d", "d"), "date", ("date/DMY", "")),
        ({"sku": [f"x{each}" for each in range(40)]}, {"id": range(40), "article": [f"x{each}" for each in range(40)]},
         ("sku", "article"), "text", ("", "")),
        ({"code": [hashlib.sha256(f"k-{each}".encode()).hexdigest() for each in range(40)]},
         {"k": [f"K-{each}" for each in range(40)]}, ("code", "k"), "lower/sha256", ("hashed", "")),
    ],
)  # fmt: skip
def test_the_keys_of_two_files(
    tmp_path: Path, own: Columns, peer: Columns, keys: tuple[str, str], form: str, normalize: tuple[str, str]
) -> None:
    task = proposed(tmp_path, own, peer)
    assert tuple(side.keys[0] for side in task.sides.values()) == keys
    assert task.forms == (form,)
    assert normalized(task) == normalize
    assert task.found[0] == "40 of the 40 distinct keys are also among the 40"


@pytest.mark.more
def test_the_count_of_many_phone_numbers_is_an_estimate(tmp_path: Path) -> None:
    """It does not depend on where the numbers are in the files, and how they are written."""
    numbers = [f"151{number * 7919 % 10**8:08d}" for number in range(30_000)]
    own = [f"0{number}" for number in numbers[:20_000]]
    task = proposed(tmp_path, {"tel": own}, {"tel": [f"+49 {number[:3]} {number[3:]}" for number in numbers[10_000:]]})
    about, count, of = task.found[0].split()[:3]
    assert (about, of, task.forms) == ("about", "of", ("phone/DE",))
    assert 9_500 < int(count.replace(",", "")) < 10_500


def test_no_value_of_a_file_gets_into_a_line_for_people(tmp_path: Path) -> None:
    task = proposed(tmp_path, {"mail": MAILS, "tel": PHONES}, {"h": HASHES, "tel": PHONES})
    lines = " ".join([*task.why, *task.found])
    assert not [value for value in [*MAILS, *PHONES, *HASHES] if value in lines]
    assert "these columns have equal values, too: 'mail' with 'h'" in lines


def test_columns_and_forms_that_somebody_names(tmp_path: Path) -> None:
    columns = {"mail": MAILS, "tel": PHONES, "day": DAYS}
    task = proposed(tmp_path, columns, columns, Given(("tel", "day"), ("tel", "day"), region="FR"))
    assert (task.sides["bob"].keys, task.forms) == (("tel", "day"), ("phone/FR", "date"))
    task = proposed(tmp_path, columns, {"h": HASHES}, Given(("mail",), ("h",), ("email/plain/sha256",)))
    assert (task.forms, task.sides["bob"].normalize) == (("email/plain/sha256",), ("hashed",))
    task = proposed(tmp_path, columns, given=Given(("mail",), ("contact",)))
    assert task.keys["bob"] == ("contact",)


def test_a_column_that_is_missing_or_can_be_no_key(tmp_path: Path) -> None:
    columns = {"mail": MAILS, "lines": [f"a\nb{number}" for number in range(40)]}
    with pytest.raises(InputMissingError) as missing:
        proposed(tmp_path, columns, given=Given(("Mail",)))
    assert missing.value.advice.startswith("Did you mean 'mail'?")
    with pytest.raises(ColumnError) as refused:
        proposed(tmp_path, columns, given=Given(("lines",)))
    assert "contains a control character" in refused.value.message
    assert proposed(tmp_path, columns).sides["alice"].keys == ("mail",)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (Given(("mail", "tel"), ("mail",)), "name as many columns with --peer-key: 2"),
        (Given(("mail",), ("mail", "tel")), "name as many columns with --key: 2"),
        (Given(("mail", "tel")), "name as many columns with --peer-key: 2"),
        (Given(("mail", "mail"), ("mail", "tel")), "name each key column once"),
        (Given(("mail",), ("mail",), ("email", "email")), "give --form once for each key column: 1"),
    ],
)
def test_columns_and_forms_that_do_not_fit(tmp_path: Path, given: Given, fault: str) -> None:
    columns = {"mail": MAILS, "tel": PHONES}
    with pytest.raises(ValueError, match=fault):
        proposed(tmp_path, columns, columns, given)
