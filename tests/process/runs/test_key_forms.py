"""Runs of two parties that write their keys in different ways, and agree on the form in which these are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes import altered
from support.processes.expectations import succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Side

Column = Mapping[str, Sequence[Any]]


def write(path: Path, columns: Column) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(columns)), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [columns, *(row.values() for row in rows)]
        path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")


def task(pair: Pair, alice: tuple[str, Column], bob: tuple[str, Column], **terms: Any) -> None:
    """Add a task that alice receives: for each party the name of its input, and its key columns with their values."""
    for party, (name, columns) in zip(PARTIES, (alice, bob), strict=True):
        write(pair.path(party, name), columns)
    pair.add("t", Side([*alice[1]], alice[0], "out/t.csv"), Side([*bob[1]], bob[0]), **terms)


def normalize(pair: Pair, party: str, **forms: str) -> None:
    """Say how a party writes columns."""
    (entry,) = pair.jobs[party]["tasks"]
    columns = entry["keys"][party]
    entry["keys"][party] = [{"column": name, "normalize": forms[name]} if name in forms else name for name in columns]


def matched(pair: Pair) -> list[str]:
    """Run both parties; return the rows of alice's output."""
    succeeded(pair.run())
    return pair.path(LISTENER, "out/t.csv").read_text().splitlines()[1:]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def report_of(result: Result) -> dict[str, Any]:
    (found,) = the_object(result.stdout)["tasks"]
    assert isinstance(found, dict)
    return found


@pytest.mark.more
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_addresses_match_hashes_of_addresses(pair: Pair, suffix: str) -> None:
    mails = ["Ben@X.de ", "mailto:eva@y.org", "nobody", "carl@z.net"]
    hashes = [sha256("ben@x.de").upper(), sha256("eva@y.org"), sha256("dora@z.net"), "no hash"]
    task(pair, (f"in.{suffix}", {"mail": mails}), (f"in.{suffix}", {"sha": hashes}), key_form="email/sha256")
    normalize(pair, DIALER, sha="hashed")
    results = pair.run("--json")
    succeeded(results)
    # Sorted by their hashes, which are what is compared.
    assert pair.path(LISTENER, "out/t.csv").read_text().splitlines() == ["mail", "mailto:eva@y.org", "Ben@X.de "]
    alice, bob = map(report_of, results)
    assert (alice["key_form"], alice["unfit_rows"], alice["matchless_rows"]) == (["email/sha256"], [1], 1)
    assert (bob["key_form"], bob["unfit_rows"], bob["matchless_rows"]) == (["email/sha256"], [1], 1)
    unit = "row" if suffix == "parquet" else "line"
    line = {"csv": 4, "jsonl": 3, "parquet": 3}[suffix]
    have = "1 of 4 rows has a value that is not"
    assert alice["warnings"][0] == (
        f"'mail': {have} an e-mail address (form email/sha256), in {unit} {line}; such a row matches nothing. Correct "
        "the values."
    )
    assert bob["warnings"][0] == (
        f"'sha': {have} the SHA-256 of a value in hexadecimal digits (form hashed), in {unit} {line + 1}; such a row "
        "matches nothing. Correct the values."
    )
    assert alice["warnings"][0] in results[0].stderr
    assert alice["key_columns"][0].endswith(", as email/sha256)")
    for result in results:
        assert not any(secret in result.text for secret in ("nobody", "no hash", "eva", hashes[1]))


def test_two_regions_and_two_orders_of_dates(pair: Pair) -> None:
    alice = {"tel": ["030 901820", "+1 650 253 0000", "12"], "day": ["31.12.1999", "01.02.2003", "01.02.2003"]}
    bob = {"phone": ["+49 30 901820", "(650) 253-0000", "12"], "born": ["12/31/1999", "2/1/2003", "2/1/2003"]}
    task(pair, ("in.csv", alice), ("in.csv", bob))
    normalize(pair, LISTENER, tel="phone/DE", day="date/DMY")
    normalize(pair, DIALER, phone="phone/US", born="date/MDY")
    assert matched(pair) == ["+1 650 253 0000,01.02.2003", "030 901820,31.12.1999"]


def test_without_agreement_nothing_is_sent(pair: Pair) -> None:
    task(pair, ("in.csv", {"mail": ["a@b.de"]}), ("in.csv", {"mail": ["a@b.de"]}))
    pair.jobs[LISTENER]["tasks"][0]["key_form"] = ["email/sha256"]
    pair.jobs[DIALER]["tasks"][0]["key_form"] = "email"
    alice, bob = pair.run()
    assert (alice.code, bob.code) == (78, 78)
    error = "the two job files disagree:"
    assert [line.split() for line in alice.below(error)][1] == ["t:", "key_form", "email/sha256", "email"]
    assert [line.split() for line in bob.below(error)][1] == ["t:", "key_form", "email", "email/sha256"]
    pair.nothing_left()


@pytest.mark.more
def test_one_side_without_forms(pair: Pair) -> None:
    task(pair, ("in.csv", {"mail": ["a@b.de"]}), ("in.csv", {"mail": ["a@b.de"]}))
    normalize(pair, LISTENER, mail="email")
    alice, bob = pair.run()
    assert (alice.code, bob.code) == (78, 78)
    error = "the two job files disagree:"
    assert [line.split() for line in bob.below(error)][1] == ["t:", "key_form", "text", "email"]


def one_altered(pair: Pair, alteration: altered.Alteration) -> tuple[Result, Result]:
    """Run a job with forms, in which bob is altered."""
    task(pair, ("in.csv", {"mail": ["A@b.de"]}), ("in.csv", {"mail": ["a@B.de"]}), key_form="email")
    alice, bob = pair.start(LISTENER, "--json"), pair.start(DIALER, "--json", program=altered.program(alteration))
    return alice.result(), bob.result()


@pytest.mark.more
def test_other_rules_are_another_version(pair: Pair) -> None:
    results = one_altered(pair, altered.with_other_forms)
    for result, versions in zip(results, (["1", "2"], ["2", "1"]), strict=True):
        assert result.code == 78
        row = result.below("the two job files disagree:")[1].split()
        assert row == ["t:", "version", "of", "the", "key", "forms", *versions]


@pytest.mark.more
def test_another_unicode_is_a_warning_on_both_sides(pair: Pair) -> None:
    results = one_altered(pair, altered.with_another_unicode)
    succeeded(results)
    for result in results:
        (warning,) = the_object(result.stdout)["warnings"]
        assert warning.startswith("Unicode: ")
        assert "99.0.0" in warning
        assert warning in result.stderr
    assert pair.path(LISTENER, "out/t.csv").read_text() == "mail\nA@b.de\n"


@pytest.mark.more
def test_a_check_names_forms_and_what_they_cannot_take(pair: Pair) -> None:
    mails = [f"m{number}@x.de" for number in range(20)] + ['"two\nlines"', "x", "", "a@b", "c", "d", "e f@g.de"]
    task(pair, ("in.csv", {"mail": mails}), ("in.csv", {"mail": ["a@b.de"]}), key_form="email")
    result = pair.start_command("check", "--wait", "0", "--config", pair.job_file(LISTENER)).result()
    assert result.code == 65
    assert "in.csv:22: the key column 'mail' contains a control character" in result.text
    mails[20] = '" one@x.de\n"'
    write(pair.path(LISTENER, "in.csv"), {"mail": mails, "x": [1] * len(mails)})
    result = pair.start_command("check", "--wait", "0", "--config", pair.job_file(LISTENER)).result()
    assert result.code == 0, result.text
    assert "'mail' (string, " in result.text
    assert ", as email): all 27 rows can be read, 6 of them without a key" in " ".join(result.text.split())
    assert (
        "'mail': 5 of 27 rows have a value that is not an e-mail address (form email), in lines 24, 26, 27, 28, 29; "
        "such a row matches nothing" in " ".join(result.text.split())
    )


@pytest.mark.more
def test_a_checked_peer_of_another_unicode(pair: Pair) -> None:
    task(pair, ("in.csv", {"mail": ["A@b.de"]}), ("in.csv", {"mail": ["a@B.de"]}), key_form="email")
    checks = [
        pair.start_command("check", "--config", pair.job_file(party), program=program)
        for party, program in ((LISTENER, pair.program), (DIALER, altered.program(altered.with_another_unicode)))
    ]
    for check in checks:
        result = check.result()
        assert result.code == 0, result.text
        assert "warn  version" in result.text
        assert "99.0.0" in result.text
