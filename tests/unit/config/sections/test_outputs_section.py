"""The section `output` of a task: its values, and what a job file cannot say."""

from __future__ import annotations

import pytest
from support.job_files import SMALL, TASK, Errors, Load, starts

from psicli.config import OutputSettings


def with_output(output: str) -> str:
    return f"{SMALL}{TASK}    output: {{{output}}}\n"


def test_what_an_output_can_hold(load: Load) -> None:
    assert load(SMALL + TASK).tasks[0].output == OutputSettings(rows="matched", flag=None, columns=None, order="key")
    text = "rows: all, flag: in both, columns: [b, 'a'], order: input"
    wanted = OutputSettings(rows="all", flag="in both", columns=("b", "a"), order="input")
    assert load(with_output(text)).tasks[0].output == wanted


@pytest.mark.parametrize(
    ("output", "mistake"),
    [
        ("rows: all", "13: tasks[0].output.rows: all rows without a flag would not tell which of them match; add"),
        ("rows: some", "13: tasks[0].output.rows: is the text 'some'; give matched or unmatched or all"),
        (
            "flag: a, columns: [b, a]",
            "13: tasks[0].output.flag: 'a' is a column of the input too, which columns names;",
        ),
        ("flag: ''", "13: tasks[0].output.flag: is empty; give the name of a column"),
        ("columns: []", "13: tasks[0].output.columns: is empty; list the columns to write"),
        ("columns: [a, b, a]", "13: tasks[0].output.columns: names 'a' more than once; name every column once"),
        ("order: keys", "13: tasks[0].output.order: is the text 'keys'; give key or input, as in `order: key`"),
        ("row: all", "13: tasks[0].output.row: "),
    ],
)
def test_mistakes(errors: Errors, output: str, mistake: str) -> None:
    starts(errors(with_output(output)), mistake)


def test_a_flag_with_the_name_of_a_key_is_allowed_if_the_key_is_not_written(load: Load) -> None:
    assert load(with_output("flag: id, columns: [note]")).tasks[0].output.flag == "id"
