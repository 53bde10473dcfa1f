"""The row `plan` of a check: which ways to run a job it compares, and which one it names as the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_files import job as job_document

from psicli.check import plans
from psicli.check.checklist import Checklist
from psicli.check.estimate import Setting, Size
from psicli.check.plans import Plan, best_of
from psicli.config import load_job
from psicli.session.probe import LinkSpeed

VECTORS = {"receive_items": 1e6, "receive_bins": 50.0, "send_items": 1e6, "send_bins": 50.0}
HERE = Setting({"hash_and_mask": 1e5, "mask": 1e5} | VECTORS, threads=2, cores=2.0, start=0.5)
FAST = LinkSpeed(1e-4, 1e9, 1e9, {"hash_and_mask": 1e5, "mask": 1e5})


def rows(
    folder: Path,
    setting: Setting,
    count: int,
    *,
    tasks: int = 1,
    own: Sequence[dict[str, str]] = (),
    **fields: Any,
) -> tuple[str, dict[str, Any]]:
    """Return the text of the row `plan` for tasks of so many rows, and its figures. own: fields of the first tasks."""
    document = job_document("nightly-bob", **fields)
    document["cluster"]["nodes"][0]["address"] = "10.0.0.1:18560"
    document["cluster"]["tls"] = "insecure"
    (task,) = document["tasks"]
    counts = document["psi"].get("result") == "count"
    outputs = [{} if counts else {"alice": f"{number}.csv"} for number in range(tasks)]
    document["tasks"] = [{**task, "name": f"t{number}", "output_path": each} for number, each in enumerate(outputs)]
    for entry, each in zip(document["tasks"], own, strict=False):
        entry.update(each)
        if each.get("result") == "count":
            entry["output_path"] = {}
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    job = load_job(folder / "job.yaml", variables={})
    size = Size(count, 9 * count, 10 * count, 10 * count, 1e-6 * count)
    found = Checklist("bob")
    seconds = plans.add_estimate(found, job, [(each, size) for each in job.tasks], setting)
    expected, plan = found.rows
    assert (expected.name, plan.name) == ("estimate", "plan")
    assert expected.figures is not None
    assert plan.figures is not None
    assert expected.figures["seconds"] == plan.figures["plans"]["as_is"]["seconds"] == seconds
    assert plan.figures["best"] in plan.figures["plans"]
    return plan.message, dict(plan.figures)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [((10.0, 8.9), "b"), ((10.0, 9.5), "a"), ((1.0, 0.6), "a"), ((5.0, 6.0), "a"), ((9.0, 7.0, 5.0), "c")],
)
def test_another_way_must_be_clearly_better(seconds: tuple[float, ...], best: str) -> None:
    ways = [Plan(name, "", each, 0, 0) for name, each in zip("abc", seconds, strict=False)]
    assert best_of(ways).name == best


def test_a_small_job_is_all_start(tmp_path: Path) -> None:
    text, figures = rows(tmp_path, replace(HERE, link=FAST), 1000)
    assert text.startswith("best as the job file says; the start takes ")
    assert list(figures["plans"]) == ["as_is", "rr22"]


def test_many_small_tasks_stay_in_one_session(tmp_path: Path) -> None:
    text, figures = rows(tmp_path, replace(HERE, link=FAST), 100, tasks=20)
    assert figures["best"] == "as_is"
    assert list(figures["plans"])[:4] == ["as_is", "batch_jobs_1", "batch_jobs_2", "batch_jobs_4"]
    assert "; a job for each task, `psicli batch --jobs 2` (about " in text
    in_turn, two = (figures["plans"][f"batch_jobs_{each}"] for each in (1, 2))
    assert in_turn["seconds"] > 1.9 * two["seconds"] > figures["plans"]["as_is"]["seconds"]
    assert two["memory_bytes"] == 2 * in_turn["memory_bytes"]


def test_jobs_side_by_side_hide_round_trips(tmp_path: Path) -> None:
    far = replace(HERE, start=0.05, link=replace(FAST, round_trip=0.5))
    text, figures = rows(tmp_path, far, 100, tasks=20)
    assert figures["best"] == "batch_jobs_4"
    assert text.startswith("faster: a job for each task, `psicli batch --jobs 4`, which bob must do, too, about ")


def test_all_cores_are_better_than_one(tmp_path: Path) -> None:
    one = replace(HERE.with_threads(1), link=FAST)
    text, figures = rows(tmp_path, one, 200_000)
    assert figures["best"] == "threads_2"
    assert text.startswith("faster: pipeline.threads: 2, about ")


def test_a_link_that_is_the_limit_needs_one_thread(tmp_path: Path) -> None:
    text, figures = rows(tmp_path, replace(HERE, link=replace(FAST, sending=1e5, receiving=1e5)), 200_000)
    assert (figures["best"], figures["limit"]) == ("as_is", "link")
    assert "the link is the limit: more cores or machines would not help" in text
    assert list(figures["plans"]) == ["as_is", "threads_1", "rr22"]


def test_a_slow_peer_is_named(tmp_path: Path) -> None:
    slow = replace(FAST, peer_rates={"hash_and_mask": 1e4, "mask": 1e4})
    text, _ = rows(tmp_path, replace(HERE, link=slow), 200_000)
    assert "the machine of bob is the limit" in text


def test_more_machines_pay_as_far_as_the_link_does(tmp_path: Path) -> None:
    # The link is three times as fast as this machine.
    link = LinkSpeed(1e-4, 8e6, 8e6, {"hash_and_mask": 1e9, "mask": 1e9})
    text, figures = rows(tmp_path, replace(HERE, link=link), 10_000_000)
    assert figures["best"] == "ray"
    machines = int(text.split("pipeline.workers: ray, with ")[1].split()[0])
    assert 2 <= machines <= 4
    on_cluster = replace(HERE.with_machines(4), link=link)
    _, figures = rows(tmp_path, on_cluster, 10_000_000, pipeline={"workers": {"ray": "auto"}})
    assert list(figures["plans"]) == ["as_is", "rr22"]


def test_a_faster_protocol_is_a_decision_of_its_own(tmp_path: Path) -> None:
    """It is named with what it takes, and never hides what else would help."""
    one = replace(HERE.with_threads(1), link=FAST)
    text, figures = rows(tmp_path, one, 200_000)
    assert (figures["best"], figures["best_protocol"]) == ("threads_2", "rr22")
    assert "; with `protocol: rr22` in task t0 of both job files, it takes about " in text
    assert text.endswith(" s, but assumes more (docs/security.md)")
    assert figures["plans"]["rr22"]["needs_peer"]
    assert figures["plans"]["rr22"]["traffic_bytes"] < figures["plans"]["as_is"]["traffic_bytes"] / 2


@pytest.mark.parametrize(
    ("items", "ending"), [(1e6, " s"), (1.5e5, " s, and assumes less (docs/security.md)")], ids=["slower", "as fast"]
)
def test_a_job_with_rr22_hears_of_ecdh(tmp_path: Path, items: float, ending: str) -> None:
    """Where nothing is gained, what assumes less is the better one."""
    slow = {"receive_items": items, "receive_bins": 50.0, "send_items": items, "send_bins": 50.0}
    here = replace(HERE, rates={**HERE.rates, **slow}, link=FAST)
    text, figures = rows(tmp_path, here, 400_000, psi={"receiver": "alice", "protocol": "rr22"})
    assert (figures["best"], figures["best_protocol"]) == ("as_is", "as_is")
    assert "; with `protocol: ecdh` in task t0 of both job files, it takes about " in text
    assert text.endswith(ending)
    assert list(figures["plans"])[-1] == "ecdh"


LIMITS = {"min_peer_items": 1, "max_runs_per_day": 1}


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        # What psi says has no effect on tasks that say something else.
        ("rr22", [{"protocol": "ecdh"}], ["rr22` in task t0"]),
        ("ecdh", [{"protocol": "rr22"}, {"protocol": "rr22"}], ["ecdh` in tasks t0, t1"]),
        ("ecdh", [{}, {"protocol": "rr22"}], ["ecdh` in task t1", "rr22` in task t0"]),
        # With psi.protocol: rr22, the job would be refused.
        ("ecdh", [{}, {"result": "count"}], ["rr22` in task t0"]),
        ("ecdh", [{}] * 5, ["rr22` in every task"]),
        ("ecdh", [{}] * 5 + [{"result": "count"}], ["rr22` in every task with `result: rows`"]),
    ],
)
def test_the_advice_has_an_effect_and_is_not_refused(
    tmp_path: Path, default: str, own: list[dict[str, str]], expected: list[str]
) -> None:
    psi = {"receiver": "alice", "protocol": default}
    link = replace(HERE, link=FAST)
    text, figures = rows(tmp_path, link, 400_000, tasks=len(own), own=own, psi=psi, policy=LIMITS)
    assert [part.split(" of both job files")[0] for part in text.split("; with `protocol: ")[1:]] == expected
    told = [figures["plans"][name]["words"] for name in ("ecdh", "rr22") if name in figures["plans"]]
    assert told == [f"`protocol: {each}" for each in expected]


def test_a_count_has_no_other_protocol(tmp_path: Path) -> None:
    text, figures = rows(
        tmp_path, replace(HERE, link=FAST), 200_000, psi={"receiver": "alice", "result": "count"}, policy=LIMITS
    )
    assert not {"ecdh", "rr22"} & set(figures["plans"])
    assert "rr22" not in text
