"""Pages of real runs: of the sample job, of a batch in which two of twelve jobs fail, and of ninety nights."""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from support.browser.facts import many_tasks
from support.history.data import ANOMALIES, series
from support.history.ledgers import write_ledger
from support.many.parties import Parties
from support.processes.runner import Run, free_ports

from psicli.report.history.series import Night, Series

ROOT = Path(__file__).parents[3]
# The peers of the batch in turn, and its jobs.
PEERS = ("bob", "carol", "dave")
JOBS = (
    "customers-north", "customers-south", "customers-east", "customers-west", "orders", "suppliers", "returns",
    "newsletter", "warranty", "accounts", "claims", "devices",
)  # fmt: skip
# The first has no input, and the peer of the second never comes.
MISSING, ALONE = "orders", "warranty"
# All have the jobs in the same order, so that nobody has to start one again.
TERMS = {"retries": 0, "rendezvous": "10m"}
# Thirty processes take a while on a busy machine [s].
MOST = 240.0
# What goes wrong in the nights of the history, by the number of the night.
NIGHTS = 90
FAULTS = {35: "half the rows", 48: "no matches", 63: "doubled items", 77: "slow"}


def simulation(folder: Path) -> Path:
    """Return the page of a simulation of the sample job."""
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    for party in ("airline", "registry"):
        (folder / "demo-out" / party).mkdir(parents=True)
    page = folder / "simulation.html"
    _run(folder, 0, "simulate", folder / "sample_data" / "job.yaml", "--report", page)
    return page


def batch(folder: Path, rows: int = 1000) -> Path:
    """Return the page of a batch of twelve jobs with three peers; two jobs fail."""
    parties = Parties(folder)
    page = folder / "batch.html"
    try:
        with free_ports(len(JOBS)) as ports:
            for number, (name, port) in enumerate(zip(JOBS, ports, strict=True)):
                if name != ALONE:
                    deal = parties.add(name, "alice", PEERS[number % len(PEERS)], port, rows=rows)
                    for party in deal.parties:
                        _be_patient(parties.job_file(deal, party), 12_000)
            ours = parties.batch("alice", [*JOBS], batch="nightly", **TERMS)
            lone = parties.add(ALONE, "erin", "alice", ports[JOBS.index(ALONE)])
            _be_patient(parties.job_file(lone, "alice"), 5)
            parties.input(next(deal for deal in parties.deals if deal.name == MISSING), "alice").unlink()
            for party in PEERS:
                parties.batch(party, **TERMS)
            runs = [parties.start(party, "batch", folder / party / "batch.yaml", "--quiet") for party in PEERS]
            run = parties.start("alice", "batch", ours, "--quiet", "--report", page)
            run.lasts(MOST)
            assert run.result().code == 66, run.result().text
            for each in runs:
                each.result()
    finally:
        parties.kill()
    return page


def _be_patient(path: Path, attempts: int) -> None:
    """Let a job file allow so many attempts to reach the peer."""
    job = yaml.safe_load(path.read_text())
    job["cluster"]["link_desc"]["connect_retry_times"] = attempts
    path.write_text(yaml.safe_dump(job, sort_keys=False))


def history(folder: Path) -> Path:
    """Return the page of ninety nights of three jobs, in one of which four nights are unusual."""
    page, state = folder / "history.html", folder / "state"
    write_ledger(state, *nights())
    _run(folder, 0, "report", "-o", page)
    return page


def nights() -> list[Series]:
    """Return ninety nights of three jobs, the last of which was last night; FAULTS happen in the first one."""
    plain = _until_now(series("weekends", 11, NIGHTS + 7))
    usual = [
        replace(ANOMALIES[FAULTS[number]](night), run=night.run) if number in FAULTS else night
        for number, night in enumerate(plain.nights)
    ]
    others = [
        _until_now(series("gaps", 12, NIGHTS + 7, job="suppliers", task="companies"), minutes=20),
        _until_now(series("growing", 13, NIGHTS + 7, job="devices", task="ids"), minutes=40),
    ]
    draw = random.Random(14)
    return [replace(plain, nights=usual), *(replace(each, nights=_renamed(each.nights, draw)) for each in others)]


def _until_now(found: Series, minutes: int = 0) -> Series:
    """Move nights by whole weeks, so that their days of the week stay, and leave out those in the future.

    minutes: how much later than others they begin, so that the lines of a ledger follow each other.
    """
    now, last = datetime.now(UTC), datetime.fromisoformat(found.nights[-1].time)
    weeks = timedelta(weeks=math.ceil((now - last) / timedelta(weeks=1)), minutes=minutes)
    times = [datetime.fromisoformat(night.time) + weeks for night in found.nights]
    moved = [
        replace(night, time=time.isoformat()) for night, time in zip(found.nights, times, strict=True) if time < now
    ]
    return replace(found, nights=moved[-NIGHTS:])


def _renamed(found: list[Night], draw: random.Random) -> list[Night]:
    """Give the runs of a series ids that no other series has."""
    return [replace(night, run=f"{draw.getrandbits(64):016x}") for night in found]


def hundred(folder: Path) -> Path:
    """Return the page of a run with a hundred tasks."""
    from psicli.report.pages.run import run_page

    page = folder / "hundred.html"
    page.write_text(run_page(many_tasks()), encoding="utf-8")
    return page


def _run(folder: Path, code: int, *arguments: str | Path) -> None:
    run = Run(arguments, env={"PSICLI_STATE_DIR": str(folder / "state")})
    try:
        run.lasts(MOST)
        assert run.result().code == code, run.result().text
    finally:
        run.kill()


MAKERS = {each.__name__: each for each in (simulation, batch, history, hundred)}
