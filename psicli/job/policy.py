"""The rules of this party's policy, as checks of counts without any I/O.

psicli checks sizes and runs before it sends any point, and the limits on the result before it sends anything that
depends on a match.
"""

from __future__ import annotations

from dataclasses import dataclass

from psicli.config import PolicySettings
from psicli.core.errors import MatchRateError, OutputRowsError, PeerSizeError, TooManyRunsError, counted


@dataclass(frozen=True)
class Policy:
    """The limits of this party for one task. Every check raises a PolicyError that names the limit and the number."""

    limits: PolicySettings
    task: str

    def check_peer_items(self, items: int, questions: int) -> None:
        """Check how many distinct items the peer has, and how many it can ask about including padding [items]."""
        least, most = self.limits.min_peer_items, self.limits.max_peer_items
        facts = {"task": self.task, "items": counted(items, "distinct item")}
        if least is not None and items < least:
            raise PeerSizeError(**facts, padding="", than="fewer", name="min_peer_items", limit=least)
        if most is not None and questions > most:
            padding = "" if questions == items else f" and can ask about {questions:,} including padding"
            raise PeerSizeError(**facts, padding=padding, than="more", name="max_peer_items", limit=most)

    def check_runs(self, runs: int) -> None:
        """Check how many runs there were in the 24 hours before this one."""
        most = self.limits.max_runs_per_day
        if most is not None and runs >= most:
            raise TooManyRunsError(task=self.task, runs=counted(runs, "run"), limit=most)

    def check_match_rate(self, matched: int, own: int) -> None:
        """Check what share of this party's distinct items matched [items]."""
        most = self.limits.max_match_rate
        if most is not None and own and matched / own > most:
            raise MatchRateError(task=self.task, matched=matched, own=counted(own, "distinct item"), limit=most)

    def check_output_rows(self, rows: int) -> None:
        """Check how many rows the output would have [rows]."""
        least = self.limits.min_output_rows
        if least is not None and rows < least:
            raise OutputRowsError(task=self.task, rows=counted(rows, "row"), limit=least)
