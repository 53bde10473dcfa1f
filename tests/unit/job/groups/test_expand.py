"""The files of a task with per_file become tasks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from support.job_files import SMALL, TASK

from psicli.config import Job, load_job
from psicli.core.errors import InputMissingError, TaskFilesError
from psicli.job.groups import expand
from psicli.job.groups.expand import Expanded, expand_files


def job(folder: Path, inputs: str = "in/", output: str = "out/*.csv", more: str = "", name: str = "months") -> Job:
    text = f"  - name: {name}\n    per_file: true\n    keys: {{alice: [id]}}\n"
    text += f"    input_path: {{alice: {inputs}}}\n    output_path: {{alice: {output}}}\n"
    path = folder / "job.yaml"
    path.write_text(SMALL + text + more)
    return load_job(path, variables={})


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def fault(found: Expanded, name: str = "months") -> str:
    error = found.faults[name]
    assert isinstance(error, TaskFilesError)
    return error.message


@pytest.mark.parametrize(
    "name",
    [
        "2026-05.csv",
        "2026_05.CSV.gz",
        "2026 05.parquet",
        "(2026)-05.jsonl.zst",
        "\uff12\uff10\uff12\uff16.05.tsv",
        "--2026-05-.arrows",
    ],
)
def test_one_month_by_many_names(tmp_path: Path, name: str) -> None:
    files(tmp_path, f"in/{name}")
    (task,) = expand_files(job(tmp_path)).job.tasks
    assert task.name == "months-2026-05"
    assert task.input.paths == (tmp_path / "in" / name,)
    assert isinstance(task.output_path, Path)
    assert task.output_path.parent == tmp_path / "out"


@pytest.mark.parametrize("name", ["Zu\u0308rich", "Z\u00fcrich", "ZURICH"])
def test_accents_do_not_count(tmp_path: Path, name: str) -> None:
    """Some systems write ü as one character, and others as two."""
    files(tmp_path, f"in/{name}.csv")
    assert [task.name for task in expand_files(job(tmp_path)).job.tasks] == ["months-zurich"]


def names(tasks: Iterable[object]) -> list[str]:
    return [str(getattr(task, "name", "")) for task in tasks]


def test_the_order_is_that_of_names_at_the_place_of_the_group(tmp_path: Path) -> None:
    files(tmp_path, "in/B.csv", "in/a.csv", "in/10.csv", "in/9.csv", "in/sub/C.csv", "in/.hidden.csv", "in/_SUCCESS")
    found = expand_files(job(tmp_path, more=TASK)).job
    assert names(found.tasks) == ["months-10", "months-9", "months-a", "months-b", "months-c", "t"]
    assert [task.group for task in found.tasks] == ["months"] * 5 + [""]


def test_a_list_of_places(tmp_path: Path) -> None:
    """A file that two of them name is one task, and one that is absent is none."""
    files(tmp_path, "in/a.csv", "in/b.csv", "old/c.csv")
    found = expand_files(job(tmp_path, "[in/a.csv, 'in/*.csv', old/, absent.csv]"))
    assert names(found.job.tasks) == ["months-a", "months-b", "months-c"]
    assert found.faults == {}


@pytest.mark.parametrize(
    ("output", "expected"),
    [("out/*.csv", "out/Jan.csv"), ("out/new-*.parquet", "out/new-Jan.parquet"), ("out/", "out/Jan.tsv.gz")],
)
def test_the_name_of_the_output(tmp_path: Path, output: str, expected: str) -> None:
    files(tmp_path, "in/Jan.tsv.gz")
    (task,) = expand_files(job(tmp_path, output=output)).job.tasks
    assert task.output_path == tmp_path / expected
    assert task.output_format is not None


BAD_FILES = {
    "same-name": (["in/2026-05.csv", "in/2026_05.csv.gz"], "in/2026_05.csv.gz would both be the task months-2026-05"),
    "sub-folders": (["in/a/x.csv", "in/b/x.csv"], "in/b/x.csv would both be the task months-x"),
    "no-suffix": (["in/README"], "in/README has no known suffix"),
    "no-letter": (["in/数据.csv"], "has no letter of a-z and no digit in its name"),
    "long": (["in/" + "x" * 57 + ".csv"], "and a name has at most 63 characters"),
}


@pytest.mark.parametrize(("given", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_tasks(tmp_path: Path, given: list[str], expected: str) -> None:
    files(tmp_path, *given)
    found = expand_files(job(tmp_path))
    assert names(found.job.tasks) == ["months"]
    assert fault(found).startswith("task months: ")
    assert fault(found).endswith(expected)


@pytest.mark.parametrize("inputs", ["in/", "in/*.csv", "in/a.csv"])
def test_no_file(tmp_path: Path, inputs: str) -> None:
    found = expand_files(job(tmp_path, inputs))
    assert names(found.job.tasks) == ["months"]
    assert isinstance(found.faults["months"], InputMissingError)


def test_a_file_with_the_name_of_a_task(tmp_path: Path) -> None:
    files(tmp_path, "in/x.csv")
    found = expand_files(job(tmp_path, more=TASK.replace("name: t", "name: months-x")))
    assert "is the name of another task" in fault(found, "months-x")


@pytest.mark.parametrize(
    ("inputs", "output", "expected"),
    [
        ("[in/x.csv]", "in/*.csv", "in/x.csv is a file of the job"),
        ("in/x*", "in/*.parquet", "the next run would read"),
        ("in/", ".", "/out.csv is a file of the job"),
    ],
)
def test_outputs_that_would_be_inputs(tmp_path: Path, inputs: str, output: str, expected: str) -> None:
    files(tmp_path, "in/x.csv", *(["in/out.csv"] if output == "." else []))
    found = expand_files(job(tmp_path, inputs, output, TASK))
    assert expected in fault(found, "months-out" if output == "." else "months-x")


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the number of tasks, and the size of the first message."""
    files(tmp_path, *(f"in/{number}.csv" for number in range(30)))
    assert expand_files(job(tmp_path)).faults == {}
    monkeypatch.setattr(expand, "MAX_TASKS", 29)
    found = expand_files(job(tmp_path))
    (error,) = found.faults.values()
    assert error.message == "task months: with its files, the job has 30 tasks, and a session has at most 29"
    monkeypatch.setattr(expand, "MAX_TASKS", 30)
    monkeypatch.setattr(expand, "MAX_HELLO_BYTES", 900)
    (error,) = expand_files(job(tmp_path)).faults.values()
    assert "the job has 30 tasks, and a session has room for about " in error.message
