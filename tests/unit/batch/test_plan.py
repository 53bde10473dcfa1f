"""The plan of a batch: places, order, files that jobs must not share, and remarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_files import job, load, write_jobs
from support.job_files import starts

from psicli.batch.plan import Limits, Plan, make_plan, mergeable, remarks_on
from psicli.core.errors import ArgumentError, PlanError


def plan(folder: Path, jobs: Mapping[str, Any], entries: list[Any] | None = None, only: tuple[str, ...] = ()) -> Plan:
    """Write job files and a batch file that lists them, or these entries; return the plan."""
    write_jobs(folder, jobs)
    listed = [f"{name}.yaml" for name in jobs] if entries is None else entries
    return make_plan(load(folder, yaml.safe_dump({"jobs": listed})), only)


def faults(folder: Path, jobs: Mapping[str, Any], entries: list[Any] | None = None) -> list[str]:
    with pytest.raises(PlanError) as caught:
        plan(folder, jobs, entries)
    assert caught.value.code == 78
    return caught.value.message.replace(f"{folder}/", "").splitlines()


def order(found: Plan) -> dict[str, tuple[str, ...]]:
    return {each.name: each.after for each in found.jobs}


# Places -------------------------------------------------------------------------------------------------------------


def test_a_listener_has_its_port_and_a_dialer_its_connection(tmp_path: Path) -> None:
    entries: list[Any] = [
        "bob.yaml",
        {"config": "bob.yaml", "port_offset": 1, "name": "other", "set": {"N": "2"}},
        {"config": "bob.yaml", "party": "bob", "name": "there"},
        {"config": "carol.yaml", "set": {"N": "3"}},
    ]
    jobs = {name: job(f"nightly-{name}", task={"output_path": {"alice": "${N}.csv"}}) for name in ("bob", "carol")}
    jobs["bob"]["tasks"][0]["output_path"]["bob"] = "there.csv"
    write_jobs(tmp_path, jobs)
    found = make_plan(load(tmp_path, yaml.safe_dump({"jobs": entries}), environment={"N": "1"}))
    first, other, there, carol = (each.place for each in found.jobs)
    assert first == carol == "port-18560"
    assert other == "port-18561"
    assert there.startswith("dial-bob-")


def test_the_memory_is_that_of_the_job_file(tmp_path: Path) -> None:
    jobs = {"a": job("a-bob", pipeline={"memory": "1GB"}), "b": job("b-bob", pipeline={"threads": 1})}
    assert [each.memory for each in plan(tmp_path, jobs).jobs] == [1_000_000_000, None]


def test_only_some_jobs(tmp_path: Path) -> None:
    jobs = {name: job(f"{name}-bob") for name in "abc"}
    entries: list[Any] = ["a.yaml", {"config": "b.yaml", "after": ["a-bob"]}, {"config": "c.yaml", "after": ["b-bob"]}]
    found = plan(tmp_path, jobs, entries, only=("c-bob", "b-bob"))
    assert order(found) == {"b-bob": (), "c-bob": ("b-bob",)}
    with pytest.raises(ArgumentError, match="'b-bo' is not a job of this batch") as caught:
        plan(tmp_path, jobs, entries, only=("b-bo",))
    assert (caught.value.code, caught.value.advice) == (2, "Did you mean b-bob?")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("b.yaml", "Give the name of the job: b-bob."),
        ("a-bob,b-bob", "Repeat the option: --only a-bob --only b-bob."),
        ("x", "The jobs are a-bob, b-bob."),
    ],
)
def test_what_is_not_the_name_of_one_job(tmp_path: Path, given: str, advice: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        plan(tmp_path, {name: job(f"{name}-bob") for name in "ab"}, only=(given,))
    assert caught.value.advice == advice


def test_the_defaults_of_the_limits_are_those_of_the_batch_file(tmp_path: Path) -> None:
    batch = plan(tmp_path, {"a": job("a-bob")}).batch
    of_file = Limits(
        batch.max_jobs, batch.memory, batch.deadline, batch.retries, batch.retry_wait, batch.rendezvous,
        batch.lock_timeout, not batch.keep_going,
    )  # fmt: skip
    assert of_file == Limits()


# Files --------------------------------------------------------------------------------------------------------------


def with_files(name: str, read: str, write: str) -> dict[str, Any]:
    return job(name, task={"input_path": {"alice": read}, "output_path": {"alice": write}})


def test_two_jobs_write_one_output(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    jobs = {
        "a": with_files("a-bob", "in.csv", "out/x.csv"),
        "b": with_files("b-bob", "in.csv", "link/../out/./x.csv"),
        "c": with_files("c-bob", "in.csv", "link/x.csv"),
    }
    starts(
        faults(tmp_path, jobs),
        "nightly.yaml:3: b-bob: task t writes link/../out/x.csv, which task t of a-bob writes too; give",
        "nightly.yaml:4: c-bob: task t writes link/x.csv, which task t of b-bob writes too; give",
    )


def test_the_same_job_twice(tmp_path: Path) -> None:
    jobs = {"a": with_files("a-bob", "in.csv", "out.csv")}
    starts(faults(tmp_path, jobs, ["a.yaml", "a.yaml"]), "nightly.yaml:3: a-bob-2: task t writes out.csv, which task t")


@pytest.mark.parametrize(
    ("written", "what"),
    [("b.csv", "which is a TLS file of b-bob"), ("job.csv", "which is the job file of b-bob"),
     ("batch.csv", "which is the batch file")],
)  # fmt: skip
def test_an_output_must_not_replace_a_file_of_the_batch(tmp_path: Path, written: str, what: str) -> None:
    tls = {"ca_file": "ca.pem", "certificate_file": "b.csv", "private_key_file": "b.key"}
    second = with_files("b-bob", "in.csv", "other.csv")
    second["cluster"]["tls"] = tls
    jobs = {"a": with_files("a-bob", "in.csv", written), "b": second}
    write_jobs(tmp_path, jobs)
    (tmp_path / "job.csv").symlink_to("b.yaml")
    (tmp_path / "batch.csv").symlink_to("nightly.yaml")
    starts(faults(tmp_path, jobs), f"nightly.yaml:2: a-bob: task t writes {written}, {what}")


@pytest.mark.parametrize(
    ("read", "write", "what"),
    [("-", "out.csv", "reads standard input"), ("in.csv", "-", "writes to standard output")],
)
def test_a_job_with_standard_input_or_output(tmp_path: Path, read: str, write: str, what: str) -> None:
    jobs = {"a": with_files("a-bob", read, write), "b": with_files("b-bob", "in.csv", "b.csv")}
    right = "in a batch, name a file, or run this job alone with `psicli run`"
    assert faults(tmp_path, jobs) == [f"nightly.yaml:2: a-bob: task t {what}; {right}"]


def test_a_job_waits_for_the_job_whose_output_it_reads(tmp_path: Path) -> None:
    jobs = {
        "a": with_files("a-bob", "in.csv", "out/a.csv"),
        "b": with_files("b-bob", "./out/../out/a.csv", "b.csv"),
        "c": with_files("c-bob", "b.csv", "c.csv"),
    }
    assert order(plan(tmp_path, jobs)) == {"a-bob": (), "b-bob": ("a-bob",), "c-bob": ("b-bob",)}


READS_LATER = {"a": with_files("a-bob", "b.csv", "a.csv"), "b": with_files("b-bob", "in.csv", "b.csv")}


def test_a_job_that_reads_the_output_of_a_later_one(tmp_path: Path) -> None:
    what = "reads b.csv, which the later job b-bob writes"
    right = "move b-bob before a-bob, or say with `after` which of the two is first"
    assert faults(tmp_path, READS_LATER) == [f"nightly.yaml:2: a-bob: task t {what}; {right}"]


@pytest.mark.parametrize("read", ["out/", "out/*.csv", "out/2026-01.csv", "out"])
def test_a_job_waits_for_the_job_whose_files_it_reads(tmp_path: Path, read: str) -> None:
    """What per_file writes is known only when the job runs."""
    months, years = with_files("a-bob", "in/", "out/*.csv"), with_files("b-bob", read, "years/*.csv")
    for each in (months, years):
        each["tasks"][0]["per_file"] = True
    assert order(plan(tmp_path, {"a": months, "b": years})) == {"a-bob": (), "b-bob": ("a-bob",)}
    years["tasks"][0]["input_path"] = {"alice": "other/*.csv"}
    assert order(plan(tmp_path, {"a": months, "b": years})) == {"a-bob": (), "b-bob": ()}


@pytest.mark.parametrize("first", ["a", "b"])
def test_after_decides_who_is_first(tmp_path: Path, first: str) -> None:
    entries: list[Any] = ["a.yaml", "b.yaml"]
    entries["ba".index(first)] = {"config": f"{'b' if first == 'a' else 'a'}.yaml", "after": [f"{first}-bob"]}
    found = order(plan(tmp_path, READS_LATER, entries))
    assert found == ({"a-bob": (), "b-bob": ("a-bob",)} if first == "a" else {"a-bob": ("b-bob",), "b-bob": ()})


def test_what_files_say_makes_no_cycle(tmp_path: Path) -> None:
    """d reads what b writes. But b waits for a, and a for d; so d reads what was there before."""
    jobs = {
        "a": with_files("a-bob", "in.csv", "a.csv"),
        "b": with_files("b-bob", "a.csv", "b.csv"),
        "d": with_files("d-bob", "b.csv", "d.csv"),
    }
    entries: list[Any] = [{"config": "a.yaml", "after": ["d-bob"]}, "b.yaml", "d.yaml"]
    assert order(plan(tmp_path, jobs, entries)) == {"a-bob": ("d-bob",), "b-bob": ("a-bob",), "d-bob": ()}


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    jobs = {
        "a": with_files("a-bob", "-", "x.csv"),
        "b": with_files("b-bob", "c.csv", "x.csv"),
        "c": with_files("c-bob", "in.csv", "c.csv"),
    }
    assert len(faults(tmp_path, jobs)) == 3


# Remarks ------------------------------------------------------------------------------------------------------------


def test_jobs_that_would_be_better_as_one(tmp_path: Path) -> None:
    jobs = {name: job(f"{name}-bob") for name in "abc"}
    found = plan(tmp_path, jobs)
    assert [[each.name for each in group] for group in mergeable(found.jobs)] == [["a-bob", "b-bob", "c-bob"]]
    text = "a-bob, b-bob and c-bob, all with bob, could be tasks of one job. They would need one port and start once"
    assert found.remarks == (f"{text}, and psicli would read one input while it exchanges another.",)
    (measured,) = remarks_on(found.jobs, 0.75)
    assert measured.startswith(f"{text}, which saves about 1.5 s of processor time here, and psicli would read")


def test_whether_jobs_on_different_ports_would_be_better_as_one_is_for_a_dry_run(tmp_path: Path) -> None:
    entries = ["a.yaml", {"config": "b.yaml", "port_offset": 1}]
    found = plan(tmp_path, {name: job(f"{name}-bob") for name in "ab"}, entries)
    assert found.remarks == ()
    (measured,) = remarks_on(found.jobs, 0.75)
    assert measured.startswith("a-bob and b-bob, all with bob, could be tasks of one job.")


def test_jobs_that_would_not_be_better_as_one(tmp_path: Path) -> None:
    jobs = {
        "a": job("a-bob"),
        "limited": job("limited-bob", policy={"min_peer_items": 5}),
        "elsewhere": job("elsewhere-bob"),
        "later": job("later-bob"),
    }
    entries: list[Any] = [
        "a.yaml",
        "limited.yaml",
        {"config": "elsewhere.yaml", "port_offset": 1},
        {"config": "later.yaml", "after": ["a-bob"]},
    ]
    assert plan(tmp_path, jobs, entries).remarks == ()


def test_jobs_that_share_a_port_by_chance(tmp_path: Path) -> None:
    jobs = {name: job(f"nightly-{name}") for name in ("bob", "carol")}
    (remark,) = plan(tmp_path, jobs).remarks
    assert remark.startswith(
        "nightly-bob and nightly-carol run in turn on port 18560, with different peers. With ports"
    )
    after: list[Any] = ["bob.yaml", {"config": "carol.yaml", "after": ["nightly-bob"]}]
    assert plan(tmp_path, jobs, after).remarks == ()
