"""Tests of the encoding: round trips, invalid octets, limits, and the generated code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.memory.messages import any_message, digests, messages, u32, u64

import psicli
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol import wire
from psicli.protocol.bins import MAX_BINS
from psicli.protocol.messages import (
    Abort,
    Ask,
    Bye,
    Commit,
    Done,
    End,
    Filler,
    Frame,
    Hello,
    HelloOctets,
    Kept,
    Measured,
    Message,
    Offer,
    Open,
    Purpose,
    Ready,
    Received,
    Reconnect,
    Restart,
    Skip,
    Taken,
    TaskTerms,
    Working,
)
from psicli.protocol.streams import FRAME_ITEMS, LEAST_FRAME_ITEMS, MAX_FRAME_ITEMS
from psicli.protocol.wire import psi_pb2 as pb

# Without surrogates, which cannot be encoded.
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

short = names.filter(lambda text: len(text.encode()) <= 64)
with_forms = st.builds(
    TaskTerms,
    *(names, names, st.booleans(), u32),
    key_form=st.lists(short, min_size=1, max_size=3).map(tuple),
    forms_version=u32,
    forms_probe=st.binary(min_size=16, max_size=16),
    unicode_version=short,
    phone_version=short,
)
hellos = st.builds(
    Hello,
    package_version=names,
    party=names,
    job=names,
    tasks=st.lists(st.builds(TaskTerms, names, names, st.booleans(), u32) | with_forms, max_size=5).map(tuple),
    frame_items=st.integers(LEAST_FRAME_ITEMS // 8, MAX_FRAME_ITEMS // 8).map(lambda n: n * 8),
    bin_items=st.integers(0, 31).map(lambda bits: 1 << bits),
    nonce=digests,
    purpose=st.sampled_from(Purpose),
    protocol_version=u32,
    suite=names,
    recv_timeout_ms=u32,
    clock_ms=u64,
    measures=st.booleans(),
)

HELLO = Hello("0.1.0", "alice", "nightly", (TaskTerms("customers", "alice", True, 2),), 2048, 1 << 20, bytes(range(32)))


# Round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", messages, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_wire(kind: type[Message]) -> None:
    @settings(max_examples=50, deadline=None)
    @given(messages[kind])
    def round_trip(message: Message) -> None:
        decoded = wire.decode(wire.encode(message))
        assert type(decoded) is kind
        assert decoded == message

    round_trip()


def test_the_strategies_cover_every_kind_of_the_schema() -> None:
    kinds = {pb.Envelope.FromString(wire.encode(message)).WhichOneof("body") for message in EXAMPLES}
    assert kinds == {field.name for field in pb.Envelope.DESCRIPTOR.fields}
    assert {type(message) for message in EXAMPLES} == set(messages)


@settings(max_examples=100, deadline=None)
@given(hellos)
def test_a_hello_survives_the_wire(hello: Hello) -> None:
    octets = wire.encode_hello(hello)
    assert wire.decode_hello(octets) == hello
    assert wire.decode(wire.encode(HelloOctets(octets))) == HelloOctets(octets)


def test_a_full_frame_is_far_below_the_cap() -> None:
    for items in (FRAME_ITEMS, MAX_FRAME_ITEMS):
        octets = wire.encode(Frame(*[2**32 - 1] * 5, bytes(items * 32)))
        assert len(octets) < items * 32 + 64 <= wire.MAX_MESSAGE_BYTES


# Invalid octets ------------------------------------------------------------------------------------------------

KEPT = Kept(bytes(32), 1, 2, 16, 0x8001)
EXAMPLES: list[Message] = [
    HelloOctets(wire.encode_hello(HELLO)),
    Offer(1),
    Offer(2, KEPT),
    Skip(1, 65),
    Skip(300),
    Open(1, 1000, bytes(range(16))),
    Frame(1, 2, 0, 3, 4, bytes(range(64))),
    End(1, 2, 1, 3, 1000, bytes(range(32))),
    Received(1, 0, 0),
    Received(1, 2, 1, bytes(range(32))),
    Restart(1, 2, 1),
    Ready(300),
    Commit(1, bytes(range(32))),
    Done(7, bytes(range(32))),
    Working(),
    Abort(76),
    Ask(1 << 18),
    Filler(bytes(range(64))),
    Measured(54_000, 1_250_000, 98_000, 120_000, bytes(range(16))),
    Reconnect(bytes(range(32)), 2, 7),
    Taken(1 << 40),
    Bye(),
]
UNKNOWN_FIELD = b"\xf8\x07\x01"  # field 127, a varint

each_example = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)


def refused(octets: bytes) -> bool:
    """Return whether decoding raises PeerProtocolError; any other exception fails the test."""
    try:
        wire.decode(octets)
    except PeerProtocolError:
        return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
@example(b"")
@example(UNKNOWN_FIELD)
@example(b"\x0a")
@example(b"\xff" * 40)
@example(b"\x0b" * 200)  # deeply nested groups
def test_junk_is_refused_or_a_message(octets: bytes) -> None:
    if not refused(octets):
        assert len(wire.encode(wire.decode(octets))) == len(octets)


def test_an_empty_message_is_refused() -> None:
    assert refused(b"")


@each_example
def test_a_truncated_message_is_refused(message: Message) -> None:
    octets = wire.encode(message)
    for length in range(len(octets)):
        assert refused(octets[:length])


@each_example
def test_any_addition_is_refused(message: Message) -> None:
    """Additions are unknown fields, a second message in the same envelope, or the same message again."""
    octets = wire.encode(message)
    for extra in (UNKNOWN_FIELD, b"\0", *(wire.encode(other) for other in EXAMPLES)):
        assert refused(octets + extra)
        assert refused(extra + octets)


KINDS = [field.name for field in pb.Envelope.DESCRIPTOR.fields if field.name != "hello"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_inside_is_refused(kind: str) -> None:
    for message in EXAMPLES:
        envelope = pb.Envelope.FromString(wire.encode(message))
        if envelope.WhichOneof("body") == kind:
            getattr(envelope, kind).MergeFromString(UNKNOWN_FIELD)
            assert refused(envelope.SerializeToString())


@pytest.mark.more
@settings(max_examples=500, deadline=None)
@given(message=any_message, data=st.data())
def test_a_mutated_message_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    octets = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(octets)))
        removed = data.draw(st.integers(0, 3))
        octets[at : at + removed] = data.draw(st.binary(max_size=3))
    if not refused(bytes(octets)):
        decoded = wire.decode(bytes(octets))
        assert wire.decode(wire.encode(decoded)) == decoded
        assert len(wire.encode(decoded)) == len(octets)


@settings(max_examples=300, deadline=None)
@given(hello=hellos, data=st.data())
def test_a_mutated_hello_is_refused_or_another_hello(hello: Hello, data: st.DataObject) -> None:
    octets = bytearray(wire.encode_hello(hello))
    at = data.draw(st.integers(0, len(octets)))
    octets[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        decoded = wire.decode_hello(bytes(octets))
    except PeerProtocolError:
        return
    assert wire.decode_hello(wire.encode_hello(decoded)) == decoded


@given(st.binary(max_size=60))
@example(b"")
def test_junk_is_not_a_hello(octets: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(octets)


# Fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 33, 64])
def test_lengths_of_fixed_fields(length: int) -> None:
    octets = bytes(length)
    for message in (
        Offer(0, replace(KEPT, partition_sid=octets)),
        Open(0, 1, octets),
        End(0, 0, 0, 1, 1, octets),
        Commit(0, octets),
        Done(0, octets),
        Reconnect(octets, 1, 1),
    ):
        assert refused(wire.encode(message))
    # Only the last Received of a one-sided task has a digest; all others have an empty one.
    assert refused(wire.encode(Received(0, 0, 0, octets))) == bool(octets)
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(wire.encode_hello(replace(HELLO, nonce=octets)))


FORMS = replace(HELLO.tasks[0], key_form=("email", "phone"), forms_version=1, forms_probe=bytes(16))


@pytest.mark.parametrize(
    "task",
    [
        replace(FORMS, forms_probe=bytes(15)),
        replace(FORMS, forms_probe=b""),
        replace(FORMS, key_form=()),
        replace(FORMS, key_form=("text",) * 256),
        replace(FORMS, key_form=("é" * 33,)),
        replace(FORMS, unicode_version="1" * 65),
        replace(FORMS, phone_version="1" * 65),
        replace(FORMS, key_form=("email", "")),
        replace(FORMS, key_form=("email",), phone_version="9"),
    ],
    ids=str,
)
def test_key_forms_have_limits(task: TaskTerms) -> None:
    most = replace(
        FORMS, key_form=("é" * 32,) * 254 + ("phone/sha256",), unicode_version="1" * 64, phone_version="1" * 64
    )
    assert wire.decode_hello(wire.encode_hello(replace(HELLO, tasks=(most,)))).tasks == (most,)
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(wire.encode_hello(replace(HELLO, tasks=(task,))))


@pytest.mark.parametrize("name", ["result", "protocol"])
def test_a_result_and_a_protocol_that_this_version_does_not_know(name: str) -> None:
    """The agreement compares them and shows them; the decoder refuses what is too long."""
    known, long = (replace(HELLO.tasks[0], **{name: "é" * length}) for length in (32, 33))
    assert wire.decode_hello(wire.encode_hello(replace(HELLO, tasks=(known,)))).tasks == (known,)
    with pytest.raises(PeerProtocolError, match="a result or a protocol of more than 64 bytes"):
        wire.decode_hello(wire.encode_hello(replace(HELLO, tasks=(long,))))


def test_a_task_without_key_forms_says_nothing_about_them() -> None:
    octets = pb.TaskTerms(name="customers", receiver="alice", broadcast_result=True, key_columns=2).SerializeToString()
    # Nor about rows and ecdh, like a version that knows nothing else.
    assert octets == b"\x0a\x09customers\x12\x05alice\x18\x01\x20\x02"
    assert octets in wire.encode_hello(HELLO)


@pytest.mark.parametrize(("bins", "octets"), [(0, 1), (1, 0), (1, 2), (8, 2), (9, 1), (16, 3), (MAX_BINS, 8191)])
def test_an_offer_has_a_bit_for_each_bin_in_whole_bytes(bins: int, octets: int) -> None:
    kept = pb.Kept(partition_sid=bytes(32), own_count=1, peer_count=1, bins=bins, finished=bytes(octets))
    assert refused(pb.Envelope(offer=pb.Offer(task=0, kept=kept)).SerializeToString())


@pytest.mark.parametrize("bins", [MAX_BINS + 1, 2 * MAX_BINS, 2**32 - 1])
def test_an_offer_of_more_bins_than_there_may_be(bins: int) -> None:
    """It is refused before its bits are parsed, which could be half a gigabyte."""
    kept = pb.Kept(partition_sid=bytes(32), own_count=1, peer_count=1, bins=bins, finished=b"")
    with pytest.raises(PeerProtocolError, match=f"it offered to resume a task of {bins:,} bins"):
        wire.decode(pb.Envelope(offer=pb.Offer(task=0, kept=kept)).SerializeToString())


@pytest.mark.parametrize(
    "items", [0, 1, 8, 512, 1016, 1023, 1025, 2047, MAX_FRAME_ITEMS + 1, MAX_FRAME_ITEMS + 8, 2**32 - 8]
)
def test_impossible_frame_sizes(items: int) -> None:
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(wire.encode_hello(replace(HELLO, frame_items=items)))


@pytest.mark.parametrize("items", [1024, 1032, 2048, FRAME_ITEMS, MAX_FRAME_ITEMS])
def test_possible_frame_sizes(items: int) -> None:
    assert wire.decode_hello(wire.encode_hello(replace(HELLO, frame_items=items))).frame_items == items


@pytest.mark.parametrize("items", [0, 3, 16_383, 16_385, 3 << 20, 2**32 - 1])
def test_impossible_bin_sizes(items: int) -> None:
    with pytest.raises(PeerProtocolError, match="a Hello with an impossible bin size"):
        wire.decode_hello(wire.encode_hello(replace(HELLO, bin_items=items)))


@pytest.mark.parametrize("items", [1, 8192, 16_384, 1 << 20, 1 << 31])
def test_possible_bin_sizes(items: int) -> None:
    """The agreement, not the decoder, checks whether the size is large enough."""
    assert wire.decode_hello(wire.encode_hello(replace(HELLO, bin_items=items))).bin_items == items


@pytest.mark.parametrize("purpose", [0, 3, 2**31 - 1])
def test_a_hello_needs_a_known_purpose(purpose: int) -> None:
    hello = pb.Hello.FromString(wire.encode_hello(HELLO))
    hello.purpose = purpose
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(hello.SerializeToString())


def test_a_hello_of_another_version_is_read() -> None:
    """The agreement reports the difference; new fields of a later version must not prevent that."""
    other = replace(HELLO, protocol_version=3, suite="psicli-v2")
    assert wire.decode_hello(wire.encode_hello(other) + UNKNOWN_FIELD) == other


def test_text_that_is_not_utf_8() -> None:
    octets = wire.encode_hello(HELLO)
    assert octets.count(b"nightly") == 1
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(octets.replace(b"nightly", b"nigh\xfftl"))


# The generated code --------------------------------------------------------------------------------------------

FOLDER = Path(psicli.__file__).parent / "protocol" / "wire"


def protoc(*arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(FOLDER), *arguments, "psi.proto"]
    subprocess.run(command, check=True, timeout=60)


def test_the_generated_code_is_that_of_psi_proto(tmp_path: Path) -> None:
    protoc(f"--descriptor_set_out={tmp_path}/set")
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    # The generated code omits these, because they follow from the names.
    for message in compiled.message_type:
        for field in message.field:
            field.ClearField("json_name")
    committed = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert committed == compiled
    assert committed.SerializeToString(deterministic=True) == compiled.SerializeToString(deterministic=True)


def test_the_generated_files_are_up_to_date(tmp_path: Path) -> None:
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    made, committed = ((folder / "psi_pb2.py").read_text() for folder in (tmp_path, FOLDER))
    versions = [re.findall(r"^# Protobuf Python Version: (.*)$", text, re.M) for text in (made, committed)]
    assert all(len(version) == 1 for version in versions)
    if versions[0] != versions[1]:
        pytest.skip(f"the installed protoc is {versions[0][0]}, but psi_pb2.py was generated by {versions[1][0]}")
    assert made == committed
    assert (tmp_path / "psi_pb2.pyi").read_text() == (FOLDER / "psi_pb2.pyi").read_text()


def test_a_message_over_the_cap() -> None:
    with pytest.raises(PeerProtocolError, match="a message of more than 2,097,152 bytes"):
        wire.decode(wire.encode(Frame(0, 0, 0, 1, 0, bytes(wire.MAX_MESSAGE_BYTES))))


def months(*names: str, group: str = "months") -> Hello:
    return replace(HELLO, tasks=(*HELLO.tasks, *(TaskTerms(name, "alice", True, 2, group=group) for name in names)))


def test_a_task_that_is_a_file_says_so_and_others_send_what_they_sent_before() -> None:
    hello = months("months-01", "months-02")
    assert wire.decode_hello(wire.encode_hello(hello)) == hello
    assert wire.decode_hello(wire.encode_hello(months("months"))) == months("months")
    # Field 10 is the last one of a task, and absent in the first.
    without = wire.encode_hello(replace(hello, tasks=tuple(replace(task, group="") for task in hello.tasks)))
    assert wire.encode_hello(hello).count(b"\x52\x06months") == 2
    assert b"\x52" not in without


@pytest.mark.parametrize(
    "hello",
    [
        months("months-02", "months-01"),
        months("months-01", "months-01"),
        months("months", "months-01"),
        months("months-"),
        months("other-01"),
        months("months-A"),
        months("months-\x1b[2J"),
        months("months-" + "1" * 57),
        months("", group="-"),
        months("customers", group="customers"),
    ],
)
def test_groups_that_no_honest_party_sends(hello: Hello) -> None:
    with pytest.raises(PeerProtocolError):
        wire.decode_hello(wire.encode_hello(hello))


def test_a_group_in_two_places() -> None:
    first, second = months("months-01"), months("months-02")
    apart = (*first.tasks, TaskTerms("between", "alice", True, 2), second.tasks[-1])
    with pytest.raises(PeerProtocolError, match="another order"):
        wire.decode_hello(wire.encode_hello(replace(HELLO, tasks=apart)))


def test_a_hello_that_names_a_million_tasks() -> None:
    """Such a Hello is small on the wire but large in memory."""
    octets = wire.encode_hello(HELLO)
    # Field 7 with length 0 is a task without a name.
    assert len(wire.decode_hello(octets + b"\x3a\x00" * (wire.MAX_TASKS - 1)).tasks) == wire.MAX_TASKS
    with pytest.raises(PeerProtocolError, match="more than 10,000 tasks"):
        wire.decode_hello(octets + b"\x3a\x00" * 1_000_000)
