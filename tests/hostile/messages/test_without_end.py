"""A peer that sends endlessly, asks again and again, or goes away; and what a peer may observe."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty

import grpc
import pytest
from support.hostile.cases import ENDS_WITHIN, check
from support.hostile.cheats import ANSWERS, BOTH, TERMINAL
from support.hostile.cheats_of_bins import TWO_BINS
from support.hostile.peer import HONEST, AbortReceived, Cheat, HostilePeer, Out, Setting, StreamEnded
from support.hostile.victims import Outcome, ProcessVictim, SessionVictim, meet
from support.hostile.wire import DEADLINE, dial
from support.processes.runner import Pair, Run, free_ports

from psicli import curve
from psicli.protocol.messages import (
    Abort,
    Commit,
    Kept,
    Message,
    Offer,
    Received,
    Restart,
    Stream,
    Working,
)
from psicli.session import liveness
from psicli.transport import link

# Endless data and requests ------------------------------------------------------------------------------------------

# The least memory that a job file may allow (pipeline.memory), and the most that the run may use then [bytes].
LEAST_MEMORY, MOST_MEMORY = "384MB", 300 << 20
FULL = 16_384


def memory(run: Run) -> int:
    """Return the peak memory of the process [bytes]."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def flooded(pair: Pair, state: Path, *, receives: bool, bins: int) -> None:
    """Let a peer declare ten million items, send this many bins of valid points, and then garbage."""
    cheat = Cheat(
        "", hello=lambda peer, hello: replace(hello, frame_items=FULL, bin_items=2**20), theirs=10**7, ours=18
    )
    setting = cheat.setting(receives=receives, broadcast=not receives, listens=receives)
    pair.jobs[setting.victim]["pipeline"] = {"memory": LEAST_MEMORY}
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    victim = ProcessVictim(pair, setting)
    seen: list[float] = []

    def play(peer: HostilePeer) -> None:
        peer.open()
        # All bins get the same points, since our side does not compare bins with each other.
        own = peer.masked((b"%d" % n for n in range(peer.capacities[0])), tag=curve.PADDING_TAG)
        for number in range(bins):
            peer.say("points", peer.stream(peer.own_stream, own, number))
            if receives:
                peer.await_end(number, Stream.TOKENS)
                peer.say("received", [Received(0, number, 0)])
            else:
                peer.say_tokens(number)
                peer.hear_received(number)
        assert victim.run is not None
        seen.extend((memory(victim.run), time.monotonic()))
        peer.say("garbage", [b"\xff"])

    _, told, outcome, _ = meet(victim, pair.port, setting, replace(cheat, play=play))
    assert (told, outcome.code, outcome.has_result) == (76, 76, False), outcome
    peak, stopping = seen
    assert "a message that cannot be read" in outcome.message
    assert time.monotonic() - stopping < ENDS_WITHIN
    assert peak < MOST_MEMORY
    # The spool has been removed.
    left = {path.name.partition("-")[0] for path in state.rglob("*") if path.parent.name != "reports"}
    assert left == {"lock", "ledger.head", "ledger.jsonl", "reports", "sketches"}
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_endlessly(pair: Pair, state: Path, receives: bool) -> None:
    """Two of the peer's bins make ten full frames."""
    flooded(pair, state, receives=receives, bins=2)


@pytest.mark.slow
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_endlessly_for_long(pair: Pair, state: Path, receives: bool) -> None:
    flooded(pair, state, receives=receives, bins=60)


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", [10**9, 8 * 10**9], ids="{:.0e}".format)
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_count_reserves_nothing(pair: Pair, state: Path, receives: bool, count: int) -> None:
    """A peer declares as many items as fit into 65,536 bins; only what it then sends costs memory."""
    cheat = Cheat(
        "", hello=lambda peer, hello: replace(hello, frame_items=FULL, bin_items=2**20), theirs=count, ours=1000
    )
    setting = replace(cheat.setting(receives=receives, broadcast=not receives, listens=receives), theirs=0)
    pair.jobs[setting.victim]["pipeline"] = {"memory": LEAST_MEMORY}
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    victim = ProcessVictim(pair, setting)
    seen: list[int] = []

    def play(peer: HostilePeer) -> None:
        peer.setting = replace(setting, theirs=count)
        peer.open()
        peer.await_end(0, peer.their_stream)
        assert victim.run is not None
        seen.append(memory(victim.run))
        seen.append(sum(path.stat().st_blocks * 512 for path in state.rglob("*")))
        peer.say("garbage", [b"\xff"])

    _, told, outcome, _ = meet(victim, pair.port, setting, replace(cheat, play=play))
    assert (told, outcome.code, outcome.has_result) == (76, 76, False), outcome
    used, on_disk = seen
    assert used < MOST_MEMORY
    assert on_disk < 1 << 20
    pair.nothing_left()


@pytest.mark.sample(1)
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_trickles(port: int, monkeypatch: pytest.MonkeyPatch, receives: bool) -> None:
    """It lives, and every message is right, but no run waits for it for ever."""
    monkeypatch.setattr(liveness, "STUCK_AFTER", 1 / DEADLINE)
    monkeypatch.setattr(liveness, "LEAST_PACE", 10**9)

    def trickle(peer: HostilePeer) -> None:
        peer.open()
        for message in peer.stream(peer.own_stream, peer.points_of(0)):
            peer.say("points", [Working(), message])
            wait = time.monotonic() + 0.3
            while (left := wait - time.monotonic()) > 0:
                with suppress(Empty):
                    if peer.wire.receive(left) is None:
                        raise StreamEnded

    cheat = Cheat("is too slow: while this side waited for 1 s", 69, None, play=trickle, theirs=16_000, ours=18)
    setting = cheat.setting(receives=receives, broadcast=False)
    check(cheat, *meet(SessionVictim(port, setting), port, setting, cheat))


@pytest.mark.more
@pytest.mark.parametrize("restarts", [False, True], ids=["hangs up", "restarts and hangs up"])
def test_a_receiver_that_asks_again_and_again(pair: Pair, state: Path, restarts: bool) -> None:
    """A receiver that forgets each answer gets two in one run of the ledger; the answer to a Restart counts."""
    setting = replace(HONEST, **TWO_BINS).setting(receives=True, broadcast=False)
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    pair.jobs[setting.victim]["policy"] = {"max_runs_per_day": 1}
    victim = ProcessVictim(pair, setting)
    offered: list[bool] = []
    answers: list[int] = []

    def play(peer: HostilePeer) -> None:
        theirs = peer.hear(Offer).kept
        offered.append(theirs is not None)
        kept = theirs and Kept(theirs.partition_sid, theirs.peer_count, theirs.own_count, theirs.bins, 0)
        peer.say("offer", [Offer(0, kept)])
        peer.open_after(kept, 0 if kept else None)
        for attempt in (0, 1)[: 1 + restarts]:
            if attempt:
                peer.say("restart", [Restart(0, 0, attempt)])
            peer.say_points(0, attempt)
            peer.await_end(0, Stream.TOKENS, attempt)
            answers.append(attempt)
        peer.say("abort", [Abort(143)])

    cheat = replace(HONEST, code=69, play=play)
    codes = []
    for _ in range(2 if restarts else 3):
        _, told, outcome, _ = meet(victim, pair.port, setting, cheat)
        codes.append((told, outcome.code))
    assert codes == [(None, 69)] * (len(codes) - 1) + [(79, 79)]
    assert offered == ([False, False] if restarts else [False, True, False])
    assert answers == ([0, 1] if restarts else [0, 0])
    lines = [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]
    noted = [line["bin"] for line in lines if line["event"] == "answer"]
    assert noted.count(0) == 2
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("complete", [False, True], ids=["finished", "complete"])
def test_a_receiver_that_claims_answers_it_never_got(pair: Pair, state: Path, complete: bool) -> None:
    """It leaves when our side has begun both bins, and then offers both as finished: our side starts over."""
    setting = replace(HONEST, **TWO_BINS).setting(receives=True, broadcast=False)
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    victim = ProcessVictim(pair, setting)
    offered: list[Kept | None] = []

    def begin(peer: HostilePeer) -> None:
        peer.open()
        peer.await_that(lambda: bool(peer.data[1, 0, peer.their_stream]))
        peer.say("abort", [Abort(143)])

    def claim(peer: HostilePeer) -> None:
        theirs = peer.hear(Offer).kept
        assert theirs is not None
        offered.append(theirs)
        counts = theirs.peer_count, theirs.own_count, theirs.bins
        peer.say("offer", [Offer(0, Kept(theirs.partition_sid, *counts, 0b11, complete))])
        peer.open_after(None, None)
        for number in peer.left:
            peer.play_bin(number)
        peer.conclude()

    _, told, outcome, _ = meet(victim, pair.port, setting, replace(HONEST, code=69, play=begin))
    assert (told, outcome.code) == (None, 69), outcome
    _, told, outcome, _ = meet(victim, pair.port, setting, replace(HONEST, play=claim))
    assert (told, outcome.code) == (None, 0), outcome
    assert [kept.finished for kept in offered if kept] == [0]
    assert "done by an earlier run" not in outcome.message
    lines = [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("open") == 2
    pair.nothing_left()


def test_a_peer_that_just_goes_away(port: int) -> None:
    """Our side does not take a list without its End for a short list."""

    def go(peer: HostilePeer, due: list[Message]) -> list[Out]:
        peer.wire.close()
        return []

    cheat = Cheat("disconnected before the session was complete", 69, None, at={"points": go})
    for setting in (
        cheat.setting(receives=True, broadcast=False, listens=True),
        cheat.setting(receives=False, broadcast=True),
    ):
        with free_ports(1) as ports:
            check(cheat, *meet(SessionVictim(ports[0], setting), ports[0], setting, cheat))


def test_the_stream_of_an_abort_ends_when_the_peer_has_received_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Abort would be lost if our side closed the connection while the peer still writes."""
    monkeypatch.setattr(link, "HEARING_TIMEOUT", 2 * DEADLINE)
    setting = Setting(receives=True, broadcast=False, theirs=7, ours=7)
    with ExitStack() as stack:
        SessionVictim(port, setting).start()
        wire = dial(port, stack)
        peer = HostilePeer(wire, setting)
        peer.greet()
        peer.say("nonsense", [Commit(0, bytes(32))])
        with pytest.raises(AbortReceived):
            peer.hear(type(None))
        with pytest.raises(Empty):
            wire.receive(0.25)
        wire.close()
        assert wire.receive(DEADLINE) is None


def test_a_listener_that_compresses(port: int) -> None:
    setting = HONEST.setting(receives=False, broadcast=False, listens=True)
    victim = SessionVictim(port, setting)
    _, told, outcome, _ = meet(victim, port, setting, HONEST, grpc.Compression.Gzip)
    assert (told, outcome.code) == (None, 76)
    assert "it compresses its messages" in outcome.message


def test_junk_for_a_hello_does_not_take_the_session(port: int) -> None:
    """A client that sends junk gets no answer, and the real peer still gets its session."""
    setting = HONEST.setting(receives=True, broadcast=False)
    victim = SessionVictim(port, setting)
    victim.start()
    junk = (
        "frames of 0",
        "frames of 512",
        "bins of 0",
        "bins of 20000",
        "an unreadable Hello",
        "a short nonce",
        "no Hello",
    )
    for cheat in (ANSWERS[name] for name in junk):
        with ExitStack() as stack:
            peer = HostilePeer(dial(port, stack), setting, cheat)
            assert peer.run() is None
            assert peer.heard == []
    with ExitStack() as stack:
        # A compressed Hello does not even reach the session.
        assert HostilePeer(dial(port, stack, grpc.Compression.Gzip), setting).run() is None
        assert HostilePeer(dial(port, stack), setting).run() is None
    assert victim.outcome() == Outcome(0, "", False)


# What a peer may observe --------------------------------------------------------------------------------------------


def test_the_connection_ends_before_a_result_is_written(port: int) -> None:
    """A sender that keeps its end open cannot measure how long the receiver writes, which depends on the matches."""
    setting = HONEST.setting(receives=False, broadcast=False)
    victim = SessionVictim(port, setting)
    gone, seen = threading.Event(), []
    victim.plan.finish_alone = lambda matched: seen.append(gone.wait(DEADLINE))  # type: ignore[method-assign]
    with ExitStack() as stack:
        victim.start()
        wire = dial(port, stack)
        assert HostilePeer(wire, setting).run() is None

        def look(state: grpc.ChannelConnectivity) -> None:
            if state is not grpc.ChannelConnectivity.READY:
                gone.set()

        wire.channel.subscribe(look)
        assert victim.outcome().code == 0
    assert seen == [True]


@pytest.mark.more
def test_a_version_that_is_meant_for_a_terminal(pair: Pair) -> None:
    """The version is the only field that may differ; the report shows it in a harmless form."""
    setting = HONEST.setting(receives=False, broadcast=False)
    cheat = Cheat("", hello=lambda peer, hello: replace(hello, package_version=TERMINAL))
    victim = ProcessVictim(pair, setting)
    with ExitStack() as stack:
        victim.start()
        wire = dial(pair.port, stack)
        peer = HostilePeer(wire, setting, cheat)
        peer.greet()
        peer.play()
        wire.close()
        with pytest.raises(StreamEnded):
            peer.hear(type(None))
    assert victim.outcome().code == 0
    assert victim.run is not None
    report = victim.run.result().stdout.decode()
    assert report.isascii()
    assert report.replace("\n", "").isprintable()
    assert len(report) < 3000
