"""What travels between the two parties, as values, and the ids that every hash is bound to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

PROTOCOL_VERSION = 2
SUITE = "psicli-v1"
NONCE_BYTES = 32
SID_BYTES = 32
DIGEST_BYTES = 32
PROBE_BYTES = 16


class Purpose(IntEnum):
    """Why a connection is made; only a run takes the session."""

    RUN = 1
    CHECK = 2


class Stream(IntEnum):
    """The four streams of a bin."""

    RECEIVER_POINTS = 1
    SENDER_POINTS = 2
    TOKENS = 3
    BITMAP = 4


# The session ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What both parties must agree on for one task."""

    name: str
    receiver: str
    broadcast_result: bool
    key_columns: int


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a connection, both ways. It holds no counts."""

    package_version: str
    party: str
    job: str
    tasks: tuple[TaskTerms, ...]
    # Of both sides' sizes the smaller one counts [items].
    frame_items: int
    bin_items: int
    nonce: bytes = field(repr=False)
    purpose: Purpose = Purpose.RUN
    protocol_version: int = PROTOCOL_VERSION
    suite: str = SUITE
    # How long this side waits for a peer that says nothing [ms].
    recv_timeout_ms: int = 300_000
    # This side's clock, Unix time [ms].
    clock_ms: int = 0


@dataclass(frozen=True, slots=True)
class HelloOctets:
    """A Hello exactly as it travels: the session id is a hash over these octets."""

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Working:
    """This side is alive and has nothing else to say."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The sender of this message stops; its exit code is all it says."""

    failure_class: int


# A task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier run has left of a task.

    partition_sid: the task id of the run that began it. finished: a bit for each bin, the first one lowest, set where
    a receiver has the bin's result or a sender has answered it. complete: the task is done on this side.
    """

    partition_sid: bytes = field(repr=False)
    own_count: int
    peer_count: int
    bins: int
    finished: int
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """The first message of a task: what it could continue from, if anything."""

    task: int
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """This side has read its input: the number of distinct items, and the probe of the item encoding."""

    task: int
    count: int
    probe: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream of a bin."""

    task: int
    bin: int
    attempt: int
    stream: int
    seq: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream: how many items it had, and the chain digest after its last frame."""

    task: int
    bin: int
    attempt: int
    stream: int
    count: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """R has checked all of a bin. The last one of a one-sided task carries the digest of the task."""

    task: int
    bin: int
    attempt: int
    digest: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """A bin begins again, as this attempt; the other side answers with the same message."""

    task: int
    bin: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Ready:
    """This side's output is safe in a temporary file."""

    task: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Both outputs are safe: publish them. The digest covers the number of matches too."""

    task: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """S is through with the task and comes to the same digest."""

    task: int
    digest: bytes = field(repr=False)


# The link -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reconnect:
    """A new stream takes the place of one that broke.

    attempt: of the dialer's, from 1 on; messages: how many this side has taken in.
    """

    sid: bytes = field(repr=False)
    attempt: int
    messages: int


@dataclass(frozen=True, slots=True)
class Taken:
    """How many messages this side has read since the session began."""

    messages: int


@dataclass(frozen=True, slots=True)
class Bye:
    """This side has said everything."""


BinMessage: TypeAlias = Frame | End | Received | Restart
TaskMessage: TypeAlias = Offer | Open | BinMessage | Ready | Commit | Done
LinkMessage: TypeAlias = Reconnect | Taken | Bye
Message: TypeAlias = HelloOctets | TaskMessage | Working | Abort | LinkMessage


# Ids ------------------------------------------------------------------------------------------------------------


def session_id(listener_hello: bytes, dialer_hello: bytes) -> bytes:
    """Hash both Hellos, as the octets that travelled, into the session id [32 bytes]."""
    digest = hashlib.sha256(b"psicli/v1/sid\0")
    for octets in (listener_hello, dialer_hello):
        digest.update(len(octets).to_bytes(4, "big") + octets)
    return digest.digest()


def task_session_id(sid: bytes, task_name: str) -> bytes:
    """Derive the id of one task of a session [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/task\0" + sid + task_name.encode()).digest()


def bin_session_id(task_sid: bytes, number: int, attempt: int) -> bytes:
    """Derive the id of one attempt at a bin, which its points and tokens are bound to [32 bytes]."""
    where = number.to_bytes(4, "big") + attempt.to_bytes(4, "big")
    return hashlib.sha256(b"psicli/v1/bin\0" + task_sid + where).digest()


def partition_key(partition_sid: bytes) -> bytes:
    """Derive the key of the hash that tells an item's bin [32 bytes]; both parties know it."""
    return hashlib.sha256(b"psicli/v1/partition\0" + partition_sid).digest()


def task_digest(task_sid: bytes, counts: tuple[int, int], bins: int, matches: int | None = None) -> bytes:
    """Hash what both sides must agree on at the end of a task [32 bytes].

    counts: of the receiver and of the sender; matches: of a broadcast alone.
    """
    numbers = (*counts, bins) if matches is None else (*counts, bins, matches)
    octets = b"".join(number.to_bytes(8, "big") for number in numbers)
    return hashlib.sha256(b"psicli/v1/end\0" + task_sid + octets).digest()
