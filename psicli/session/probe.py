"""Measure the link to the peer, for `psicli check`: a bounded probe that both parties agree to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LinkSpeed:
    """What the probe found out about the link, and what the peer says about its machine.

    round_trip: the shortest time of a message and its answer [s]. sending, receiving: the bandwidth in each direction
    [bytes per second]; None if it was not measured. peer_rates: how fast the peer's kernel is, by operation [points per
    second]; None if it does not say.
    """

    round_trip: float
    sending: float | None = None
    receiving: float | None = None
    peer_rates: Mapping[str, float] | None = None
