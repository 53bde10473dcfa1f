"""Batches of several parties that run at the same time, with lists and places that differ."""

from __future__ import annotations

import pytest
from support.many.batches import check_refused, rounds, stopped, wait_for_listeners
from support.many.parties import Parties, all_done
from support.processes.runner import DIALER, HELD, LISTENER, PARTIES, free_ports
from support.waiting import wait_until

CAROL = "carol"
RING = [(LISTENER, DIALER), (DIALER, CAROL), (CAROL, LISTENER)]


@pytest.mark.more
def test_four_jobs_at_once(four: Parties) -> None:
    rounds(four, 5)


@pytest.mark.more
def test_a_second_batch_of_the_same_jobs_is_refused(four: Parties) -> None:
    """On both sides, each of its jobs names the one that has its place, and the first batch is unaffected."""
    alice = four.start_batch(LISTENER, "--jobs=4", "--rendezvous=60")
    wait_for_listeners(alice, 4)
    check_refused(four.start_batch(LISTENER, "--jobs=4", "--retries=0"), LISTENER)
    bob = four.start_batch(DIALER, "--jobs=4", env=HELD)
    wait_until(lambda: len(stopped(bob)) == 4, "all of bob's jobs are in session")
    check_refused(four.start_batch(DIALER, "--jobs=4", "--retries=0"), DIALER)
    for each in stopped(bob):
        each.resume()
    all_done(alice.result(), bob.result())
    four.check()
    four.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("waits", [["--lock-timeout=60"], ["--retries=12"]], ids=["for the lock", "to try again"])
def test_two_batches_of_the_same_jobs_take_turns(four: Parties, waits: list[str]) -> None:
    four.next_night()
    batches = [four.start_batch(party, *waits) for party in (*PARTIES, *PARTIES)]
    all_done(*(batch.result() for batch in batches))
    four.check()
    four.nothing_left()


@pytest.mark.more
def test_lists_in_opposite_orders_with_different_places(four: Parties) -> None:
    names = [deal.name for deal in four.deals]
    four.batch(LISTENER, names, max_jobs=1, rendezvous="2s")
    four.batch(DIALER, names[::-1], max_jobs=3, rendezvous="2s")
    batches = [four.start_batch(party) for party in PARTIES]
    all_done(*(batch.result() for batch in batches))
    four.check()
    four.nothing_left()


@pytest.mark.more
def test_a_ring_of_three_parties_with_one_place_each(parties: Parties) -> None:
    """Each party begins with the job that its peer has at the end of its list."""
    with free_ports(3) as ports:
        for (listener, dialer), port in zip(RING, ports, strict=True):
            parties.add(f"{listener}-{dialer}", listener, dialer, port)
        for party, peer in RING:
            (other,) = (deal.name for deal in parties.of(party) if deal.dialer == party)
            parties.batch(party, [f"{party}-{peer}", other], max_jobs=1, rendezvous="2s")
        batches = [parties.start_batch(party) for party, _ in RING]
        all_done(*(batch.result() for batch in batches))
        parties.check()
        parties.nothing_left()
