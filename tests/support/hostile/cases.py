"""All cheats in all roles, modes and directions, and the checks at the end of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import replace

from support.hostile.cheats import (
    AFTER_TOKENS,
    ANSWERS,
    BITMAP,
    BOTH,
    BROADCAST,
    CONFIRMING,
    HELLOS,
    MODES,
    OFFERS,
    ONE_SIDED,
    ONE_SIDED_SENDER,
    OPENING,
    POINTS,
    RECEIVER,
    SENDER,
    SKIPS,
    STREAMS,
    TOKENS,
)
from support.hostile.cheats_of_bins import (
    BINS,
    BITMAPS,
    RECEIVED,
    RESTARTS,
    RESTARTS_OF_RECEIVER,
    RESTARTS_OF_RESULT,
    RESTARTS_OF_SENDER,
    TOO_LATE,
)
from support.hostile.peer import Cheat, HostilePeer, Setting
from support.hostile.victims import Outcome, ProcessVictim, SessionVictim, meet
from support.processes.runner import Pair

from psicli.protocol.messages import (
    End,
    Frame,
    Ready,
    Received,
    Stream,
)

# Our side needs up to ten seconds to send its Abort to a peer that does not read, but less than an idle timeout [s].
ENDS_WITHIN = 25.0

Case = tuple[str, Cheat, Setting]


def cases(
    cheats: dict[str, Cheat],
    roles: Iterable[str] = BOTH,
    modes: Iterable[bool] = MODES,
    ends: Iterable[bool] = (False,),
    protocol: str = "",
) -> list[Case]:
    return [
        (
            f"{role}, {'broadcast' if broadcast else 'one-sided'}{', listening' if listens else ''}: {name}",
            cheat,
            replace(cheat.setting(receives=role == RECEIVER, broadcast=broadcast, listens=listens), protocol=protocol),
        )
        for (name, cheat), role, broadcast, listens in itertools.product(cheats.items(), roles, modes, ends)
    ]


ALL: list[Case] = [
    *cases(POINTS),
    *cases(STREAMS),
    *cases(OPENING),
    *cases(SKIPS),
    *cases(TOKENS, (SENDER,)),
    *cases(AFTER_TOKENS, (SENDER,), BROADCAST),
    *cases(CONFIRMING, (SENDER,), ONE_SIDED),
    *cases(BITMAP, (RECEIVER,), BROADCAST),
    *cases(ONE_SIDED_SENDER, (RECEIVER,), ONE_SIDED),
    *cases(TOO_LATE, BOTH, MODES, (False, True)),
    *cases(BINS),
    *cases(RECEIVED, (RECEIVER,)),
    *cases(BITMAPS, (RECEIVER,), BROADCAST),
    *cases(RESTARTS),
    *cases(RESTARTS_OF_SENDER, (SENDER,)),
    *cases(RESTARTS_OF_RECEIVER, (RECEIVER,)),
    *cases(RESTARTS_OF_RESULT, (RECEIVER,), BROADCAST),
    *cases(OFFERS),
    *cases(HELLOS, BOTH, ONE_SIDED, (False, True)),
    *cases(ANSWERS, (SENDER,), ONE_SIDED, (True,)),
]


def check(cheat: Cheat, peer: HostilePeer, told: int | None, outcome: Outcome, seconds: float) -> None:
    """Check how our side ended: its exit code and message, the code in its Abort, and that it wrote no output."""
    assert outcome.code == cheat.code, outcome
    assert re.search(cheat.sentence, outcome.message), outcome
    # A peer that breaks the protocol after the last task may have our last message already.
    assert told == cheat.told or (told is None and cheat in TOO_LATE.values())
    if cheat.code:
        assert not outcome.has_result or cheat.kept_output or "during the commit" in outcome.message
    assert seconds < ENDS_WITHIN
    # Text from a peer must not reach a terminal unescaped.
    assert outcome.message.isascii()
    assert outcome.message.replace("\n", "").isprintable()
    assert len(outcome.message) < 5000
    # A peer with bad lists must not get a result, nor a message which says that its lists are good.
    if cheat in POINTS.values() or cheat in TOKENS.values():
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard}
        assert not kinds & {(Received, 0), (Frame, Stream.BITMAP), (Ready, 0), (End, Stream.TOKENS)}


def check_result(victim: SessionVictim, setting: Setting) -> None:
    """Check that our side has the right result, or none if it should learn none."""
    assert victim.found == (setting.result if setting.victim_learns else None)


def check_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    """Check a real run of our side against a cheat: how it ended, its log and its output."""
    victim = ProcessVictim(pair, setting)
    check(cheat, *meet(victim, pair.port, setting, cheat))
    pair.nothing_left()
    assert victim.run is not None
    result = victim.run.result()
    if cheat.code:
        # The log holds one error and one hint; the rows of a table are not counted.
        assert sum(not error.startswith("overlap:  ") for error in result.errors) == 2
    else:
        assert result.errors == []
    if setting.victim_learns and (not cheat.code or cheat.kept_output):
        written = pair.path(setting.victim, "out/out.csv").read_text().split()
        assert written == ["id", *sorted(setting.result)]
