"""Batches that are ended, or that lose a process or the disk, and `psicli retry` after them."""

from __future__ import annotations

import pytest
from support.many.batches import (
    ENDS,
    check_failed,
    complete,
    end_a_batch,
    listening,
    not_done,
    process_of,
    wait_for_listeners,
)
from support.many.parties import Deal, Parties, all_done, jobs_of
from support.processes.runner import DIALER, LISTENER, Run, failing_at, free_ports
from support.waiting import wait_until


@pytest.mark.more
@pytest.mark.parametrize("busy", [0, 2], ids=["waiting", "in session"])
@pytest.mark.parametrize("how", ENDS)
def test_a_batch_is_ended(four: Parties, how: str, busy: int) -> None:
    end_a_batch(four, how, busy=busy)


def kill_one(batch: Run, victim: Deal) -> None:
    """Kill the process of a job that waits for its peer, as a system without memory does."""
    wait_for_listeners(batch, 4)
    process = process_of(batch, victim)
    assert process is not None
    process.kill()
    process.wait()


@pytest.mark.more
def test_a_job_whose_process_is_killed_runs_again(four: Parties) -> None:
    mine = four.start_batch(LISTENER, "--jobs=4", "--rendezvous=60")
    victim = four.deals[1]
    kill_one(mine, victim)
    wait_until(lambda: len(listening(mine)) == 4, "the job is started again")
    theirs = four.start_batch(DIALER, "--jobs=4").result()
    result = mine.result()
    all_done(result, theirs)
    assert {name: job["starts"] for name, job in jobs_of(result).items()} == {
        deal.name: 1 + (deal is victim) for deal in four.deals
    }
    assert any(victim.name in line and "SIGKILL" in line for line in result.stderr.splitlines()), result.stderr
    four.check()
    four.nothing_left()


@pytest.mark.more
def test_a_job_whose_process_is_killed_too_often_fails(four: Parties) -> None:
    victim, *others = four.deals
    mine = four.start_batch(LISTENER, "--jobs=4", "--rendezvous=60", "--retries=0")
    kill_one(mine, victim)
    theirs = four.start_batch(DIALER, "--jobs=4", *(f"--only={deal.name}" for deal in others))
    result = mine.result()
    all_done(theirs.result())
    assert result.code != 0
    job = jobs_of(result)[victim.name]
    assert job["state"] == "failed"
    assert "SIGKILL" in job["cause"], job
    four.check(*others)
    # The killed process has left its lock, and its successor removes it.
    four.nothing_left("job")
    complete(four, {LISTENER: [victim.name]})


@pytest.mark.more
def test_a_full_disk(four: Parties) -> None:
    mine = four.start_batch(LISTENER, env=failing_at("output.written:enospc"))
    theirs = four.start_batch(DIALER, "--retries=0").result()
    result = mine.result()
    assert theirs.code in (0, 69, 80), theirs.text
    assert result.code == 74, result.text
    for job in jobs_of(result).values():
        check_failed(job, 74, "no space left on device")
    four.nothing_left()
    complete(four, {LISTENER: not_done(result), DIALER: not_done(theirs)})


@pytest.mark.more
def test_a_disk_that_is_too_small_for_one_of_two(parties: Parties) -> None:
    """It fails neither the other job nor the batch."""
    with free_ports(2) as ports:
        long, short = (
            parties.add(name, LISTENER, DIALER, port, rows=rows)
            for name, port, rows in (("long", ports[0], 4000), ("short", ports[1], 8))
        )
        for party in (LISTENER, DIALER):
            parties.batch(party)
        # No file may be larger than 16 blocks.
        mine = parties.start_batch(LISTENER, before="ulimit -f 16")
        theirs = parties.start_batch(DIALER, "--retries=0").result()
        result = mine.result()
        assert theirs.code in (0, 69, 80), theirs.text
        assert result.code == 74, result.text
        assert "Traceback" not in result.stderr
        check_failed(jobs_of(result)[long.name], 74, "file too large")
        parties.check(short)
        parties.nothing_left()
        complete(parties, {LISTENER: not_done(result), DIALER: not_done(theirs)})
