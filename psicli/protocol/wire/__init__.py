"""The encoding of messages; the only code that uses the generated protobuf classes.

Decoding trusts nothing: it raises PeerProtocolError unless the octets are exactly one known message of valid size. The
state machines check whether a message is allowed at that point.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from google.protobuf.message import DecodeError

from psicli.core.errors import counted
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol import messages
from psicli.protocol.bins import MAX_BINS
from psicli.protocol.messages import Hello, HelloOctets, Kept, Message, Offer, Purpose, TaskTerms
from psicli.protocol.streams import FRAME_ITEMS_STEP, LEAST_FRAME_ITEMS, MAX_FRAME_ITEMS
from psicli.protocol.wire import psi_pb2 as pb

# The largest message, in both directions; a full frame of points takes a quarter of it [bytes].
MAX_MESSAGE_BYTES = 2 << 20
# Far more than any job has; without a limit, a Hello of 2 MiB could name a million tasks.
MAX_TASKS = 10_000
# The largest Hello; the envelope around it needs a few bytes more [bytes].
MAX_HELLO_BYTES = MAX_MESSAGE_BYTES - 64
# As many forms as key columns, each with a short name [bytes].
MAX_FORMS = 255
MAX_FORM_BYTES = 64
# What a task may be called, as in a job file.
_NAME = r"[a-z0-9-]{1,63}"

# The message class for each field of the envelope; every class but Hello has the same fields as its protobuf message.
_MESSAGES: dict[str, type[Any]] = {
    field.name: getattr(messages, field.message_type.name)
    for field in pb.Envelope.DESCRIPTOR.fields
    if field.message_type is not None
}
_NAMES = {kind: name for name, kind in _MESSAGES.items()}
# The sizes of fields of fixed length [bytes].
_SIZES = {
    "probe": messages.PROBE_BYTES,
    "digest": messages.DIGEST_BYTES,
    "sid": messages.SID_BYTES,
    "partition_sid": messages.SID_BYTES,
    "machine": messages.MACHINE_BYTES,
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
    """Return the fields of a message in the form that protobuf expects."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    if isinstance(message, Offer):
        values["kept"] = None if message.kept is None else _values(message.kept)
    elif isinstance(message, Kept):
        values["finished"] = message.finished.to_bytes(-(-message.bins // 8), "little")
    elif isinstance(message, Hello):
        values["tasks"] = [_values(task) for task in message.tasks]
    return values


def decode(octets: bytes) -> Message:
    """Parse one message; raises PeerProtocolError for anything that this version does not know."""
    if len(octets) > MAX_MESSAGE_BYTES:
        raise PeerProtocolError(detail=f"it sent a message of more than {MAX_MESSAGE_BYTES:,} bytes")
    try:
        envelope = pb.Envelope.FromString(octets)
    except DecodeError:
        raise PeerProtocolError(detail="it sent a message that cannot be read") from None
    # Both parties have the same protocol version, so no honest peer sends fields that parsing skips or overwrites.
    envelope.DiscardUnknownFields()
    if envelope.ByteSize() != len(octets):
        raise PeerProtocolError(detail="it sent a message with unknown or repeated fields")
    name = envelope.WhichOneof("body")
    if name is None:
        raise PeerProtocolError(detail="it sent a message of an unknown kind")
    body = getattr(envelope, name)
    message: Message = HelloOctets(body) if name == "hello" else _from_pb(body, _MESSAGES[name])
    return message


def _from_pb(body: Any, kind: type[Any]) -> Any:
    values = {field.name: getattr(body, field.name) for field in fields(kind)}
    for name, value in values.items():
        # Only the last Received of a one-sided task carries a digest, and not every machine has a number.
        empty = kind in (messages.Received, messages.Measured) and not value
        if name in _SIZES and not empty:
            _check_size(value, _SIZES[name])
    if kind is Offer:
        values["kept"] = _from_pb(body.kept, Kept) if body.HasField("kept") else None
    elif kind is Kept:
        if body.bins > MAX_BINS:
            raise PeerProtocolError(
                detail=f"it offered to resume a task of {counted(body.bins, 'bin')}, which cannot exist"
            )
        _check_size(body.finished, -(-body.bins // 8))
        values["finished"] = int.from_bytes(body.finished, "little")
    return kind(**values)


def encode_hello(hello: Hello) -> bytes:
    """Serialise a Hello into the octets that are sent and hashed."""
    octets: bytes = pb.Hello(**_values(hello)).SerializeToString()
    return octets


def decode_hello(octets: bytes) -> Hello:
    """Parse a Hello; raises PeerProtocolError if it is invalid."""
    try:
        hello = pb.Hello.FromString(octets)
    except DecodeError:
        raise PeerProtocolError(detail="it sent a Hello that cannot be read") from None
    if int(hello.purpose) not in list(Purpose):
        raise PeerProtocolError(detail="it sent a Hello without a valid purpose")
    if hello.protocol_version == messages.PROTOCOL_VERSION:
        # A Hello of another version may follow other rules; both parties then report that their versions differ.
        _check_sizes(hello)
    values = {field.name: getattr(hello, field.name) for field in fields(Hello)}
    values["tasks"] = tuple(_task_from_pb(task) for task in hello.tasks)
    values["purpose"] = Purpose(hello.purpose)
    return Hello(**values)


def _task_from_pb(task: pb.TaskTerms) -> TaskTerms:
    terms: TaskTerms = _from_pb(task, TaskTerms)
    return replace(terms, key_form=tuple(task.key_form))


def _check_sizes(hello: pb.Hello) -> None:
    if not LEAST_FRAME_ITEMS <= hello.frame_items <= MAX_FRAME_ITEMS or hello.frame_items % FRAME_ITEMS_STEP:
        raise PeerProtocolError(detail="it sent a Hello with an impossible frame size")
    if not hello.bin_items or hello.bin_items & (hello.bin_items - 1):
        raise PeerProtocolError(detail="it sent a Hello with an impossible bin size")
    if len(hello.tasks) > MAX_TASKS:
        raise PeerProtocolError(detail=f"it sent a Hello with more than {MAX_TASKS:,} tasks")
    _check_size(hello.nonce, messages.NONCE_BYTES)
    for task in hello.tasks:
        _check_forms(task)
    _check_groups(hello)


def _check_forms(task: pb.TaskTerms) -> None:
    if len(task.key_form) > MAX_FORMS:
        raise PeerProtocolError(detail=f"it sent a task with more than {MAX_FORMS} key forms")
    texts = *task.key_form, task.unicode_version, task.phone_version, task.result, task.protocol
    if any(len(text.encode()) > MAX_FORM_BYTES for text in texts):
        what = "a key form, a version, a result or a protocol"
        raise PeerProtocolError(detail=f"it sent {what} of more than {MAX_FORM_BYTES} bytes")
    if not all(task.key_form) or (task.phone_version and not any(map(_is_phone, task.key_form))):
        raise PeerProtocolError(detail="it sent an empty key form, or a version for a form that it did not send")
    _check_size(task.forms_probe, messages.PROBE_BYTES if task.key_form else 0)


def _check_groups(hello: pb.Hello) -> None:
    """Check the names of tasks that are files: both parties derive from them which tasks run, and show them."""
    if not any(task.group for task in hello.tasks):
        return
    if len({task.name for task in hello.tasks}) < len(hello.tasks):
        raise PeerProtocolError(detail="it sent a Hello that names a task twice")
    ended: set[str] = set()
    for group, tasks in groupby(hello.tasks, key=lambda task: str(task.group)):
        names = [task.name for task in tasks]
        if not group:
            continue
        if not all(re.fullmatch(_NAME, name) and _is_of(group, name) for name in names):
            raise PeerProtocolError(detail="it sent a file's task with a name that it cannot have")
        if group in ended or names != sorted(names) or (group in names and len(names) > 1):
            raise PeerProtocolError(detail="it sent the tasks of a group in another order than that of their names")
        ended.add(group)


def _is_of(group: str, name: str) -> bool:
    return name == group or (name.startswith(f"{group}-") and name != f"{group}-")


def _is_phone(key_form: str) -> bool:
    return key_form.partition("/")[0] == "phone"


def _check_size(octets: bytes, length: int) -> None:
    if len(octets) != length:
        raise PeerProtocolError(detail=f"it sent a field of {len(octets)} bytes where {length} were due")
