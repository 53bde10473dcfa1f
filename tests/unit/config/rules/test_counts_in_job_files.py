"""Tasks with `result: count` in job files: what they refuse, and what their sender must limit."""

from __future__ import annotations

import pytest
from support.job_files import Errors, Load, starts

JOB = """\
job: j
self_party: {party}
cluster: {{nodes: [{{party: alice, address: "127.0.0.1:9000"}}, {{party: bob}}]}}
policy: {{min_peer_items: 1000, max_runs_per_day: 2}}
psi: {{receiver: alice, result: count}}
tasks:
  - name: t
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: in.csv, bob: in.csv}}
"""
ALICE, BOB = JOB.format(party="alice"), JOB.format(party="bob")
POLICY = "policy: {min_peer_items: 1000, max_runs_per_day: 2}\n"


@pytest.mark.parametrize("text", [ALICE, BOB, ALICE.replace(POLICY, "")], ids=["receiver", "sender", "without limits"])
def test_neither_party_needs_an_output(load: Load, text: str) -> None:
    (task,) = load(text).tasks
    assert (task.result, task.output_path, task.output_format) == ("count", None, None)


def test_a_task_overrides_the_job(load: Load) -> None:
    rows = "  - {name: r, result: rows, keys: {bob: [id]}, input_path: {bob: in.csv}}\n"
    assert [task.result for task in load(BOB + rows).tasks] == ["count", "rows"]
    one = BOB.replace(", result: count", "").replace("name: t", "name: t\n    result: count")
    assert [task.result for task in load(one + rows.replace("result: rows, ", "")).tasks] == ["count", "rows"]


def test_an_unknown_result(errors: Errors) -> None:
    error = errors(ALICE.replace("result: count", "result: sum"))[0]
    assert error == "5: psi.result: is the text 'sum'; give rows or count"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "result: count",
            "result: count, broadcast_result: true",
            "5: psi.broadcast_result: does not go with `result: count` (line 5); a count goes to the receiver alone",
        ),
        (
            "    keys:",
            "    broadcast_result: true\n    keys:",
            "8: tasks[0].broadcast_result: does not go with `result: count` (line 5); a count goes to the receiver",
        ),
        (
            "    keys:",
            "    output_path: {alice: out.csv}\n    keys:",
            "8: tasks[0].output_path.alice: has no effect with `result: count` (line 5), which gives no rows; "
            "remove it, and see the count in the report",
        ),
        ("    keys:", "    output: {rows: unmatched}\n    keys:", "8: tasks[0].output.rows: has no effect with"),
        ("    keys:", "    output: {flag: both}\n    keys:", "8: tasks[0].output.flag: has no effect with"),
        ("    keys:", "    output: {columns: [a]}\n    keys:", "8: tasks[0].output.columns: has no effect with"),
        ("    keys:", "    output: {order: input}\n    keys:", "8: tasks[0].output.order: has no effect with"),
        (
            "_day: 2",
            "_day: 2, min_output_rows: 5",
            "4: policy.min_output_rows: cannot be checked, because the result of task 't' is a count; remove the limit",
        ),
    ],
)
def test_what_a_count_has_no_use_for(errors: Errors, old: str, new: str, expected: str) -> None:
    starts(errors(ALICE.replace(old, new)), expected)


def test_each_task_that_counts_in_a_broadcast_is_an_error(errors: Errors) -> None:
    text = ALICE.replace("result: count", "broadcast_result: true").replace("name: t", "name: t\n    result: count")
    more = "  - {name: o, result: count, keys: {alice: [id]}, input_path: {alice: a.csv}}\n"
    starts(
        errors(text + more),
        "5: psi.broadcast_result: does not go with `result: count` (line 8); a count goes to the receiver alone",
        "5: psi.broadcast_result: does not go with `result: count` (line 11); a count goes to the receiver alone",
    )


def test_the_path_of_a_party_that_learns_nothing_is_ignored_as_always(load: Load) -> None:
    text = ALICE.replace("    keys:", "    output_path: {bob: out.csv}\n    keys:")
    assert load(text).tasks[0].output_path is None


@pytest.mark.parametrize("limit", ["min_peer_items", "max_runs_per_day"])
def test_a_sender_needs_limits(errors: Errors, limit: str) -> None:
    value = {"min_peer_items": "1000", "max_runs_per_day": "2"}[limit]
    kept = ({"min_peer_items": "1000", "max_runs_per_day": "2"}.keys() - {limit}).pop()
    text = BOB.replace(POLICY, f"policy: {{{kept}: 2}}\n")
    (error,) = errors(text)
    assert error.startswith(f"4: policy.{limit}: is missing, and task 't' tells alice how many items match; ")
    assert error.endswith(f"for example `{limit}: {value}`")


def test_a_sender_without_any_limit_is_told_of_both(errors: Errors) -> None:
    found = errors(BOB.replace(POLICY, ""))
    assert [line.split(": ")[1] for line in found] == ["policy.min_peer_items", "policy.max_runs_per_day"]


def test_the_limits_matter_only_to_the_tasks_that_run(load: Load) -> None:
    rows = "  - {name: r, result: rows, keys: {bob: [id]}, input_path: {bob: in.csv}}\n"
    assert load(BOB.replace(POLICY, "") + rows, only=["r"]).tasks[0].name == "r"
