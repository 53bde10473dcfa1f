"""Sessions in memory whose tasks are exchanged by different protocols, over two real Links."""

from __future__ import annotations

import itertools

import pytest
from support.memory.sessions import ALICE, BOB, both, joined, messages_of, numbers, run, succeeded

from psicli.protocol.bins import MOST_BIN_ITEMS
from psicli.protocol.messages import RR22, End, Frame, Stream

OF_POINTS = {Stream.RECEIVER_POINTS, Stream.SENDER_POINTS}
OF_VECTORS = {Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR}
# 96 items of each party make 4 bins of 93.
FEW = 94


@pytest.mark.more
@pytest.mark.parametrize(
    ("protocols", "bin_items"),
    [
        pytest.param(["", RR22, RR22, "", RR22], MOST_BIN_ITEMS, id="one bin"),
        pytest.param(["", RR22, ""], FEW, id="bins", marks=pytest.mark.more),
    ],
)
def test_tasks_of_both_protocols_take_turns(protocols: list[str], bin_items: int) -> None:
    """Both parties receive in turn. The last bin of a task is in progress while the first one of the next begins."""
    plans = []
    for number, protocol in enumerate(protocols):
        receiver, broadcast = (ALICE, BOB)[number // 2 % 2], number % 3 == 2
        pair = both(f"t{number}", numbers(0, 96), numbers(40, 136), receiver=receiver, broadcast=broadcast)
        for plan in pair:
            plan.protocol = protocol
        plans.append(pair)
    ends = joined([pair[0] for pair in plans], [pair[1] for pair in plans], bin_items=bin_items)
    run(ends)
    succeeded(ends)
    for number, pair in enumerate(plans):
        for plan in pair:
            assert plan.found == ({*numbers(40, 96)} if plan.receives or plan.broadcast else None)
        sent = [*itertools.chain(*(messages_of(end.link.sent, number) for end in ends))]
        streams = {message.stream for message in sent if isinstance(message, Frame | End)} - {Stream.BITMAP}
        assert streams == (OF_VECTORS if protocols[number] else OF_POINTS) | {Stream.TOKENS}
        bins = {message.bin for message in sent if isinstance(message, Frame)}
        assert bins == {*range(4 if bin_items == FEW else 1)}
