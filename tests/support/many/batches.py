"""What tests of batches wait for, and what they check of their ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import psutil
from support.many.parties import Deal, Parties, all_done, jobs_of
from support.processes.expectations import succeeded
from support.processes.runner import DIALER, HELD, LISTENER, PARTIES, Result, Run
from support.waiting import wait_until

# How a batch is ended, and its exit code.
ENDS = {
    "SIGTERM": ([signal.SIGTERM], 143),
    "SIGINT": ([signal.SIGINT], 130),
    "SIGINT twice": ([signal.SIGINT, signal.SIGINT], 130),
    "SIGKILL": ([signal.SIGKILL], -signal.SIGKILL),
}
# The ends at which a batch itself cleans up nothing.
HASTY = {"SIGINT twice", "SIGKILL"}
# The rows of an input whose second line is no row of two fields.
BAD = b"id,of\nzq7-1,alice,more\n"


def children(batch: Run) -> list[psutil.Process]:
    """Return the processes below a batch, none if it has ended."""
    try:
        return psutil.Process(batch.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _those(batch: Run, are: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for each in children(batch):
        # Of what has ended and was not reaped, only root may see the connections.
        with suppress(psutil.Error):
            if are(each):
                found.append(each)
    return found


def process_of(batch: Run, deal: Deal) -> psutil.Process | None:
    """Return the process that a batch has for a job now."""
    end = f"jobs/{deal.name}.yaml"
    found = _those(batch, lambda each: any(argument.endswith(end) for argument in each.cmdline()))
    return found[0] if found else None


def listening(batch: Run) -> list[psutil.Process]:
    """Return the processes of a batch that wait for a peer."""
    return _those(batch, lambda each: any(at.status == psutil.CONN_LISTEN for at in each.net_connections("tcp")))


def stopped(batch: Run) -> list[psutil.Process]:
    """Return the processes of a batch that a failpoint has stopped."""
    return _those(batch, lambda each: bool(each.status() == psutil.STATUS_STOPPED))


def wait_for_listeners(batch: Run, count: int) -> None:
    wait_until(lambda: len(listening(batch)) == count or not batch.lasts(0), f"{count} jobs wait for their peers")
    assert batch.lasts(0), batch.result().text


def rounds(parties: Parties, number: int) -> None:
    """Run all jobs of two parties at once, several times on the same ports."""
    for _ in range(number):
        parties.next_night()
        batches = [parties.start_batch(party, f"--jobs={len(parties.deals)}") for party in PARTIES]
        all_done(*(batch.result() for batch in batches))
        parties.check()
        parties.nothing_left()


def not_done(result: Result) -> set[str]:
    """Return the jobs that a batch has not completed, according to its report."""
    return {name for name, job in jobs_of(result).items() if job["state"] != "done"}


def recorded(parties: Parties, party: str) -> set[str]:
    """Return the jobs that `psicli retry` would run, according to the state folder."""
    result = parties.start(party, "retry", "--dry-run", "--json").result()
    assert result.code == 0, result.text
    return {job["name"] for job in json.loads(result.stdout)["jobs"]}


def complete(parties: Parties, to_do: Mapping[str, Collection[str]]) -> None:
    """Check that `psicli retry` does what each party has to do again, and that then all is done and nothing is left.

    A party for which a job is done, or which has had no batch, runs it alone to serve the other one.
    """
    retries = [parties.start(party, "retry", "--json", "--deadline=50s") for party, names in to_do.items() if names]
    servants = [
        parties.start_job(deal, party)
        for deal in parties.deals
        for party, peer in (deal.parties, deal.parties[::-1])
        if deal.name in to_do.get(peer, ()) and deal.name not in to_do.get(party, ())
    ]
    all_done(*(retry.result() for retry in retries))
    succeeded(servant.result() for servant in servants)
    parties.check()
    parties.nothing_left()


def end_a_batch(parties: Parties, how: str, *, busy: int) -> None:
    """End a batch of four jobs and let `psicli retry` go on.

    One job is queued. busy: how many of the others are in session; the rest waits for its peers.
    """
    numbers, code = ENDS[how]
    batch = parties.start_batch(LISTENER, "--jobs=3", "--rendezvous=60")
    wait_for_listeners(batch, 3)
    running = [deal for deal in parties.deals if process_of(batch, deal)]
    peers = [parties.start_job(deal, DIALER, env=HELD) for deal in running[:busy]]
    for peer in peers:
        peer.wait_until_stopped()
    for number in numbers:
        batch.send(number)
    result = batch.result()
    assert result.code == code, result.text
    assert "Traceback" not in result.stderr
    for peer in peers:
        peer.send(signal.SIGCONT)
        assert peer.result().code == 69
    parties.nothing_left("batch" if how in HASTY else "")
    complete(parties, {LISTENER: [deal.name for deal in parties.deals]})


def check_failed(job: dict[str, object], code: int, cause: str) -> None:
    """Check that a report names a job's failure."""
    assert (job["state"], job["exit_code"]) == ("failed", code), job
    assert cause in str(job["cause"]), job


def check_refused(batch: Run, party: str) -> None:
    """Check that each job of a batch names the job that has its place."""
    result = batch.result()
    assert result.code == 75, result.text
    assert "Traceback" not in result.stderr
    for name, job in jobs_of(result).items():
        check_failed(job, 75, f"is in use by job {name} of {party} (pid ")
