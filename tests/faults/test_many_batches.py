"""Batches, many times over: four jobs at once, and ends at any moment."""

from __future__ import annotations

import random
import signal

import pytest
from support.many.batches import ENDS, complete, not_done, recorded, rounds
from support.many.parties import Parties
from support.processes.runner import DIALER, LISTENER


@pytest.mark.slow
def test_four_jobs_at_once_fifty_times(four: Parties) -> None:
    rounds(four, 50)


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_a_batch_is_ended_at_any_moment(four: Parties, how: str) -> None:
    """The other party's batch ends at its deadline at the latest, and then both continue and complete everything."""
    draw = random.Random(how)
    numbers, code = ENDS[how]
    for _ in range(10):
        four.next_night()
        batch = four.start_batch(LISTENER, "--jobs=3")
        peer = four.start_batch(DIALER, "--jobs=4", "--retries=0", "--deadline=8s")
        batch.wait_for_lines(1)
        batch.lasts(draw.uniform(0.0, 4.0))
        for number in numbers:
            batch.send(number)
        result = batch.result()
        assert result.code in (0, code), result.text
        assert "Traceback" not in result.stderr
        theirs = peer.result()
        four.nothing_left("job")
        mine = recorded(four, LISTENER) if result.code == -signal.SIGKILL else not_done(result)
        complete(four, {LISTENER: mine, DIALER: not_done(theirs)})
