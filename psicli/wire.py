"""Messages to bytes and back: the only user of the generated protobuf code.

Decoding trusts nothing: what is not exactly one known message of sane size raises PeerProtocolError. Whether a message
fits the moment is the protocol's question, not this module's.
"""

from __future__ import annotations

from typing import cast

from google.protobuf.message import DecodeError

from psicli import psi_pb2 as pb
from psicli.errors import PeerProtocolError
from psicli.protocol import (
    DIGEST_BYTES,
    NONCE_BYTES,
    PROBE_BYTES,
    Abort,
    Ack,
    Bye,
    Chunk,
    Commit,
    Done,
    End,
    Hello,
    HelloOctets,
    Message,
    Open,
    Purpose,
    Ready,
    Received,
    Reconnect,
    ResumeOffer,
    StreamOffset,
    Taken,
    TaskTerms,
)

# The cap on one message, both ways: a full frame of points is a quarter of it [bytes].
MAX_MESSAGE_BYTES = 2 << 20
# Frames may not be larger than half the cap: 32,768 points [items].
MAX_CHUNK_ITEMS = 32_768
# Far more than a job has; two million bytes of Hello could name a million [tasks].
MAX_TASKS = 10_000
# The bitmap needs whole bytes a frame [items].
CHUNK_ITEMS_STEP = 8

_MARKS: dict[str, type[Received | Ready | Commit | Done]] = {
    "received": Received,
    "ready": Ready,
    "commit": Commit,
    "done": Done,
}


def encode(message: Message) -> bytes:
    """Serialise one message."""
    match message:
        case HelloOctets(hello):
            envelope = pb.Envelope(hello=hello)
        case Open():
            envelope = pb.Envelope(open=_open_to_pb(message))
        case Chunk(task, stream, seq, data):
            envelope = pb.Envelope(chunk=pb.Chunk(task=task, stream=stream, seq=seq, data=data))
        case End(task, stream, count, digest):
            envelope = pb.Envelope(end=pb.End(task=task, stream=stream, count=count, digest=digest))
        case Received(task) | Ready(task) | Commit(task) | Done(task):
            envelope = pb.Envelope()
            getattr(envelope, type(message).__name__.lower()).CopyFrom(pb.TaskMark(task=task))
        case Ack(task, stream, frames, digest):
            envelope = pb.Envelope(ack=pb.Ack(task=task, stream=stream, frames=frames, digest=digest))
        case Abort(failure_class):
            envelope = pb.Envelope(abort=pb.Abort(failure_class=failure_class))
        case Reconnect(sid, attempt, messages):
            envelope = pb.Envelope(reconnect=pb.Reconnect(sid=sid, attempt=attempt, messages=messages))
        case Taken(messages):
            envelope = pb.Envelope(taken=pb.Taken(messages=messages))
        case Bye():
            envelope = pb.Envelope(bye=pb.Bye())
    octets: bytes = envelope.SerializeToString()
    return octets


def decode(octets: bytes) -> Message:
    """Parse one message; raises PeerProtocolError for anything this version does not know."""
    if len(octets) > MAX_MESSAGE_BYTES:
        raise PeerProtocolError(detail=f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    try:
        envelope = pb.Envelope.FromString(octets)
    except DecodeError:
        raise PeerProtocolError(detail="a message that cannot be read") from None
    # Both sides have one version: what parsing skips or overwrites was not written by it.
    envelope.DiscardUnknownFields()
    if envelope.ByteSize() != len(octets):
        raise PeerProtocolError(detail="a message that holds more than this version knows")
    kind = envelope.WhichOneof("body")
    match kind:
        case "hello":
            return HelloOctets(envelope.hello)
        case "open":
            return _open_from_pb(envelope.open)
        case "chunk":
            chunk = envelope.chunk
            return Chunk(chunk.task, chunk.stream, chunk.seq, chunk.data)
        case "end":
            end = envelope.end
            return End(end.task, end.stream, end.count, _sized(end.digest, DIGEST_BYTES))
        case "received" | "ready" | "commit" | "done":
            return _MARKS[kind](getattr(envelope, kind).task)
        case "ack":
            ack = envelope.ack
            return Ack(ack.task, ack.stream, ack.frames, _sized(ack.digest, DIGEST_BYTES if ack.stream else 0))
        case "abort":
            return Abort(envelope.abort.failure_class)
        case "reconnect":
            again = envelope.reconnect
            return Reconnect(_sized(again.sid, DIGEST_BYTES), again.attempt, again.messages)
        case "taken":
            return Taken(envelope.taken.messages)
        case "bye":
            return Bye()
        case _:
            raise PeerProtocolError(detail="a message of a kind this version does not know")


def encode_hello(hello: Hello) -> bytes:
    """Serialise a Hello into the octets that travel and are hashed."""
    octets: bytes = pb.Hello(
        protocol_version=hello.protocol_version,
        package_version=hello.package_version,
        suite=hello.suite,
        purpose=cast(pb.Purpose, hello.purpose),
        party=hello.party,
        job=hello.job,
        tasks=[
            pb.TaskTerms(
                name=task.name,
                receiver=task.receiver,
                broadcast_result=task.broadcast_result,
                key_columns=task.key_columns,
            )
            for task in hello.tasks
        ],
        chunk_items=hello.chunk_items,
        nonce=hello.nonce,
        recv_timeout_ms=hello.recv_timeout_ms,
        clock_ms=hello.clock_ms,
    ).SerializeToString()
    return octets


def decode_hello(octets: bytes) -> Hello:
    """Parse a Hello; raises PeerProtocolError when it is none."""
    try:
        hello = pb.Hello.FromString(octets)
    except DecodeError:
        raise PeerProtocolError(detail="a Hello that cannot be read") from None
    if int(hello.purpose) not in list(Purpose):
        raise PeerProtocolError(detail="a Hello without a purpose")
    if not 1 <= hello.chunk_items <= MAX_CHUNK_ITEMS or hello.chunk_items % CHUNK_ITEMS_STEP:
        raise PeerProtocolError(detail="a Hello with an impossible chunk size")
    if len(hello.tasks) > MAX_TASKS:
        raise PeerProtocolError(detail=f"a Hello with more than {MAX_TASKS} tasks")
    return Hello(
        package_version=hello.package_version,
        party=hello.party,
        job=hello.job,
        tasks=tuple(
            TaskTerms(task.name, task.receiver, task.broadcast_result, task.key_columns) for task in hello.tasks
        ),
        chunk_items=hello.chunk_items,
        nonce=_sized(hello.nonce, NONCE_BYTES),
        purpose=Purpose(hello.purpose),
        protocol_version=hello.protocol_version,
        suite=hello.suite,
        recv_timeout_ms=hello.recv_timeout_ms,
        clock_ms=hello.clock_ms,
    )


def _open_to_pb(message: Open) -> pb.Open:
    envelope = pb.Open(task=message.task, count=message.count, probe=message.probe)
    offer = message.resume
    if offer is not None:
        envelope.resume.CopyFrom(
            pb.ResumeOffer(
                task_sid=offer.task_sid,
                own_count=offer.own_count,
                peer_count=offer.peer_count,
                offsets=[pb.StreamOffset(stream=o.stream, frames=o.frames, digest=o.digest) for o in offer.offsets],
                complete=offer.complete,
            )
        )
    return envelope


def _open_from_pb(message: pb.Open) -> Open:
    resume = None
    if message.HasField("resume"):
        offer = message.resume
        resume = ResumeOffer(
            _sized(offer.task_sid, DIGEST_BYTES),
            offer.own_count,
            offer.peer_count,
            tuple(StreamOffset(o.stream, o.frames, _sized(o.digest, DIGEST_BYTES)) for o in offer.offsets),
            offer.complete,
        )
    return Open(message.task, message.count, _sized(message.probe, PROBE_BYTES), resume)


def _sized(octets: bytes, length: int) -> bytes:
    if len(octets) != length:
        raise PeerProtocolError(detail=f"a field of {len(octets)} bytes where {length} were due")
    return octets
