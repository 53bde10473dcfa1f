"""What limits a batch: memory, time, and the failure of one of its jobs."""

from __future__ import annotations

import json

import pytest
from support.many.batches import BAD, check_failed, wait_for_listeners
from support.many.parties import SOON, Parties, all_done, jobs_of
from support.processes.expectations import failed
from support.processes.runner import DIALER, LISTENER, PARTIES, free_ports

# A budget of which two fit into a batch's memory.
BUDGET, BOTH = {"pipeline": {"memory": "400MB"}}, "900MB"


@pytest.mark.more
def test_budgets_that_do_not_fit_are_queued(parties: Parties) -> None:
    with free_ports(12) as ports:
        for number, port in enumerate(ports):
            parties.add(f"job-{number}", LISTENER, DIALER, port, own={LISTENER: BUDGET})
        for party in PARTIES:
            parties.batch(party)
        mine = parties.start_batch(LISTENER, "--jobs=12", f"--memory={BOTH}", "--rendezvous=60")
        mine.wait_for("800.0 MB of 900.0 MB of memory are promised to 2 jobs")
        theirs = parties.start_batch(DIALER, "--jobs=12")
        result = mine.result()
        all_done(result, theirs.result())
        assert json.loads(result.stdout)["most_jobs"] == 2
        parties.check()
        parties.nothing_left()


def test_a_budget_that_does_not_fit_alone(four: Parties) -> None:
    """The batch ends before it starts any process."""
    port = four.deals[0].port
    four.add("large", LISTENER, DIALER, port, own={LISTENER: {"pipeline": {"memory": "2GB"}}})
    four.batch(LISTENER)
    result = four.start(LISTENER, "batch", four.folder / LISTENER / "batch.yaml", "--memory=1GB").result()
    failed(result, 78, "large.*2.0 GB")
    assert "listening" not in result.stderr
    four.nothing_left()


def with_a_bad_input(parties: Parties) -> None:
    """Give alice's second job a bad input, and let each further job wait for one of the first two."""
    good, bad, *rest = parties.deals
    after = [
        {"config": f"jobs/{deal.name}.yaml", "after": [first.name]}
        for deal, first in zip(rest, (bad, good), strict=True)
    ]
    parties.batch(LISTENER, [good.name, bad.name, *after])
    parties.input(bad, LISTENER).write_bytes(BAD)


@pytest.mark.more
def test_the_others_go_on_after_a_failure(four: Parties) -> None:
    good, bad, after_bad, after_good = four.deals
    with_a_bad_input(four)
    four.batch(DIALER, [deal.name for deal in four.deals if deal is not after_bad])
    mine, theirs = (four.start_batch(party) for party in PARTIES)
    result, other = mine.result(), theirs.result()
    jobs = jobs_of(result)
    assert result.code == 65, result.text
    check_failed(jobs[bad.name], 65, "in/job-1.csv:2: the row has 3 fields")
    assert (jobs[after_bad.name]["state"], jobs[after_bad.name]["exit_code"]) == ("not run", None)
    assert bad.name in jobs[after_bad.name]["cause"]
    assert other.code == 80, other.text
    check_failed(jobs_of(other)[bad.name], 80, "alice failed")
    assert "zq7" not in result.text + other.text
    four.check(good, after_good)
    assert not four.output(after_bad, LISTENER).exists()
    four.nothing_left()


@pytest.mark.more
def test_no_job_starts_after_the_first_failure(four: Parties) -> None:
    bad, *rest = four.deals
    four.input(bad, LISTENER).write_bytes(BAD)
    mine = four.start_batch(LISTENER, "--fail-fast", "--jobs=1", "--rendezvous=60")
    theirs = four.start_job(bad, DIALER)
    result = mine.result()
    assert theirs.result().code == 80
    jobs = jobs_of(result)
    assert result.code == 65, result.text
    check_failed(jobs[bad.name], 65, "in/job-0.csv:2: the row has 3 fields")
    assert {jobs[deal.name]["state"] for deal in rest} == {"not run"}
    four.nothing_left()


@pytest.mark.more
def test_jobs_that_wait_for_their_peers_end_with_the_first_failure(four: Parties) -> None:
    bad, *rest = four.deals
    four.input(bad, LISTENER).write_bytes(BAD)
    mine = four.start_batch(LISTENER, "--fail-fast", "--jobs=4", "--rendezvous=60")
    wait_for_listeners(mine, 4)
    theirs = four.start_job(bad, DIALER)
    result = mine.result()
    assert theirs.result().code == 80
    jobs = jobs_of(result)
    assert result.code == 65, result.text
    assert {(jobs[deal.name]["state"], jobs[deal.name]["cause"]) for deal in rest} == {
        ("not run", "another job has failed")
    }
    four.nothing_left()


@pytest.mark.more
def test_a_deadline(four: Parties) -> None:
    """What waits for its peer or for a place at the deadline does not run."""
    batch = four.start_batch(LISTENER, "--jobs=3", "--rendezvous=60", "--deadline=2s")
    result = batch.result()
    assert 2.0 < result.ended - batch.started < 2.0 + SOON
    assert result.code == 75, result.text
    for job in jobs_of(result).values():
        assert job["state"] in ("not run", "failed")
        assert "deadline" in job["cause"], job
    four.nothing_left()
