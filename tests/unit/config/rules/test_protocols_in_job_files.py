"""Tasks with `protocol: rr22` in job files: which tasks have it, and what it does not go with."""

from __future__ import annotations

import pytest
from support.job_files import Errors, Load, starts

JOB = """\
job: j
self_party: alice
cluster: {nodes: [{party: alice, address: "127.0.0.1:9000"}, {party: bob}]}
psi: {receiver: alice, protocol: rr22}
tasks:
  - name: t
    keys: {alice: [id], bob: [id]}
    input_path: {alice: in.csv, bob: in.csv}
    output_path: {alice: out.csv}
"""
OTHER = "  - {name: o, protocol: ecdh, keys: {alice: [id]}, input_path: {alice: a.csv}, output_path: {alice: b.csv}}\n"


def test_by_default_items_are_compared_by_ecdh(load: Load) -> None:
    assert load(JOB.replace(", protocol: rr22", "")).tasks[0].protocol == "ecdh"


def test_a_task_overrides_the_job(load: Load) -> None:
    assert [task.protocol for task in load(JOB + OTHER).tasks] == ["rr22", "ecdh"]
    swapped = (JOB + OTHER).replace("protocol: ecdh", "protocol: rr").replace("rr22", "ecdh").replace("rr,", "rr22,")
    assert [task.protocol for task in load(swapped).tasks] == ["ecdh", "rr22"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("kkrt", "is the text 'kkrt'; give ecdh or rr22"),
        ("''", "is empty; give ecdh or rr22"),
        ("ecdh2", "is the text 'ecdh2'; give ecdh or rr22, as in `protocol: ecdh`"),
        ("PROTOCOL_ECDH", "is the text 'PROTOCOL_ECDH'; give ecdh or rr22, as in `protocol: ecdh`"),
        ("RR22", "is the text 'RR22'; give ecdh or rr22, as in `protocol: rr22`"),
        ("rr-22", "is the text 'rr-22'; give ecdh or rr22, as in `protocol: rr22`"),
        ("PROTOCOL_RR22", "is the text 'PROTOCOL_RR22'; give ecdh or rr22, as in `protocol: rr22`"),
        ("[rr22]", "is a list; give ecdh or rr22"),
    ],
)
def test_an_unknown_protocol(errors: Errors, given: str, expected: str) -> None:
    """The message names both, whichever of them was meant."""
    assert errors(JOB.replace("protocol: rr22", f"protocol: {given}"))[0] == f"4: psi.protocol: {expected}"
    in_task = JOB.replace(", protocol: rr22", "").replace("name: t", f"name: t\n    protocol: {given}")
    assert errors(in_task)[0] == f"7: tasks[0].protocol: {expected}"


LIMITS = "policy: {min_peer_items: 1000, max_runs_per_day: 2}\n"
# Bob is the sender of the count.
COUNT = (JOB + LIMITS).replace("    output_path: {alice: out.csv}\n", "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("policy: {", "protocol: rr22\npolicy: {", "10: protocol: "),
        ("policy: {", "pipeline: {protocol: rr22}\npolicy: {", "10: pipeline.protocol: "),
        ("policy: {", "policy: {protocol: rr22, ", "10: policy.protocol: "),
        ("{nodes: ", "{protocol: rr22, nodes: ", "3: cluster.protocol: "),
        ("    keys:", "    output: {protocol: rr22}\n    keys:", "7: tasks[0].output.protocol: "),
    ],
    ids=["top level", "pipeline", "policy", "cluster", "output"],
)
def test_a_protocol_in_the_wrong_section(errors: Errors, old: str, new: str, expected: str) -> None:
    right = "unknown field; it belongs under `psi`, or in an entry of `tasks`; the fields here are "
    starts(errors((JOB + LIMITS).replace(old, new))[:1], expected + right)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "rr22}",
            "rr22, result: count}",
            "4: psi.protocol: rr22 does not go with `result: count` (line 4); a count needs ecdh; in psi, set "
            "`protocol: ecdh`, or `result: rows`",
        ),
        (
            "name: t",
            "name: t\n    result: count",
            "4: psi.protocol: rr22 does not go with `result: count` (line 7); a count needs ecdh; give task 't' "
            "`protocol: ecdh`, or `result: rows`",
        ),
        (
            "protocol: rr22}\ntasks:\n  - name: t",
            "result: count}\ntasks:\n  - name: t\n    protocol: rr22",
            "7: tasks[0].protocol: rr22 does not go with `result: count` (line 4); a count needs ecdh; give "
            "task 't' `protocol: ecdh`, or `result: rows`",
        ),
    ],
    ids=["of the job", "of a task", "the protocol of a task"],
)
@pytest.mark.parametrize("party", ["alice", "bob"])
def test_there_is_no_count(errors: Errors, party: str, old: str, new: str, expected: str) -> None:
    assert errors(COUNT.replace(old, new), party=party) == [expected]


MORE = "  - {name: o, keys: {alice: [id]}, input_path: {alice: a.csv}}\n"


def test_every_task_whose_count_needs_ecdh_is_an_error(errors: Errors) -> None:
    """One for all tasks if psi has both terms, and otherwise one for each task, with its line."""
    both = COUNT.replace("rr22}", "rr22, result: count}").replace(LIMITS, MORE + LIMITS)
    assert errors(both) == [
        "4: psi.protocol: rr22 does not go with `result: count` (line 4); a count needs ecdh; in psi, set "
        "`protocol: ecdh`, or `result: rows`"
    ]
    each = COUNT.replace("name: t", "name: t\n    result: count")
    each = each.replace(LIMITS, MORE.replace("name: o", "name: o, result: count") + LIMITS)
    assert errors(each) == [
        f"4: psi.protocol: rr22 does not go with `result: count` (line {line}); a count needs ecdh; give task "
        f"'{name}' `protocol: ecdh`, or `result: rows`"
        for name, line in (("t", 7), ("o", 10))
    ]
    of_tasks = each.replace(", protocol: rr22", "").replace("result: count", "protocol: rr22, result: count")
    of_tasks = of_tasks.replace("    protocol: rr22, ", "    protocol: rr22\n    ")
    assert errors(of_tasks) == [
        f"{line}: tasks[{number}].protocol: rr22 does not go with `result: count` (line {of_result}); a count needs "
        f"ecdh; give task '{name}' `protocol: ecdh`, or `result: rows`"
        for number, (name, line, of_result) in enumerate([("t", 7, 8), ("o", 11, 11)])
    ]


def test_a_task_that_counts_beside_others(load: Load) -> None:
    count = OTHER.replace("output_path: {alice: b.csv}", "result: count")
    assert [(task.protocol, task.result) for task in load(JOB + count).tasks] == [("rr22", "rows"), ("ecdh", "count")]
