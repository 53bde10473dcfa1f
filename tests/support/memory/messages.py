"""Hypothesis strategies for the messages of the protocol."""

from __future__ import annotations

from hypothesis import strategies as st

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
    HelloOctets,
    Kept,
    Measured,
    Message,
    Offer,
    Open,
    Ready,
    Received,
    Reconnect,
    Restart,
    Skip,
    Taken,
    Working,
)

u32 = st.integers(0, 2**32 - 1)


u64 = st.integers(0, 2**64 - 1)


digests = st.binary(min_size=32, max_size=32)


@st.composite
def offered(draw: st.DrawFn) -> Kept:
    """Return the checkpoint of an Offer; its bits of finished bins fill whole bytes, so spare bits may be set."""
    bins = draw(st.integers(0, 40) | st.just(MAX_BINS))
    finished = draw(st.integers(0, (1 << -(-bins // 8) * 8) - 1))
    return Kept(draw(digests), draw(u64), draw(u64), bins, finished, draw(st.booleans()))


where = {"task": u32, "bin": u32, "attempt": u32}


messages: dict[type[Message], st.SearchStrategy[Message]] = {
    HelloOctets: st.builds(HelloOctets, octets=st.binary(max_size=200)),
    Offer: st.builds(Offer, task=u32, kept=st.none() | offered()),
    Skip: st.builds(Skip, task=u32, failure_class=u32),
    Open: st.builds(Open, task=u32, count=u64, probe=st.binary(min_size=16, max_size=16)),
    Frame: st.builds(Frame, **where, stream=u32, seq=u32, data=st.binary(max_size=300)),
    End: st.builds(End, **where, stream=u32, count=u64, digest=digests),
    Received: st.builds(Received, **where, digest=st.just(b"") | digests),
    Restart: st.builds(Restart, **where),
    Ready: st.builds(Ready, task=u32),
    Commit: st.builds(Commit, task=u32, digest=digests),
    Done: st.builds(Done, task=u32, digest=digests),
    Working: st.just(Working()),
    Abort: st.builds(Abort, failure_class=u32),
    Ask: st.builds(Ask, octets=u32),
    Filler: st.builds(Filler, data=st.binary(max_size=300)),
    Measured: st.builds(
        Measured,
        round_trip_us=u32,
        bytes_per_second=u64,
        hash_and_mask=u64,
        mask=u64,
        machine=st.sampled_from([b"", bytes(16), bytes(range(16))]),
    ),
    Reconnect: st.builds(Reconnect, sid=digests, attempt=u32, messages=u64),
    Taken: st.builds(Taken, messages=u64),
    Bye: st.just(Bye()),
}


any_message = st.one_of(*messages.values())
