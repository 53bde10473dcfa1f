"""Known sizes of the streams of RR22, which depend on the capacities alone."""

from __future__ import annotations

import pytest
from support.memory.machines import TASK, TASK_SID

from psicli.protocol import bins
from psicli.protocol.messages import Stream
from psicli.protocol.rr22.bins import VectorReceiverBin, VectorSenderBin
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.protocol.streams import MAX_FRAME_ITEMS, Place

PLACE = Place(TASK, 0, 0, TASK_SID)
# What docs/protocol.md says: the receiver's capacity; the store, and the blocks of KEYS, CHOICES, SUMS and VECTOR.
KNOWN = [
    (1, 258, 1024, 18_882, 6_072, 259),
    (1_000, 1_356, 1024, 18_882, 6_072, 1_357),
    (254_524, 280_233, 1024, 19_586, 11_592, 280_234),
    (1_048_576, 1_153_690, 1024, 20_002, 14_904, 1_153_691),
]


@pytest.mark.parametrize(("capacity", "store", "keys", "choices", "sums", "vector"), KNOWN)
def test_known_sizes(capacity: int, store: int, keys: int, choices: int, sums: int, vector: int) -> None:
    of = sizes(capacity)
    assert (of.store, of.keys, of.choices, of.sums, of.vector) == (store, keys, choices, sums, vector)


@pytest.mark.parametrize(
    ("own", "peer", "size"),
    [(1, 1, 6), (127, 128, 7), (1_018_096, 1_018_096, 10), (1 << 20, 1 << 20, 11), (1 << 43, 1 << 43, 16)],
)
def test_known_sizes_of_tokens(own: int, peer: int, size: int) -> None:
    assert token_bytes(own, peer) == token_bytes(peer, own) == size


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 100_000), (100_000, 3), (1 << 20, 1 << 20)])
def test_both_sides_agree_on_the_sizes(n: int, m: int) -> None:
    ours, theirs = bins.Sizes(n, m, 1), bins.Sizes(m, n, 1)
    receiver = VectorReceiverBin(PLACE, ours, MAX_FRAME_ITEMS)._streams
    sender = VectorSenderBin(PLACE, theirs, MAX_FRAME_ITEMS)._streams
    assert {stream: each.shape for stream, each in receiver.items()} == {
        stream: each.shape for stream, each in sender.items()
    }
    assert {stream: type(each) for stream, each in receiver.items()} != {
        stream: type(each) for stream, each in sender.items()
    }
    assert receiver[Stream.TOKENS].shape.bytes_of(m) == m * token_bytes(n, m)
    assert max(each.shape.frame_bytes(0) for each in receiver.values()) <= 1 << 20


def test_the_tokens_of_a_task_have_one_size() -> None:
    """It follows from the items in all bins, so a bin of a large task has larger tokens than a task of this bin."""
    of_many, alone = bins.Sizes(1_048_577, 1_048_577, 2), bins.Sizes(530_838, 530_838, 1)
    for sizes_of_task, bits in ((of_many, 88), (alone, 80)):
        shape = VectorReceiverBin(PLACE, sizes_of_task, MAX_FRAME_ITEMS)._streams[Stream.TOKENS].shape
        assert (shape.count, shape.item_bits) == (530_838, bits)
