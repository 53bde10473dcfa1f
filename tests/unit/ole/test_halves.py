"""Tests of both halves of an attempt at a bin in memory: results, secrets, and the order of the steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256, shake_128
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.kernel.halves import SID, attempt, blocks_of, digests_of

from psicli import ole
from psicli.core.errors import LocalProtocolError, SelfCheckError
from psicli.ole import blocks, extension, reference, store, vectors
from psicli.ole.blocks import from_bytes
from psicli.ole.vectors import ReceiverVectors, SenderVectors, _is_mask
from psicli.protocol.rr22.sizes import TREES, sizes

COUNTS = [1, 2, 3, 5, 127, 300]
# What part of the items of the smaller party is common.
SHARES = [0, 0.5, 1]
# Every pair of sizes, and of each size with every share.
CASES = [
    (own, peer, SHARES[(row + column) % 3]) for row, own in enumerate(COUNTS) for column, peer in enumerate(COUNTS)
]

# What is computed ---------------------------------------------------------------------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize(("own", "peer", "share"), CASES)
def test_blocks_of_equal_items_are_equal_and_others_differ(
    ole_backend: ole.Backend, own: int, peer: int, share: float
) -> None:
    common = round(min(own, peer) * share)
    mine = digests_of(*range(own))
    # The common items are at other places in the other list.
    theirs = digests_of(*(f"peer {number}" for number in range(peer - common)), *reversed(range(common)))
    made = attempt(mine, theirs)
    of_receiver = [block.tobytes() for block in made.of_receiver]
    of_sender = [block.tobytes() for block in made.of_sender]
    assert (len(of_receiver), len(of_sender)) == (own, peer)
    assert of_sender[peer - common :] == of_receiver[:common][::-1]
    assert set(of_sender[: peer - common]).isdisjoint(of_receiver)
    assert len(set(of_receiver)) == own
    assert len(set(of_sender)) == peer
    shape = sizes(own)
    blocks = [shape.keys, shape.choices, shape.sums, shape.vector]
    assert [len(message) for message in made.messages] == [16 * each for each in blocks]


@pytest.mark.sample(1)
def test_the_vectors_are_correlated(ole_backend: ole.Backend) -> None:
    """C = A * Δ + B, where the receiver has A and C, and the sender Δ and B."""
    shape = sizes(5)
    receiver, sender = ReceiverVectors(SID, shape), SenderVectors(SID, shape)
    receiver.encode(digests_of(*range(5)))
    sums = sender.sums(receiver.choices(sender.keys()))
    noise, filled = receiver._secrets["noise"].copy(), receiver._secrets["store"].copy()
    vector = receiver.vector(sums)
    a = from_bytes(vector[16:]) ^ filled
    sender.compress()
    b = sender._secrets["own"].copy()
    reference.add_products(b, a, sender._secrets["delta"])
    assert (receiver._secrets["own"] == b).all()
    assert noise.shape == (TREES, 2)
    assert noise.any(axis=1).all()


class Drawn:
    """Random bytes that are the same in each run."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, size: int) -> bytes:
        self._calls += 1
        return shake_128(b"%d" % self._calls).digest(size)


# The start of the SHA-256 of each message, and of the blocks of both parties.
KNOWN = [
    "f627fce907038ec9",
    "0b956e0ad2c229bf",
    "d2287821c42b516b",
    "8969c4a9f2ee8a39",
    "f800c72a0d3c6181",
    "ab8989d19e91ffe6",
]


def test_every_backend_gives_the_known_transcript(ole_backend: ole.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", Drawn())
    made = attempt(digests_of(*range(5)), digests_of(*range(3, 10)))
    assert (made.of_receiver[3:] == made.of_sender[:2]).all()
    assert [sha256(part).hexdigest()[:16] for part in (*made.messages, *made[4:])] == KNOWN


# What is secret -----------------------------------------------------------------------------------------------------


def strings(packed: bytes) -> npt.NDArray[np.uint64]:
    """Return all strings of 8 bytes in a message as numbers, wherever they begin."""
    return np.concatenate([np.frombuffer(packed[at : len(packed) - (len(packed) - at) % 8], "<u8") for at in range(8)])


@pytest.mark.more
def test_two_attempts_with_the_same_items_share_nothing() -> None:
    """Nothing serves twice: no 8 bytes are in both attempts, or in one of them twice.

    By chance, some are once in 10^7 runs.
    """
    mine, theirs = digests_of(1, 2, 3), digests_of(4, 5, 6)
    attempts = [attempt(mine, theirs) for _ in range(2)]
    seen = strings(b"".join(bytes(memoryview(part).cast("B")) for made in attempts for part in made))
    assert len(seen) > 800_000
    assert len(np.unique(seen)) == len(seen)


def halves_before(step: str) -> tuple[ReceiverVectors, SenderVectors, dict[str, Any]]:
    """Return two halves that have taken the steps before this one, and what they sent."""
    shape = sizes(4)
    receiver, sender = ReceiverVectors(SID, shape), SenderVectors(SID, shape)
    sent: dict[str, Any] = {"items": digests_of(*range(4))}
    for name in ("encode", "keys", "choices", "sums", "vector", "evaluate"):
        if name == step:
            break
        sent[name] = take(receiver, sender, name, sent)
    return receiver, sender, sent


def take(receiver: ReceiverVectors, sender: SenderVectors, step: str, sent: dict[str, Any]) -> Any:
    """Take a step, with messages of zeros where the right ones were not sent."""
    shape = sizes(4)
    steps: dict[str, Callable[[], Any]] = {
        "encode": lambda: receiver.encode(sent["items"]),
        "keys": lambda: sender.keys(),
        "choices": lambda: receiver.choices(sent.get("keys", bytes(16 * shape.keys))),
        "sums": lambda: sender.sums(sent.get("choices", bytes(16 * shape.choices))),
        "vector": lambda: receiver.vector(sent.get("sums", bytes(16 * shape.sums))),
        "evaluate": lambda: receiver.evaluate(),
        "compress": lambda: sender.compress(),
        "evaluate of the sender": lambda: sender.evaluate(sent.get("vector", bytes(16 * shape.vector)), sent["items"]),
    }
    return steps[step]()


@pytest.mark.parametrize("step", ["choices", "sums", "vector", "evaluate"])
def test_wiped_secrets_are_zero(step: str) -> None:
    for half in halves_before(step)[:2]:
        kept = list(half._secrets.values())
        half.wipe()
        assert not any(secret.any() for secret in kept)
        assert not half._secrets
        half.wipe()


def test_what_a_step_makes_after_wiping_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bin may be given up while one of its steps is taken."""
    receiver, encoded, made = ReceiverVectors(SID, sizes(3)), store.encoded, []

    def interrupted(*arguments: Any) -> Any:
        receiver.wipe()
        made.append(encoded(*arguments))
        return made[0]

    monkeypatch.setattr(store, "encoded", interrupted)
    receiver.encode(digests_of(1, 2, 3))
    _, rows, filled, _ = made[0]
    assert not rows.any()
    assert not filled.any()
    assert not receiver._secrets


def test_a_step_keeps_what_it_uses_while_all_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sender, sent = halves_before("sums")
    extend, seen = vectors.extend_chosen, []

    def interrupted(keys: Any, delta: Any, *others: Any) -> Any:
        sender.wipe()
        seen.append(bool(delta.any()))
        return extend(keys, delta, *others)

    monkeypatch.setattr(vectors, "extend_chosen", interrupted)
    sender.sums(sent["choices"])
    assert seen == [True, True]
    assert not sender._secrets


@pytest.mark.parametrize(
    ("step", "used"),
    [
        ("sums", {"other", "scalars"}),
        ("vector", {"points", "noise", "products", "pads", "store"}),
        ("evaluate", {"rows", "own"}),
        ("compress", {"leaves"}),
        ("evaluate of the sender", {"delta", "leaves"}),
    ],
)
def test_a_step_wipes_what_it_needs_last(step: str, used: set[str]) -> None:
    receiver, sender, sent = halves_before(step)
    half = receiver if step in ("vector", "evaluate") else sender
    before = dict(half._secrets)
    assert all(before[name].any() for name in used)
    take(receiver, sender, step, sent)
    assert not any(before[name].any() for name in used)
    assert used.isdisjoint(half._secrets)


class Repeating:
    """A backend whose code gives the same few blocks, again and again."""

    def __init__(self, period: int) -> None:
        self._period = period

    def __getattr__(self, name: str) -> Any:
        return getattr(reference, name)

    def compress(self, noise: Any, length: int) -> Any:
        made = reference.compress(noise, length)
        made[:, 2:] = np.resize(made[: self._period, 2:], (length, 2))
        return made


@pytest.mark.parametrize("period", [0, 1, 40])
def test_a_vector_that_hides_nothing_is_not_sent(monkeypatch: pytest.MonkeyPatch, period: int) -> None:
    """Of 64 blocks, two are equal if there are 40 different ones; zeros are no mask either."""
    receiver, _, sent = halves_before("vector")
    monkeypatch.setattr(ole, "BACKENDS", {"repeating": Repeating(period)})
    with pytest.raises(SelfCheckError, match=r"repeating backend .* does not hide the items") as caught:
        receiver.vector(sent["sums"])
    assert caught.value.code == 70
    with pytest.raises(LocalProtocolError):
        receiver.evaluate()


@pytest.mark.parametrize("wrong", [np.zeros(2, np.uint64), blocks_of("vector", 64)[17]], ids=["zero", "equal"])
def test_one_wrong_block_in_the_sample_is_found(wrong: npt.NDArray[np.uint64]) -> None:
    vector = blocks_of("vector", 64)
    assert _is_mask(vector)
    vector[40] = wrong
    assert not _is_mask(vector)


# What may happen when -----------------------------------------------------------------------------------------------

STEPS = ["encode", "keys", "choices", "sums", "vector", "evaluate", "compress", "evaluate of the sender"]


@pytest.mark.sample(4)
@pytest.mark.parametrize("step", STEPS)
def test_no_step_can_be_taken_twice(step: str) -> None:
    receiver, sender, sent = halves_before(step)
    take(receiver, sender, step, sent)
    for _ in range(2):
        with pytest.raises(LocalProtocolError) as caught:
            take(receiver, sender, step, sent)
        assert caught.value.code == 70


@pytest.mark.sample(4)
@pytest.mark.parametrize("step", STEPS)
def test_no_step_can_be_taken_after_the_secrets_were_wiped(step: str) -> None:
    receiver, sender, sent = halves_before(step)
    receiver.wipe()
    sender.wipe()
    with pytest.raises(LocalProtocolError):
        take(receiver, sender, step, sent)


@pytest.mark.parametrize(
    ("following", "steps"),
    [
        ("encode", ["sums", "vector", "evaluate", "evaluate of the sender"]),
        ("keys", ["sums", "vector", "evaluate", "evaluate of the sender"]),
        ("choices", ["vector", "evaluate", "evaluate of the sender"]),
        ("sums", ["evaluate", "evaluate of the sender"]),
        ("vector", ["evaluate"]),
    ],
)
def test_no_step_can_be_taken_too_early(following: str, steps: list[str]) -> None:
    receiver, sender, sent = halves_before(following)
    for step in steps:
        with pytest.raises(LocalProtocolError, match="repeated, or came too early"):
            take(receiver, sender, step, sent)
    # The attempt goes on.
    for step in STEPS[STEPS.index(following) :]:
        sent[step] = take(receiver, sender, step, sent)
    assert (sent["evaluate"] == sent["evaluate of the sender"]).all()


def test_the_store_may_be_encoded_before_or_after_the_choices() -> None:
    shape, mine = sizes(3), digests_of(1, 2, 3)
    receiver, sender = ReceiverVectors(SID, shape), SenderVectors(SID, shape)
    choices = receiver.choices(sender.keys())
    sums = sender.sums(choices)
    with pytest.raises(LocalProtocolError):
        receiver.vector(sums)
    receiver.encode(mine)
    vector = receiver.vector(sums)
    assert (receiver.evaluate() == sender.evaluate(vector, mine)).all()


# What stays in memory -----------------------------------------------------------------------------------------------

# The functions whose results are secrets, by who calls them.
SECRETS = {
    vectors: ["base_choices", "off_path", "pick", "masks", "scaled", "_noise_points", "_side_by_side", "extend_chosen"],
    extension: ["bit_masks", "off_path", "pick", "masks", "_points"],
    blocks: ["bits", "masks"],
    reference: ["hashes", "combine", "transpose", "grow", "regrow", "spread", "compress"],
}


def test_what_the_steps_make_of_secrets_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves wipe the results of these functions, wherever they call them."""
    monkeypatch.setattr(ole, "BACKENDS", {"reference": reference})
    made: list[tuple[str, npt.NDArray[Any]]] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            result = real(*arguments)
            made.extend((name, array) for array in (result if isinstance(result, tuple) else (result,)))
            return result

        monkeypatch.setattr(owner, name, watched)

    # The reference is no kernel in C: what it computes with is its own business.
    monkeypatch.setattr(reference, "bits", blocks.bits)
    monkeypatch.setattr(reference, "masks", blocks.masks)
    for owner, names in SECRETS.items():
        for name in names:
            watch(owner, name)
    attempt(digests_of(*range(5)), digests_of(*range(3, 10)))
    assert {name for name, _ in made} == {name for names in SECRETS.values() for name in names}
    assert {name for name, array in made if array.any()} == set()


# Encoding -----------------------------------------------------------------------------------------------------------


class Unlucky:
    """A backend that finds no solution in its first tries, and then one that may be wrong."""

    def __init__(self, failures: int, wrong: str = "") -> None:
        self.left = failures
        self.wrong = wrong
        self.seeds: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(reference, name)

    def rows(self, keys: Any, length: int, seed: bytes) -> Any:
        self.seeds.append(seed)
        rows = reference.rows(keys, length, seed)
        rows[:, 1] ^= np.uint64(self.wrong == "rows")
        return rows

    def encode(self, rows: Any, values: Any, store: Any) -> bool:
        self.left -= 1
        if self.left >= 0:
            return False
        solved = reference.encode(rows, values, store)
        store[:] ^= np.uint64(self.wrong == "store")
        return solved


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_encoding_is_tried_again_with_another_seed(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    unlucky = Unlucky(failures)
    monkeypatch.setattr(ole, "BACKENDS", {"unlucky": unlucky})
    receiver = ReceiverVectors(SID, sizes(3))
    receiver.encode(digests_of(1, 2, 3))
    assert receiver.retries == failures
    assert len(set(unlucky.seeds)) == failures + 1


def test_encoding_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    unlucky = Unlucky(3)
    monkeypatch.setattr(ole, "BACKENDS", {"unlucky": unlucky})
    with pytest.raises(SelfCheckError, match=r"unlucky backend .* no store for 3 items in 3 tries") as caught:
        ReceiverVectors(SID, sizes(3)).encode(digests_of(1, 2, 3))
    assert caught.value.code == 70
    assert len(set(unlucky.seeds)) == 3


@pytest.mark.parametrize("wrong", ["rows", "store"])
def test_a_store_that_holds_other_values_is_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """A change of all positions changes about half of the values."""
    monkeypatch.setattr(ole, "BACKENDS", {"unlucky": Unlucky(0, wrong)})
    with pytest.raises(SelfCheckError, match=r"unlucky backend .* decodes a different value") as caught:
        ReceiverVectors(SID, sizes(100)).encode(blocks_of("items", 200).reshape(-1, 4))
    assert caught.value.code == 70
