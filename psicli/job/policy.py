"""What this party's policy allows, decided on counts: rules and nothing else, no input and no output.

Sizes and runs are decided before any point leaves, the result's limits before anything leaves that depends on a match.
"""

from __future__ import annotations

from dataclasses import dataclass

from psicli.config import PolicySettings
from psicli.core.errors import MatchRateError, OutputRowsError, PeerSizeError, TooManyRunsError


@dataclass(frozen=True)
class Policy:
    """The limits of this party, over one task. Every check raises a PolicyError with the limit and the figure."""

    limits: PolicySettings
    task: str

    def check_peer_items(self, items: int, questions: int) -> None:
        """Check how many distinct items the peer has, and how many it may ask about with its padding [items]."""
        least, most = self.limits.min_peer_items, self.limits.max_peer_items
        facts = {"task": self.task, "items": items}
        if least is not None and items < least:
            raise PeerSizeError(**facts, padding="", than="fewer", name="min_peer_items", limit=least)
        if most is not None and questions > most:
            padding = "" if questions == items else f" and may ask about {questions} with its padding"
            raise PeerSizeError(**facts, padding=padding, than="more", name="max_peer_items", limit=most)

    def check_runs(self, runs: int) -> None:
        """Check how many runs of the last 24 hours there were before this one."""
        most = self.limits.max_runs_per_day
        if most is not None and runs >= most:
            raise TooManyRunsError(task=self.task, runs=runs, limit=most)

    def check_match_rate(self, matched: int, own: int) -> None:
        """Check how many of the own distinct items the peer has too [items]."""
        most = self.limits.max_match_rate
        if most is not None and own and matched / own > most:
            raise MatchRateError(task=self.task, matched=matched, own=own, limit=most)

    def check_output_rows(self, rows: int) -> None:
        """Check how many rows the output would have."""
        least = self.limits.min_output_rows
        if least is not None and rows < least:
            raise OutputRowsError(task=self.task, rows=rows, limit=least)
