"""The messages of the protocol as immutable values, and the ids that bind every hash to its session, task and bin."""

from __future__ import annotations

import hashlib
from dataclasses import field
from enum import IntEnum
from typing import TypeAlias

from psicli.core.records import dataclass

PROTOCOL_VERSION = 2
SUITE = "psicli-v1"
NONCE_BYTES = 32
SID_BYTES = 32
DIGEST_BYTES = 32
PROBE_BYTES = 16
MACHINE_BYTES = 16
# The result of a task whose receiver learns only how many items match.
COUNT = "count"
# The protocol of a task whose bins are not exchanged by ECDH.
RR22 = "rr22"


class Purpose(IntEnum):
    """The purpose of a connection; only RUN takes the session."""

    RUN = 1
    CHECK = 2


class Stream(IntEnum):
    """The streams of a bin; the last four are those of the protocol RR22, which has tokens and bitmaps, too."""

    RECEIVER_POINTS = 1
    SENDER_POINTS = 2
    TOKENS = 3
    BITMAP = 4
    KEYS = 5
    CHOICES = 6
    SUMS = 7
    VECTOR = 8


# The session ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What both parties must agree on for one task.

    key_form: the form of each key column; empty if keys are compared as they are, and then so are the others.
    group: the task with per_file that this is a file of, if any; its own name if the group has no file.
    """

    name: str
    receiver: str
    broadcast_result: bool
    key_columns: int
    key_form: tuple[str, ...] = ()
    forms_version: int = 0
    # What the forms make of certain texts.
    forms_probe: bytes = field(default=b"", repr=False)
    # These two may differ.
    unicode_version: str = ""
    phone_version: str = ""
    group: str = ""
    # What the receiver learns; empty for rows, because a peer that knows no other result does not send it.
    result: str = ""
    # How the bins are exchanged; empty for ecdh, because a peer that knows no other protocol does not send it.
    protocol: str = ""

    @property
    def counts(self) -> bool:
        """Whether the receiver learns only how many items match."""
        return self.result == COUNT


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a connection, in both directions. It contains no counts."""

    package_version: str
    party: str
    job: str
    tasks: tuple[TaskTerms, ...]
    # The smaller of both parties' sizes is used [items].
    frame_items: int
    bin_items: int
    nonce: bytes = field(repr=False)
    purpose: Purpose = Purpose.RUN
    protocol_version: int = PROTOCOL_VERSION
    suite: str = SUITE
    # How long this party waits for a silent peer [ms].
    recv_timeout_ms: int = 300_000
    # This party's clock, Unix time [ms].
    clock_ms: int = 0
    # The most items that each party may have in a task that only counts; 0 without such a task [items].
    count_items: int = 0
    # Whether this party wants to measure the link; a run never does.
    measures: bool = False


@dataclass(frozen=True, slots=True)
class HelloOctets:
    """An encoded Hello exactly as it is sent: the session id is a hash over these octets."""

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Working:
    """A heartbeat: the sender of this message is alive."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The sender of this message stops; failure_class is its exit code."""

    failure_class: int


# A task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What a party has saved from an earlier run of a task.

    partition_sid: the task id of the run that began the task. finished: one bit per bin, bin 0 lowest; it is set if the
    receiver has the bin's result, or if the sender has answered the bin. complete: this party is done with the task.
    """

    partition_sid: bytes = field(repr=False)
    own_count: int
    peer_count: int
    bins: int
    finished: int
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """The first message of a task: the saved state from which this party can resume, if any."""

    task: int
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """Stands in place of an Offer or an Open: this party cannot take part in the task, and both leave it out.

    failure_class: the exit code that this fault has; 0 in the answer to the peer's Skip.
    """

    task: int
    failure_class: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Opens a task after its input was read: the number of distinct items, and the probe of the item encoding."""

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
    """The end of a stream: its number of items, and the chain digest after its last frame."""

    task: int
    bin: int
    attempt: int
    stream: int
    count: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """R has received and checked a bin. The last one of a one-sided task carries the digest of the task."""

    task: int
    bin: int
    attempt: int
    digest: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """Restarts a bin with this attempt; the peer answers with the same message."""

    task: int
    bin: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Ready:
    """This party's output is durable in a temporary file."""

    task: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Both outputs are durable: put them in place. The digest covers the number of matches too."""

    task: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """S is done with the task and computed the same digest."""

    task: int
    digest: bytes = field(repr=False)


# A check --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """The sender of this message measures the link: the answer is a Filler of this size [bytes]."""

    octets: int


@dataclass(frozen=True, slots=True)
class Filler:
    """The answer to an Ask: random bytes, as many as were asked for."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """Ends a party's turn to measure the link; 0 stands for what is not known.

    round_trip_us: the shortest time from an Ask to its answer [us]. bytes_per_second: how fast Fillers arrived.
    hash_and_mask, mask: how fast the kernel of this message's sender is [points per second]. machine: the same
    on both sides if they run on one machine; empty if it does not say.
    """

    round_trip_us: int
    bytes_per_second: int
    hash_and_mask: int = 0
    mask: int = 0
    machine: bytes = field(default=b"", repr=False)


# The link -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The first message of a stream that replaces a broken one.

    attempt: the dialer's attempts, counted from 1; messages: how many messages have arrived at this party.
    """

    sid: bytes = field(repr=False)
    attempt: int
    messages: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Confirms how many messages this party has read since the session began."""

    messages: int


@dataclass(frozen=True, slots=True)
class Bye:
    """The last message of a direction."""


BinMessage: TypeAlias = Frame | End | Received | Restart
TaskMessage: TypeAlias = Offer | Skip | Open | BinMessage | Ready | Commit | Done
ProbeMessage: TypeAlias = Ask | Filler | Measured
LinkMessage: TypeAlias = Reconnect | Taken | Bye
Message: TypeAlias = HelloOctets | TaskMessage | Working | Abort | ProbeMessage | LinkMessage


def measure_link(ours: Hello, theirs: Hello) -> bool:
    """Return whether two parties measure the link: both of them only check, and want to."""
    return all(hello.purpose is Purpose.CHECK and hello.measures for hello in (ours, theirs))


# Ids ------------------------------------------------------------------------------------------------------------


def session_id(listener_hello: bytes, dialer_hello: bytes) -> bytes:
    """Derive the session id from both Hellos, encoded exactly as they were sent [32 bytes]."""
    digest = hashlib.sha256(b"psicli/v1/sid\0")
    for octets in (listener_hello, dialer_hello):
        digest.update(len(octets).to_bytes(4, "big") + octets)
    return digest.digest()


def task_session_id(sid: bytes, task_name: str) -> bytes:
    """Derive the id of one task of a session [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/task\0" + sid + task_name.encode()).digest()


def bin_session_id(task_sid: bytes, number: int, attempt: int) -> bytes:
    """Derive the id of one attempt at a bin, to which its points and tokens are bound [32 bytes]."""
    where = number.to_bytes(4, "big") + attempt.to_bytes(4, "big")
    return hashlib.sha256(b"psicli/v1/bin\0" + task_sid + where).digest()


def partition_key(partition_sid: bytes) -> bytes:
    """Derive the key of the hash that assigns items to bins [32 bytes]; both parties know it."""
    return hashlib.sha256(b"psicli/v1/partition\0" + partition_sid).digest()


def task_digest(task_sid: bytes, counts: tuple[int, int], bins: int, matches: int | None = None) -> bytes:
    """Hash the values on which both parties must agree at the end of a task [32 bytes].

    counts: (receiver's, sender's); matches: for a broadcast only.
    """
    numbers = (*counts, bins) if matches is None else (*counts, bins, matches)
    octets = b"".join(number.to_bytes(8, "big") for number in numbers)
    return hashlib.sha256(b"psicli/v1/end\0" + task_sid + octets).digest()
