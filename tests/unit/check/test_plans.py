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
from psicli.check.plans import WORTH, Plan, best_of
from psicli.config import load_job
from psicli.core.errors import in_units
from psicli.session.probe import LinkSpeed

VECTORS = {"receive_items": 1e6, "receive_bins": 50.0, "send_items": 1e6, "send_bins": 50.0}
HERE = Setting({"hash_and_mask": 1e5, "mask": 1e5} | VECTORS, threads=2, cores=2.0, start=0.5)
# A machine on which rr22 gains nothing.
SLOW_VECTORS = {"receive_items": 1e4, "receive_bins": 1.0, "send_items": 1e4, "send_bins": 1.0}
WITHOUT_RR22 = replace(HERE, rates={**HERE.rates, **SLOW_VECTORS})
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
    one = replace(WITHOUT_RR22.with_threads(1), link=FAST)
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
    text, figures = rows(tmp_path, replace(WITHOUT_RR22, link=link), 10_000_000)
    assert figures["best"] == "ray"
    assert text.startswith("faster: pipeline.workers: ray, with ")
    machines = int(text.split("pipeline.workers: ray, with ")[1].split()[0])
    assert 2 <= machines <= 4
    on_cluster = replace(HERE.with_machines(4), link=link)
    _, figures = rows(tmp_path, on_cluster, 10_000_000, pipeline={"workers": {"ray": "auto"}})
    assert list(figures["plans"]) == ["as_is", "rr22"]


def test_a_faster_protocol_comes_right_after_the_verdict(tmp_path: Path) -> None:
    """It is a decision of its own: named with what it takes, and never hides what else would help."""
    text, figures = rows(tmp_path, replace(HERE, link=FAST), 400_000)
    assert (figures["best"], figures["best_protocol"]) == ("as_is", "rr22")
    assert text == (
        "best with ecdh as the job file says; with `protocol: rr22` in task t0 of both job files, it takes about 2.4 s "
        "and 11.6 MB of traffic, instead of 9.5 s and 33.6 MB, but assumes more (docs/security.md); the cores are the "
        "limit"
    )
    text, figures = rows(tmp_path, replace(HERE.with_threads(1), link=FAST), 400_000)
    assert (figures["best"], figures["best_protocol"]) == ("threads_2", "rr22")
    parts = text.split("; ")
    assert [part.split(", ")[0] for part in parts[:2]] == [
        "faster with ecdh: pipeline.threads: 2",
        "with `protocol: rr22` in task t0 of both job files",
    ]
    assert figures["plans"]["rr22"]["needs_peer"]
    assert figures["plans"]["rr22"]["traffic_bytes"] < figures["plans"]["as_is"]["traffic_bytes"] / 2


def test_machines_that_another_protocol_replaces_are_not_the_first_advice(tmp_path: Path) -> None:
    link = LinkSpeed(1e-4, 1e9, 1e9, {"hash_and_mask": 1e9, "mask": 1e9})
    text, figures = rows(tmp_path, replace(HERE, link=link), 10_000_000)
    as_is, machines, rr22 = (figures["plans"][name]["seconds"] for name in ("as_is", "ray", "rr22"))
    assert machines < rr22 < as_is / 5
    assert (figures["best"], figures["best_protocol"]) == ("as_is", "rr22")
    # On its own, a cluster would be better than what the job file says.
    assert text.startswith(
        "best with ecdh on one machine as the job file says; with `protocol: rr22` in task t0 of both job files, "
    )
    assert "; other ways: pipeline.workers: ray, with " in text


@pytest.mark.parametrize("count", [10, 1_000, 10_000, 20_000, 50_000])
def test_a_job_with_rr22_that_is_all_start_hears_of_ecdh(tmp_path: Path, count: int) -> None:
    """Where rr22 hides its cost in the start, too."""
    psi = {"receiver": "alice", "protocol": "rr22"}
    text, figures = rows(tmp_path, replace(HERE, link=FAST), count, psi=psi)
    assert "; the start takes " in text
    ecdh, mine = (figures["plans"][name] for name in ("ecdh", "as_is"))
    assert (
        f" it takes about {ecdh['seconds']:.1f} s and {in_units(ecdh['traffic_bytes'])} of traffic, instead of " in text
    )
    # It comes first, and with a reason, if it takes about as long.
    about_as_long = ecdh["seconds"] < mine["seconds"] + WORTH
    assert text.startswith("best with rr22 as the job file says; with `protocol: ecdh` in task t0 of") == about_as_long
    assert (", and assumes less (docs/security.md); the start takes " in text) == about_as_long


@pytest.mark.parametrize(("count", "told"), [(1_000, False), (200_000, True)])
def test_a_job_with_ecdh_hears_of_rr22_unless_it_saves_nothing(tmp_path: Path, count: int, *, told: bool) -> None:
    """The start is long enough to hide the exchange of both sizes."""
    text, _ = rows(tmp_path, replace(HERE, start=8.0, link=FAST), count)
    assert "the start takes " in text
    assert ("rr22" in text) == told


@pytest.mark.parametrize(("items", "reason"), [(1e6, ""), (1.5e5, ", and assumes less (docs/security.md)")])
def test_a_job_with_rr22_hears_of_ecdh(tmp_path: Path, items: float, reason: str) -> None:
    """Where nothing is gained, what assumes less is the better one."""
    slow = {"receive_items": items, "receive_bins": 50.0, "send_items": items, "send_bins": 50.0}
    here = replace(HERE, rates={**HERE.rates, **slow}, link=FAST)
    text, figures = rows(tmp_path, here, 400_000, psi={"receiver": "alice", "protocol": "rr22"})
    assert (figures["best"], figures["best_protocol"]) == ("as_is", "as_is")
    of_ecdh = "; with `protocol: ecdh` in task t0 of both job files, it takes about 9.5 s and 33.6 MB of traffic, "
    assert of_ecdh in text
    assert text.partition(of_ecdh)[2].partition(" and 11.6 MB")[2].partition(";")[0] == reason
    assert text.startswith(f"best{' with rr22' if reason else ''} as the job file says; ")
    assert list(figures["plans"])[-1] == "ecdh"


LIMITS = {"min_peer_items": 1, "max_runs_per_day": 1}


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        # What psi says has no effect on tasks that say something else.
        ("rr22", [{"protocol": "ecdh"}], ["rr22` in task t0"]),
        ("ecdh", [{"protocol": "rr22"}, {"protocol": "rr22"}], ["ecdh` in tasks t0, t1"]),
        ("ecdh", [{}, {"protocol": "rr22"}], ["rr22` in task t0", "ecdh` in task t1"]),
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
    told = {figures["plans"][name]["words"] for name in ("ecdh", "rr22") if name in figures["plans"]}
    assert told == {f"`protocol: {each}" for each in expected}


def test_a_protocol_that_cannot_run_here_is_no_advice(tmp_path: Path) -> None:
    points = {name: rate for name, rate in HERE.rates.items() if name not in VECTORS}
    text, figures = rows(tmp_path, replace(HERE, rates=points, link=FAST), 400_000)
    assert "rr22" not in {*figures["plans"], *text.split()}
    assert figures["best_protocol"] == "as_is"


def test_a_count_has_no_other_protocol(tmp_path: Path) -> None:
    text, figures = rows(
        tmp_path, replace(HERE, link=FAST), 200_000, psi={"receiver": "alice", "result": "count"}, policy=LIMITS
    )
    assert not {"ecdh", "rr22"} & set(figures["plans"])
    assert "rr22" not in text
