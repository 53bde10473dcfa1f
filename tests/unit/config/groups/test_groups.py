"""Tasks with per_file in job files: which inputs and outputs they take, and what --only chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.job_files import SMALL, TASK, Errors, Load, starts

from psicli.config.groups import output_pattern
from psicli.core.errors import ArgumentError
from psicli.core.places import Url, place


def group(inputs: str = "in/*.csv", output: str = "out/*.csv", more: str = "", name: str = "months") -> str:
    given = f"input_path: {{alice: {inputs}}}\n    output_path: {{alice: {output}}}\n{more}"
    return f"  - name: {name}\n    per_file: true\n    keys: {{alice: [id]}}\n    {given}"


@pytest.mark.parametrize(
    ("inputs", "paths"),
    [
        ("in/*.csv", ["in/*.csv"]),
        ("crm/", ["crm"]),
        ("in/a.csv", ["in/a.csv"]),
        ("[in/a.csv, 'old/*.parquet', more/]", ["in/a.csv", "old/*.parquet", "more"]),
    ],
)
def test_inputs(tmp_path: Path, load: Load, inputs: str, paths: list[str]) -> None:
    """A list stays one group, and nothing is looked for yet."""
    (task,) = load(SMALL + group(inputs)).tasks
    assert (task.name, task.group, task.files) == ("months", "months", ())
    assert task.input.paths == tuple(tmp_path / path for path in paths)


@pytest.mark.parametrize(
    ("output", "pattern"),
    [("out/*.csv", "out/*.csv"), ("out/new-*.csv.gz", "out/new-*.csv.gz"), ("out/", "out/*"), ("there", "there/*")],
)
def test_outputs(tmp_path: Path, load: Load, output: str, pattern: str) -> None:
    (tmp_path / "there").mkdir()
    (task,) = load(SMALL + group(output=output)).tasks
    assert task.output_path == tmp_path / pattern
    assert task.output_format is None


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("out.csv", "'out.csv' is one file, and each file needs an output; give a pattern such as out/*.csv"),
        ("absent", "'absent' is one file, and each file needs an output"),
        ("[out/a.csv, out/b.csv]", "is a list, and each file needs an output; give a pattern"),
        ("'-'", "is standard output, and each file needs an output"),
        ("out/*/a.csv", "'out/*/a.csv' is no pattern for outputs; use one *, after the last /"),
        ("out/*-*.csv", "'out/*-*.csv' is no pattern for outputs"),
        ("'out/?.csv'", "'out/?.csv' is no pattern for outputs"),
        ("out/*.txt", "'out/*.txt' has no known suffix"),
    ],
)
def test_outputs_that_are_no_pattern(errors: Errors, output: str, fault: str) -> None:
    starts(errors(SMALL + group(output=output)), f"13: tasks[0].output_path.alice: {fault}")


def test_standard_input_has_no_name(errors: Errors) -> None:
    starts(
        errors(SMALL + group("'-'") + group("[a.csv, '-']", "old/*.csv", name="more")),
        "12: tasks[0].input_path.alice: is standard input, which has no file name; name files",
        "17: tasks[1].input_path.alice[1]: is standard input, which has no file name",
    )


def test_a_pattern_for_both(errors: Errors) -> None:
    starts(
        errors(SMALL + group(output="in/*.csv")),
        "13: tasks[0].output_path.alice: is the same file as tasks[0].input_path.alice (line 12)",
    )


def test_two_groups_with_one_pattern(errors: Errors) -> None:
    starts(
        errors(SMALL + group() + group("old/*.csv", name="years")),
        "18: tasks[1].output_path.alice: is the same file as tasks[0].output_path.alice (line 13)",
    )


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        (["months"], {"months": ()}),
        (["months-01", "t"], {"months": ("months-01",), "t": ()}),
        (["months-01", "months-02"], {"months": ("months-01", "months-02")}),
        (["months-01", "months"], {"months": ()}),
        (["months-old-7"], {"months-old": ("months-old-7",)}),
    ],
)
def test_only(load: Load, only: list[str], chosen: dict[str, tuple[str, ...]]) -> None:
    """A name chooses a group, or a file of the group whose name is the longest that fits."""
    text = SMALL + group() + TASK + group("old/", "old-out/", name="months-old")
    assert {task.name: task.files for task in load(text, only=only).tasks} == chosen


def test_only_of_no_group(load: Load) -> None:
    with pytest.raises(ArgumentError, match="'t-01' is not a task of this job"):
        load(SMALL + group() + TASK, only=["t-01"])


def test_a_url_is_a_folder_by_its_slash() -> None:
    pattern = output_pattern(None, "s3://bucket/out/")  # type: ignore[arg-type]
    assert place(pattern, Path()) == Url("s3://bucket/out/*")


@pytest.mark.parametrize(("inputs", "output"), [("in/*.csv", "in/*-done.csv"), ("in/", "in/out/")])
def test_outputs_that_the_next_run_would_read(tmp_path: Path, errors: Errors, inputs: str, output: str) -> None:
    (tmp_path / "in").mkdir()
    (line,) = errors(SMALL + group(inputs, output))
    assert "output_path.alice: is a file of tasks[0].input_path.alice" in line
