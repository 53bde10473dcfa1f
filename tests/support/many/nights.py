"""Nights of two parties, each with a batch of two jobs and at most one fault, and the checks of each morning."""

from __future__ import annotations

import random
import signal
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from support.many.batches import BAD, complete, not_done, process_of, recorded
from support.many.parties import Deal, Parties, jobs_of
from support.processes.proxy import Proxy
from support.processes.runner import DIALER, LISTENER, PARTIES, Result, Run, failing_at, other

# Where a full disk is found: before anything is sent, in the middle, and when the output is written.
FULL = ("ledger.appended", "ledger.synced", "output.created", "output.written", "output.synced")
# Faults, and how many of a hundred nights have each.
FAULTS = {"none": 10, "child": 25, "batch": 20, "late": 10, "disk": 10, "file": 10, "cut": 15}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# A night without faults takes about so long, and a fault comes at any moment of it [s].
NIGHT = 1.6


@dataclass
class Night:
    """One night: the fault, whom it hits, and what is left for the morning."""

    fault: str
    party: str
    deal: Deal
    signal: signal.Signals
    point: str
    # When the fault comes, after the first line of the victim's batch [s].
    moment: float
    results: dict[str, Result] = field(default_factory=dict)
    # The jobs that each party has to do again.
    to_do: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def drawn(cls, draw: random.Random, parties: Parties) -> Night:
        (fault,) = draw.choices([*FAULTS], [*FAULTS.values()])
        who, deal, number = draw.choice(PARTIES), draw.choice(parties.deals), draw.choice(SIGNALS)
        return cls(fault, who, deal, number, draw.choice(FULL), draw.uniform(0.0, NIGHT))

    @property
    def kills_the_batch(self) -> bool:
        return self.fault == "batch" and self.signal is signal.SIGKILL


class Year:
    """Two parties, and their nights one after another."""

    def __init__(self, parties: Parties, ports: list[int], seed: int) -> None:
        self._parties = parties
        self._draw = random.Random(seed)
        parties.add("north", LISTENER, DIALER, ports[0])
        self._cut = parties.add("south", LISTENER, DIALER, ports[1], listens=ports[2])
        for party in PARTIES:
            # A party whose peer's batch is gone waits until the deadline.
            parties.batch(party, rendezvous="1s", retries=2, deadline="8s")

    def pass_nights(self, count: int) -> None:
        for _ in range(count):
            self._parties.next_night()
            night = Night.drawn(self._draw, self._parties)
            # pytest shows it if the night fails.
            print(f"night {self._parties.night}: {night}")
            proxy = Proxy(self._cut.port, self._cut.listens)
            try:
                self._pass(night, proxy)
                self._check_morning(night)
                if night.fault == "file":
                    self._parties.input(night.deal, night.party).write_bytes(
                        night.deal.table(night.party, self._parties.night)
                    )
                complete(self._parties, night.to_do)
            finally:
                proxy.close()

    def _pass(self, night: Night, proxy: Proxy) -> None:
        """Run both batches to their ends, with the fault."""
        parties, victim = self._parties, night.party
        if night.fault == "file":
            parties.input(night.deal, victim).write_bytes(BAD)
        env = failing_at(f"{night.point}:enospc" if night.fault == "disk" else "")
        batches: dict[str, Run] = {}
        for party in (other(victim), victim):
            if party == victim and night.fault == "late":
                batches[other(victim)].lasts(night.moment)
            batches[party] = parties.start_batch(party, env=env if party == victim else None)
        if night.fault in ("child", "batch", "cut"):
            batches[victim].wait_for_lines(1)
            batches[victim].lasts(night.moment)
        if night.fault == "child" and (process := process_of(batches[victim], night.deal)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        elif night.fault == "batch":
            batches[victim].send(night.signal)
        elif night.fault == "cut":
            proxy.reset()
        night.results = {party: batch.result() for party, batch in batches.items()}

    def _check_morning(self, night: Night) -> None:
        """Check that every failure has a name, that no result is wrong, and that nothing is left."""
        parties = self._parties
        # A batch that is ended may be waiting to start a process that was killed again.
        parties.nothing_left({"child": "job", "batch": "batch"}.get(night.fault, ""))
        for party, result in night.results.items():
            assert "Traceback" not in result.text
            killed = night.kills_the_batch and party == night.party and result.code == -signal.SIGKILL
            done = set() if killed else check_named(result)
            night.to_do[party] = recorded(parties, party) if killed else not_done(result)
            for deal in parties.deals:
                nights = parties.nights_of(deal, party)
                assert nights <= {parties.night - 1, parties.night}, (deal.name, party)
                assert nights == {parties.night} or deal.name not in done, (deal.name, party)
                assert nights or parties.night == 1, (deal.name, party)


def check_named(result: Result) -> set[str]:
    """Check that a report names the cause of every failure, on standard error too; return what is done."""
    jobs = jobs_of(result)
    done = {name for name, job in jobs.items() if job["state"] == "done"}
    for name, job in jobs.items():
        if name in done:
            assert job["exit_code"] == 0, job
        else:
            assert job["state"] in ("failed", "not run"), job
            assert job["cause"], job
            assert name in result.stderr, result.text
    codes = [job["exit_code"] for job in jobs.values() if job["state"] == "failed"]
    if result.code not in (130, 143):
        assert result.code == next(iter(codes), 0), result.text
        assert (result.code == 0) == (done == set(jobs)), result.text
    return done
