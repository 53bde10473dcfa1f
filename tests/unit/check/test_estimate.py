"""The model of time: what each part of a run depends on, and what limits the exchange."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_files import job as job_document

from psicli.check import estimate
from psicli.check.estimate import FIXED, READING, RESULT, TASK, WAITING, Limit, Setting, Size, Time, apart, time_of
from psicli.config import Job, load_job
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.session.probe import LinkSpeed

# Two cores that mask 100,000 points per second.
VECTORS = {"receive_items": 1e6, "receive_bins": 50.0, "send_items": 2e6, "send_bins": 50.0}
HERE = Setting({"hash_and_mask": 1e5, "mask": 1e5} | VECTORS, threads=2, cores=2.0, start=0.5)
ROWS = 100_000
# Links of 8 Mbit/s in both directions, and in one of them.
SLOW = LinkSpeed(0.0, 1e6, 1e6)
SLOW_THERE, SLOW_BACK = replace(SLOW, receiving=1e9), replace(SLOW, sending=1e9)


def job(folder: Path, address: str = "10.0.0.1:18560", *, tasks: int = 1, **fields: Any) -> Job:
    """Return a job of two machines, or of one if the address is on loopback."""
    document = job_document("nightly-bob", **fields)
    document["cluster"]["nodes"][0]["address"] = address
    if not address.startswith("127."):
        document["cluster"]["tls"] = "insecure"
    (task,) = document["tasks"]
    outputs = [{party: f"{number}-{path}" for party, path in task["output_path"].items()} for number in range(tasks)]
    document["tasks"] = [{**task, "name": f"t{number}", "output_path": each} for number, each in enumerate(outputs)]
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_job(path, variables={})


def time(job: Job, setting: Setting = HERE, rows: int = ROWS, seconds: float = 0.0) -> Time:
    return time_of(job, [(task, Size(rows, 9 * rows, 10 * rows, 10 * rows, seconds)) for task in job.tasks], setting)


def test_the_parts_of_a_run(tmp_path: Path) -> None:
    found = time(job(tmp_path), seconds=0.2)
    assert found.start == pytest.approx(FIXED * HERE.start + WAITING)
    assert found.reading == pytest.approx(READING * 0.2)
    assert found.result == pytest.approx(RESULT * found.reading)
    # Each party masks its own items and those of the other one.
    assert found.exchange > 2.0
    assert found.limit is Limit.CORES
    assert found.seconds == found.start + found.reading + found.exchange + found.result


def test_a_party_that_gets_no_result_does_not_write_it(tmp_path: Path) -> None:
    assert time(job(tmp_path, psi={"receiver": "bob"}), seconds=0.2).result == 0


def test_parties_on_one_machine_share_its_cores(tmp_path: Path) -> None:
    alone, together = time(job(tmp_path)), time(job(tmp_path, "127.0.0.1:18560"))
    assert together.exchange == pytest.approx(2 * alone.exchange, rel=0.05)
    assert together.start == alone.start
    # On a single core, even the starts are one after the other.
    one = replace(HERE, cores=1.0)
    assert time(job(tmp_path, "127.0.0.1:18560"), one).start > 1.5 * alone.start


def test_a_thread_takes_longer_than_two(tmp_path: Path) -> None:
    assert HERE.with_threads(1).rates["mask"] == 0.5e5
    assert HERE.with_threads(2) == HERE
    # There are no more cores.
    assert HERE.with_threads(8).rates == HERE.rates
    slower = time(job(tmp_path), HERE.with_threads(1))
    assert slower.exchange == pytest.approx(2 * time(job(tmp_path)).exchange, rel=0.05)


@pytest.mark.parametrize(
    ("receiver", "link", "size"),
    [("alice", SLOW, 48), ("alice", SLOW_THERE, 32), ("alice", SLOW_BACK, 48), ("bob", SLOW_THERE, 48)],
)
def test_a_slow_link_is_the_limit_in_its_slower_direction(
    tmp_path: Path, receiver: str, link: LinkSpeed, size: int
) -> None:
    found = time(job(tmp_path, psi={"receiver": receiver}), replace(HERE, link=link))
    assert found.limit is Limit.LINK
    assert found.link == pytest.approx(size * ROWS / 1e6)
    # What cannot overlap is a frame at each end.
    assert found.link < found.exchange < found.link + 1
    assert time(job(tmp_path), replace(HERE, link=SLOW), rows=1).exchange < 0.1


def test_round_trips_count_for_each_task(tmp_path: Path) -> None:
    far = replace(HERE, link=LinkSpeed(0.1))
    one, five = (time(job(tmp_path, tasks=tasks), far).seconds for tasks in (1, 5))
    near_one, near_five = (time(job(tmp_path, tasks=tasks)).seconds for tasks in (1, 5))
    assert one - near_one == pytest.approx(1.1)
    assert five - near_five == pytest.approx(1.1 + 4 * 0.4)


def test_a_slower_peer_is_the_limit_but_not_if_it_is_the_same_machine(tmp_path: Path) -> None:
    slow = LinkSpeed(0.0, peer_rates={"hash_and_mask": 1e4, "mask": 1e4})
    found = time(job(tmp_path), replace(HERE, link=slow))
    assert (found.limit, found.exchange) == (Limit.PEER, pytest.approx(20))
    assert time(job(tmp_path, "127.0.0.1:18560"), replace(HERE, link=slow)).limit is Limit.CORES


def test_reading_further_inputs_can_be_the_limit(tmp_path: Path) -> None:
    found = time(job(tmp_path, tasks=3), replace(HERE, cores=16.0), rows=10, seconds=5.0)
    assert found.limit is Limit.READING
    assert found.exchange == pytest.approx(2 * READING * 5, rel=0.1)


def test_machines_of_a_cluster_compute(tmp_path: Path) -> None:
    found = time(job(tmp_path), HERE.with_machines(4))
    assert found.limit is Limit.CORES
    assert found.exchange == pytest.approx(0.5, rel=0.1)


def test_jobs_apart_start_each_for_itself(tmp_path: Path) -> None:
    whole = job(tmp_path, tasks=4)
    tasks = [(task, Size(100, 900, 1000, 1000)) for task in whole.tasks]
    in_turn, side_by_side = (apart(whole, tasks, HERE, at_once=each) for each in (1, 2))
    assert in_turn == pytest.approx(4 * time_of(whole, tasks[:1], HERE).seconds)
    assert in_turn / 2 <= side_by_side < in_turn
    assert time_of(whole, tasks, HERE).seconds < side_by_side
    # No number of jobs at a time makes the cores faster.
    least = 4 * time_of(whole, tasks[:1], HERE).processor / HERE.cores
    assert apart(whole, tasks, HERE, at_once=100) >= least


def test_an_estimate_has_the_time_and_the_needs(tmp_path: Path) -> None:
    whole = job(tmp_path)
    tasks = [(whole.tasks[0], Size(ROWS, 9 * ROWS, 10 * ROWS, 10 * ROWS))]
    found = estimate.of_job(whole, tasks, HERE)
    assert found.seconds == time(whole).seconds
    assert found.traffic == estimate.PAIR_BYTES * ROWS
    assert found.memory > 200_000_000


# A task whose bins are exchanged by rr22 ---------------------------------------------------------------------------

RECEIVER = {"receiver": "alice", "protocol": "rr22"}


def test_the_parties_take_turns_in_the_only_bin(tmp_path: Path) -> None:
    """One thread alone does part of the work, so two are not twice as fast."""
    found = time(job(tmp_path, psi=RECEIVER))
    receiver, sender = ROWS / 1e6 + 1 / 50, ROWS / 2e6 + 1 / 50
    assert found.limit is Limit.CORES
    assert found.exchange == pytest.approx((receiver + sender) * 1.5)
    # The processor time is that of the party's own role.
    ecdh = time(job(tmp_path))
    assert found.processor - ecdh.processor == pytest.approx(2 * (receiver - ROWS / 1e5 * 2))
    assert time(job(tmp_path, psi={**RECEIVER, "receiver": "bob"})).exchange == found.exchange


def test_several_bins_overlap(tmp_path: Path) -> None:
    rows = 2_000_000
    one, many = (
        time(job(tmp_path, psi=RECEIVER, pipeline={"bin_items": each, "memory": "8GB"}), rows=rows)
        for each in (1 << 21, 1 << 19)
    )
    assert many.exchange < 0.85 * one.exchange


@pytest.mark.parametrize(
    ("receiver", "link", "least"), [("alice", SLOW_THERE, 17), ("alice", SLOW_BACK, 9), ("bob", SLOW_THERE, 9)]
)
def test_the_data_of_rr22_on_a_slow_link(tmp_path: Path, receiver: str, link: LinkSpeed, least: int) -> None:
    rows = 1_000_000
    found = time(job(tmp_path, psi={**RECEIVER, "receiver": receiver}), replace(HERE, link=link), rows=rows)
    assert found.limit is Limit.LINK
    assert least * rows / 1e6 < found.link < (least + 2) * rows / 1e6


def test_the_traffic_of_rr22(tmp_path: Path) -> None:
    """It is that of the sizes of an attempt, which the issue bounds by 31 bytes a pair."""
    whole, rows = job(tmp_path, psi=RECEIVER, pipeline={"bin_items": 1 << 20}), 1_000_000
    tasks = [(whole.tasks[0], Size(rows, 9 * rows, 10 * rows, 10 * rows))]
    of_bin = sizes(rows)
    blocks = of_bin.keys + of_bin.choices + of_bin.sums + of_bin.vector
    traffic = estimate.of_job(whole, tasks, HERE).traffic
    assert traffic == 16 * blocks + token_bytes(rows, rows) * rows
    assert 28 * rows < traffic < 31 * rows


def test_round_trips_of_a_bin_of_rr22(tmp_path: Path) -> None:
    far, near = (time(job(tmp_path, psi=RECEIVER), replace(HERE, link=each)).seconds for each in (LinkSpeed(0.1), None))
    assert far - near == pytest.approx(1.3)


def test_rr22_uses_one_machine_of_a_cluster(tmp_path: Path) -> None:
    of_rr22 = job(tmp_path, psi=RECEIVER)
    assert time(of_rr22, HERE.with_machines(4)) == time(of_rr22)


def test_no_items_need_no_bin_of_rr22(tmp_path: Path) -> None:
    found = time(job(tmp_path, psi=RECEIVER), replace(HERE, link=SLOW), rows=0)
    assert (found.exchange, found.link) == (pytest.approx(TASK * HERE.start / 2), 0.0)
