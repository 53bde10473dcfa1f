from __future__ import annotations

import json

import pytest
from support.job_files import SMALL, TASK, Errors, Load, starts

from psicli.config.schema import job_schema
from psicli.items.forms.names import Form

TEXT = SMALL + TASK


def with_keys(keys: str, more: str = "") -> str:
    return TEXT.replace("keys: {alice: [id]}", f"keys: {keys}" + (f"\n    {more}" if more else ""))


@pytest.mark.parametrize(
    ("entry", "key_form", "form"),
    [
        ("mail", None, Form()),
        ("mail", "email", Form("email")),
        ("mail", "[email/sha256]", Form("email", sha256=True)),
        ("{column: mail}", "[email/plain]", Form("email/plain")),
        ("{column: mail, normalize: email}", None, Form("email")),
        ("{column: mail, normalize: email/sha256}", None, Form("email", sha256=True)),
        ("{column: mail, normalize: email}", "email/sha256", Form("email", sha256=True)),
        ("{column: mail, normalize: email/sha256}", "email/sha256", Form("email", sha256=True)),
        ("{column: mail, normalize: hashed}", "email/sha256", Form("email", sha256=True, hashed=True)),
        ("{column: mail, normalize: hashed}", "phone/DE/sha256", Form("phone", sha256=True, hashed=True)),
        ("{column: tel, normalize: phone/DE}", None, Form("phone", "DE")),
        ("{column: tel, normalize: phone/DE}", "phone", Form("phone", "DE")),
        ("{column: tel, normalize: phone/US}", "phone/DE/sha256", Form("phone", "US", sha256=True)),
        ("tel", "phone/DE", Form("phone", "DE")),
        ("{column: day, normalize: date/DMY}", "[date]", Form("date", "DMY")),
        ("{column: id, normalize: text}", "text/sha256", Form(sha256=True)),
    ],
)
def test_a_column_has_one_form(load: Load, entry: str, key_form: str | None, form: Form) -> None:
    task = load(with_keys(f"{{alice: [{entry}]}}", f"key_form: {key_form}" if key_form else "")).tasks[0]
    assert task.forms == (form,)
    assert task.keys[0] in ("mail", "tel", "day", "id")


def test_every_column_has_its_own_form(load: Load) -> None:
    keys = "{alice: [id, {column: Geburtstag, normalize: date/DMY}, mail], bob: [nr, born, sha]}"
    task = load(with_keys(keys, "key_form: [text, date, email/sha256]")).tasks[0]
    assert task.keys == ("id", "Geburtstag", "mail")
    assert task.forms == (Form(), Form("date", "DMY"), Form("email", sha256=True))


def test_the_columns_of_every_task_of_a_list_have_the_forms(load: Load) -> None:
    text = with_keys("{alice: [mail]}", "key_form: email").replace("in.csv", "[a.csv, b.csv]")
    tasks = load(text.replace("out.csv", "[c.csv, d.csv]")).tasks
    assert [task.forms for task in tasks] == [(Form("email"),), (Form("email"),)]


@pytest.mark.parametrize(
    ("keys", "more", "expected"),
    [
        (
            "{alice: [{column: m, normalize: Email}]}",
            "",
            "10: tasks[0].keys.alice[0].normalize: 'Email' is not a key form; did you mean email?",
        ),
        ("{alice: [m]}", "key_form: e-mail", "11: tasks[0].key_form: 'e-mail' is not a key form; did you mean email?"),
        ("{alice: [m]}", "key_form: [phone/us]", "11: tasks[0].key_form[0]: 'phone/us' is not a key form; "
            "did you mean phone/US?"),
        ("{alice: [m]}", "key_form: [date/dmy/sha256]", "11: tasks[0].key_form[0]: 'date/dmy/sha256' is not a key form"
            "; did you mean date/DMY/sha256?"),
        ("{alice: [m]}", "key_form: soundex", "11: tasks[0].key_form: 'soundex' is not a key form; the forms are text, "
            "trim, nfc, lower, digits, integer, email, email/plain, phone, phone/REGION, date, date/DMY, date/MDY, "
            "timestamp, uuid, each also with /sha256"),
        ("{alice: [m]}", "key_form: hashed", "11: tasks[0].key_form: 'hashed' is not a key form; the forms are"),
        ("{alice: [m]}", "key_form: phone/XX", "11: tasks[0].key_form: 'XX' is not a region of phone numbers; give the "
            "two letters of a country as in ISO 3166, such as phone/DE"),
        (
            "{alice: [{column: m, normalize: hashed}]}",
            "",
            "10: tasks[0].keys.alice[0].normalize: hashed does not say what the hashes are made of; name the form "
            "under the hashes in the task, for example `key_form: [email/sha256]`",
        ),
        (
            "{alice: [{column: m, normalize: hashed}]}",
            "key_form: email",
            "10: tasks[0].keys.alice[0].normalize: hashed needs a key_form that ends in /sha256, and it is email; "
            "write email/sha256 in key_form, or give email",
        ),
        (
            "{alice: [{column: m, normalize: lower}]}",
            "key_form: [email/sha256]",
            "10: tasks[0].keys.alice[0].normalize: lower does not fit key_form, which is email/sha256; give email, or "
            "hashed if the column holds hashes",
        ),
        (
            "{alice: [{column: m, normalize: email/sha256}]}",
            "key_form: [email]",
            "10: tasks[0].keys.alice[0].normalize: email/sha256 does not fit key_form, which is email; give email",
        ),
        ("{alice: [a, b]}", "key_form: email", "11: tasks[0].key_form: the number of forms is 1, and the number of key "
            "columns is 2; give a list with one form for each key column"),
        ("{alice: [a]}", "key_form: [email, text]", "11: tasks[0].key_form: the number of forms is 2, and the number"),
        ("{alice: [a]}", "key_form: []", "11: tasks[0].key_form: the number of forms is 0, and the number"),
        (
            "{alice: [{column: m, normalize: email}], bob: [mail]}",
            "",
            "10: tasks[0].keys.bob[0]: is compared as text, and the column of alice as email; give both columns one "
            "form, for example with `key_form: [email]`",
        ),
        ("{alice: [{normalize: email}]}", "", "10: tasks[0].keys.alice[0].column: is missing; add it, for example "
            "`column: mail`"),
        ("{alice: [{column: m, normalise: email}]}", "", "10: tasks[0].keys.alice[0].normalise: unknown field; did you "
            "mean normalize?"),
        ("{alice: [{column: m}, m]}", "", "10: tasks[0].keys.alice: names 'm' more than once"),
        ("{alice: [m]}", "key_form: {a: b}", "11: tasks[0].key_form: is a mapping; name one form for both parties, as "
            "in `key_form: [email]`"),
        ("{alice: {column: m}}", "", "10: tasks[0].keys.alice: is a single column; put it in a list, as in `alice: "
            "[{column: mail, normalize: email}]`"),
    ],
)  # fmt: skip
def test_mistakes(errors: Errors, keys: str, more: str, expected: str) -> None:
    starts(errors(with_keys(keys, more)), expected)


def test_all_mistakes_are_reported_together(errors: Errors) -> None:
    keys = """
      alice:
        - {column: a, normalize: emial}
        - {column: b, normalize: hashed}
        - {column: c, normalize: date}
      bob: [x, {column: y, normalize: email}, {column: z, normalize: date/MDY}]"""
    starts(
        errors(with_keys(keys) + "  - name: u\n    keys: {alice: [id]}\n    key_form: [phone/de]\n"),
        "12: tasks[0].keys.alice[0].normalize: 'emial' is not a key form; did you mean email?",
        "13: tasks[0].keys.alice[1].normalize: hashed does not say",
        "18: tasks[1].input_path: is missing",
        "18: tasks[1].output_path.alice: is missing",
        "20: tasks[1].key_form[0]: 'phone/de' is not a key form; did you mean phone/DE?",
    )


def test_the_name_of_a_column_in_a_section_may_hold_any_character(load: Load) -> None:
    assert load(with_keys('{alice: [{column: "a\\tb"}]}')).tasks[0].keys == ("a\tb",)


def test_the_schema_describes_columns_and_forms() -> None:
    definitions = job_schema()["$defs"]
    assert definitions["KeyColumn"]["required"] == ["column"]
    task = definitions["TaskEntry"]["properties"]
    names = json.dumps(task["key_form"])
    assert "phone(/([A-Z]{2}))?" in names
    assert "date(/(DMY|MDY))?" in names
