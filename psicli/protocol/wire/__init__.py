"""Messages to bytes and back: the only user of the generated protobuf code.

Decoding trusts nothing: what is not exactly one known message of sane size raises PeerProtocolError. Whether a message
fits the moment is the protocol's question, not this module's.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from google.protobuf.message import DecodeError

from psicli.core.errors import PeerProtocolError
from psicli.protocol import messages
from psicli.protocol.bins import MAX_BINS
from psicli.protocol.messages import Hello, HelloOctets, Kept, Message, Offer, Purpose, TaskTerms
from psicli.protocol.streams import FRAME_ITEMS_STEP, LEAST_FRAME_ITEMS, MAX_FRAME_ITEMS
from psicli.protocol.wire import psi_pb2 as pb

# The cap on one message, both ways: a full frame of points is a quarter of it [bytes].
MAX_MESSAGE_BYTES = 2 << 20
# Far more than a job has; two million bytes of Hello could name a million [tasks].
MAX_TASKS = 10_000

# Every message but a Hello has the fields of its namesake in psi.proto, in the envelope's field of this name.
_MESSAGES: dict[str, type[Any]] = {
    field.name: getattr(messages, field.message_type.name)
    for field in pb.Envelope.DESCRIPTOR.fields
    if field.message_type is not None
}
_NAMES = {kind: name for name, kind in _MESSAGES.items()}
# What fields of bytes hold [bytes].
_SIZES = {
    "probe": messages.PROBE_BYTES,
    "digest": messages.DIGEST_BYTES,
    "sid": messages.SID_BYTES,
    "partition_sid": messages.SID_BYTES,
}


def encode(message: Message) -> bytes:
    """Serialise one message."""
    if isinstance(message, HelloOctets):
        envelope = pb.Envelope(hello=message.octets)
    else:
        body: dict[str, Any] = {_NAMES[type(message)]: _values(message)}
        envelope = pb.Envelope(**body)
    octets: bytes = envelope.SerializeToString()
    return octets


def _values(message: Any) -> dict[str, Any]:
    """Return the fields of a message as protobuf takes them."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    if isinstance(message, Offer):
        values["kept"] = None if message.kept is None else _values(message.kept)
    elif isinstance(message, Kept):
        values["finished"] = message.finished.to_bytes(-(-message.bins // 8), "little")
    elif isinstance(message, Hello):
        values["tasks"] = [_values(task) for task in message.tasks]
    return values


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
    name = envelope.WhichOneof("body")
    if name is None:
        raise PeerProtocolError(detail="a message of a kind this version does not know")
    body = getattr(envelope, name)
    message: Message = HelloOctets(body) if name == "hello" else _from_pb(body, _MESSAGES[name])
    return message


def _from_pb(body: Any, kind: type[Any]) -> Any:
    values = {field.name: getattr(body, field.name) for field in fields(kind)}
    for name, value in values.items():
        # Only the last Received of a one-sided task says its digest.
        empty = kind is messages.Received and not value
        if name in _SIZES and not empty:
            _check_size(value, _SIZES[name])
    if kind is Offer:
        values["kept"] = _from_pb(body.kept, Kept) if body.HasField("kept") else None
    elif kind is Kept:
        if body.bins > MAX_BINS:
            raise PeerProtocolError(detail=f"it offers to continue a task of {body.bins} bins")
        _check_size(body.finished, -(-body.bins // 8))
        values["finished"] = int.from_bytes(body.finished, "little")
    return kind(**values)


def encode_hello(hello: Hello) -> bytes:
    """Serialise a Hello into the octets that travel and are hashed."""
    octets: bytes = pb.Hello(**_values(hello)).SerializeToString()
    return octets


def decode_hello(octets: bytes) -> Hello:
    """Parse a Hello; raises PeerProtocolError when it is none."""
    try:
        hello = pb.Hello.FromString(octets)
    except DecodeError:
        raise PeerProtocolError(detail="a Hello that cannot be read") from None
    if int(hello.purpose) not in list(Purpose):
        raise PeerProtocolError(detail="a Hello without a purpose")
    if hello.protocol_version == messages.PROTOCOL_VERSION:
        # Of another version nothing else need be right: both sides are to say that they differ.
        _check_sizes(hello)
    values = {field.name: getattr(hello, field.name) for field in fields(Hello)}
    values["tasks"] = tuple(_from_pb(task, TaskTerms) for task in hello.tasks)
    values["purpose"] = Purpose(hello.purpose)
    return Hello(**values)


def _check_sizes(hello: pb.Hello) -> None:
    if not LEAST_FRAME_ITEMS <= hello.frame_items <= MAX_FRAME_ITEMS or hello.frame_items % FRAME_ITEMS_STEP:
        raise PeerProtocolError(detail="a Hello with an impossible frame size")
    if not hello.bin_items or hello.bin_items & (hello.bin_items - 1):
        raise PeerProtocolError(detail="a Hello with an impossible bin size")
    if len(hello.tasks) > MAX_TASKS:
        raise PeerProtocolError(detail=f"a Hello with more than {MAX_TASKS} tasks")
    _check_size(hello.nonce, messages.NONCE_BYTES)


def _check_size(octets: bytes, length: int) -> None:
    if len(octets) != length:
        raise PeerProtocolError(detail=f"a field of {len(octets)} bytes where {length} were due")
