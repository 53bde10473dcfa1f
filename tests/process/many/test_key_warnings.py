"""What a run and a check say about keys that look right and match nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.processes.expectations import the_object
from support.processes.runner import Pair, Result

ROWS = ("keys", "spelling")
MOMENTS = [1357020000, 1357023600]


def write(path: Path, values: Any, column: str = "id") -> str:
    """Write a file with one column: texts as CSV, any other values as Parquet; return its name."""
    if isinstance(values, pa.Array):
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table({column: values}), path)
    else:
        path = path.with_suffix(".csv")
        path.write_text("".join(f"{line}\n" for line in [column, *values]))
    return path.name


def job(pair: Pair, alice: Any, bob: Any, **changes: Any) -> Path:
    """Write a job file in which alice receives the matches of two one-column inputs."""
    inputs = {"alice": write(pair.folder / "a", alice), "bob": write(pair.folder / "b", bob)}
    task = {
        "name": "t",
        "keys": {"alice": ["id"], "bob": ["id"]},
        "input_path": inputs,
        "output_path": {"alice": "out.csv"},
        **changes,
    }
    nodes = [{"party": "alice", "address": f"127.0.0.1:{pair.port}"}, {"party": "bob"}]
    path = pair.folder / "job.yaml"
    path.write_text(
        yaml.safe_dump({"job": "keys", "cluster": {"nodes": nodes}, "psi": {"receiver": "alice"}, "tasks": [task]})
    )
    return path


def simulate(pair: Pair, *arguments: Any) -> Result:
    result = pair.start_command("simulate", "--config", *arguments).result()
    assert result.code == 0, result.text
    return result


def warnings(pair: Pair, path: Path) -> tuple[list[str], list[str]]:
    """Run both parties; return the warnings of alice and of bob, which the log has too."""
    result = simulate(pair, path, "--json")
    tasks = [report["tasks"][0] for report in the_object(result.stdout)["parties"].values()]
    for task in tasks:
        assert all(warning in result.stderr for warning in task["warnings"])
    return tasks[0]["warnings"], tasks[1]["warnings"]


def test_placeholders_that_match_each_other(pair: Pair) -> None:
    words = ["NA", r"\N", "NULL", "NaN"]
    alice, bob = warnings(pair, job(pair, ["1", *words], ["9", *words]))
    assert alice == bob
    assert alice[0].startswith("'id': 4 of 5 rows have a placeholder as the key (NULL, NA, NaN, ")


@pytest.mark.more
@pytest.mark.parametrize(
    ("alice", "bob", "fault"),
    [
        (["517.0", "518.0", "533.0"], pa.array([517, 533]), "all 3 rows have a whole number with .0 at the end"),
        (
            ["2013-01-01 06:00:00+00:00", "2013-01-01 07:00:00+00:00"],
            pa.array(MOMENTS, pa.timestamp("s", "UTC")),
            "all 2 rows have a time that is not in the form",
        ),
        (["c-1", " c-2"], ["c-2", "c-3"], "1 of 2 rows has spaces around the key"),
    ],
    ids=["float", "time", "spaces"],
)
def test_an_empty_intersection_says_why_to_the_party_that_learns_it(
    pair: Pair, alice: Any, bob: Any, fault: str
) -> None:
    path = job(pair, alice, bob)
    first, second = warnings(pair, path)
    odd, nothing = first
    assert fault in odd
    assert nothing.startswith("no key matched. ")
    assert "'id' (string" in nothing
    assert "Follow the other warnings" in nothing
    # A sender that learns nothing is told nothing.
    assert second == []
    text = simulate(pair, path).stdout.decode()
    assert text.count(f"warning: t: {odd}\n") == text.count(f"warning: t: {nothing}\n") == 1


@pytest.mark.more
def test_key_columns_in_another_order(pair: Pair) -> None:
    """Both parties learn the result of a broadcast, and each is told the order of its own columns."""
    path = job(pair, [], [], keys={"alice": ["id", "day"], "bob": ["day", "id"]}, broadcast_result=True)
    for name in ("a", "b"):
        (pair.folder / f"{name}.csv").write_text("id,day\n17,2024-03-01\n18,2024-03-02\n")
    text = path.read_text().replace("alice: out.csv", "alice: out.csv\n    bob: out-bob.csv")
    path.write_text(text)
    (first,), (second,) = warnings(pair, path)
    assert "here: 'id' (string, whole numbers), then 'day' (string, dates). Likely" in first
    assert "(3) bob lists its key columns in another order. Ask bob" in first
    assert "here: 'day' (string, dates), then 'id' (string, whole numbers). Likely" in second
    assert "(3) alice lists its key columns in another order. Ask alice" in second


@pytest.mark.more
def test_few_distinct_keys_and_many_rows_without_one(pair: Pair) -> None:
    """In a run and in a check."""
    country = [("DE", "FR", "IT", '""')[number % 4] for number in range(2000)]
    path = job(pair, country, [f"B{number}" for number in range(200)])
    first, second = warnings(pair, path)
    few = [
        "500 of 2,000 rows have no key. A null or empty key matches nothing. Are these the right columns?",
        "only 3 distinct keys in 2,000 rows. Is 'id' the right key column?",
    ]
    assert first[:2] == few
    assert first[2].startswith("no key matched. ")
    assert second == []
    result = pair.start_command("check", "--json", "--wait", "0", "--party", "alice", "--config", path).result()
    rows = {name: [row for row in the_object(result.stdout)["checks"] if row["name"] == name] for name in ROWS}
    assert [f"{row['message']}. {row['hint']}" for row in rows["spelling"]] == few
    (keys,) = rows["keys"]
    assert keys["message"].endswith("all 2,000 rows can be read, 500 of them without a key; 3 distinct keys")
    assert keys["status"] == "ok"


@pytest.mark.more
def test_hardly_any_match_is_worth_a_hint_to_the_party_that_learns_it(pair: Pair) -> None:
    mails = [f"ann{number}@x.org" for number in range(120)]
    first, second = warnings(pair, job(pair, mails, ["ann7@x.org", *(mail.title() for mail in mails)]))
    (hint,) = first
    assert hint.startswith("only 1 distinct key of 120 matched, and bob has 121. This may be right. If you expected")
    assert "Likely causes: (1) 'id' holds e-mail addresses: agree on key_form: [email], which ignores case" in hint
    assert "`psicli keys` shows what your own first keys become" in hint
    # bob has his own warnings, but learns nothing of the result.
    assert not any("matched" in warning for warning in second)


@pytest.mark.more
def test_what_is_no_warning_is_shown_by_a_check_alone(pair: Pair) -> None:
    keys = ["be.n@gmail.com", "ann@gmail.com"]
    path = job(pair, keys, keys)
    assert warnings(pair, path) == ([], [])
    result = pair.start_command("check", "--wait", "0", "--party", "alice", "--config", path).result()
    assert result.code == 0, result.text
    line = next(line for line in result.text.splitlines() if "t: spelling" in line)
    assert line.startswith("ok ")
    assert "'id': 1 of 2 rows has an e-mail address with dots or a +tag" in line
    assert "email/plain" in line


@pytest.mark.more
def test_an_input_without_rows(pair: Pair) -> None:
    path = job(pair, [], ["1"])
    first, second = warnings(pair, path)
    assert first == ["the input has no rows, so nothing can match. Look whether the export is complete."]
    assert second == []
    path = job(pair, ["1"], pa.array([], pa.int64()))
    first, second = warnings(pair, path)
    assert first == ["no key matched, because bob has no keys. Ask bob whether its export is complete."]
    assert second == ["the input has no rows, so nothing can match. Look whether the export is complete."]


@pytest.mark.more
def test_ordinary_keys_that_match_cause_no_warning(pair: Pair) -> None:
    keys = [f"Ab-{number:04}" for number in range(50)]
    path = job(pair, keys, keys[10:])
    assert warnings(pair, path) == ([], [])
    assert "warning" not in simulate(pair, path, "-v").text


def test_a_check_warns_of_each_kind(pair: Pair) -> None:
    path = job(pair, ["517.0", " 7", "NA", "533.0"], ["1"])
    result = pair.start_command("check", "--json", "--wait", "0", "--party", "alice", "--config", path).result()
    assert result.code == 0, result.text
    rows = [row for row in the_object(result.stdout)["checks"] if row["name"] == "spelling"]
    assert [(row["task"], row["status"], row["code"]) for row in rows] == [("t", "warn", 0)] * 3
    assert [row["message"].split(" have ")[-1].split(" has ")[-1][:17] for row in rows] == [
        "spaces around the",
        "a placeholder as ",
        "a whole number wi",
    ]
    assert all(row["hint"] for row in rows)


@pytest.mark.more
def test_a_check_warns_of_an_input_without_rows(pair: Pair) -> None:
    result = pair.start_command("check", "--wait", "0", "--party", "alice", "--config", job(pair, [], ["1"])).result()
    assert result.code == 0, result.text
    assert "warn  t: spelling  the input has no rows, so nothing can match\n" in result.text
