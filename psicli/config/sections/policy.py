"""The section `policy` of a job file."""

from __future__ import annotations

from typing import Annotated

from psicli.config import fields
from psicli.config.model import Model, field, optional
from psicli.config.model.kinds import Bounds

# Larger differences cannot be told from a sketch of 4,096 buckets.
MAX_DIFFERENCE = 1000

_Limit = Annotated[int, Bounds(ge=1), fields.PLAIN_DIGITS] | None
_Difference = Annotated[int, Bounds(ge=0, le=MAX_DIFFERENCE), fields.PLAIN_DIGITS]


class PolicySettings(Model):
    """The limits that this party sets."""

    min_items: _Limit = optional(
        "Fewest distinct items this party must have, in every task. A run with fewer ends before the other party "
        "learns how many there are.",
        1000,
    )
    min_peer_items: _Limit = optional(
        "Fewest distinct items the other party must have, in every task. Padding does not count.", 1000
    )
    max_peer_items: _Limit = optional(
        "Most distinct items the other party may have, in every task. Padding counts. In a task with `protocol: rr22`, "
        "a sender counts a tenth more, and 256 for each bin.",
        10_000_000,
    )
    max_runs_per_day: _Limit = optional(
        "How many runs within 24 hours may use the same input and key columns with the same party. A run counts "
        "once the other party may know the number of keys, whatever its task is called and however it ended.",
        2,
    )
    min_difference: _Difference | None = optional(
        "Fewest items in which this party's input must differ from earlier inputs with the same party (the last 8 of "
        "each task), unless two are the same. The difference between two results names these items to whoever sees "
        "both. With 0, psicli neither compares nor keeps inputs of this job; by default it warns below 10.",
        50,
    )
    max_match_rate: fields.Rate | None = optional(
        "Largest fraction of this party's distinct items that may match. Only a party that learns the result can set "
        "it.",
        0.25,
    )
    min_output_rows: _Limit = optional(
        "Fewest rows of the input that must match, whichever rows the output holds. Only a party that learns the "
        "result can set it.",
        10,
    )
    max_drift: fields.Drift | None = optional(
        "How far a run may be outside the usual range of its task: 1 is the edge of the range, 2 is twice as far from "
        "the usual value. psicli learns the range of rows, items, the other party's items and the match rate from the "
        "earlier runs in the ledger. A run that is further away fails, and the old output stays; by default psicli "
        "only warns.",
        2,
    )
    whole_percent: fields.Bool = field(
        "Whether reports, logs and the ledger of this party say only in whole percent how much matched, and name no "
        "number of matches. Outputs stay exact.",
        True,
        default=False,
    )
    min_duration: fields.Duration | None = optional(
        "Shortest time from the start of a run to its report and its end, such as `30s`, `10m` or `2h`; a number alone "
        "is a number of seconds. It hides how long this party compared and wrote, from which somebody who sees when "
        "the process ends could estimate how much matched. A run that ends before both parties have opened a task "
        "does not wait. If a run takes longer, psicli warns.",
        "10m",
    )
    max_duration: fields.Duration | None = optional(
        "Longest time from the start of a run to the end of the exchange, written like `min_duration`. It includes the "
        "wait for the other party. A result that only this party still has to write is written.",
        "4h",
    )
    strict: fields.Bool = field(
        "Whether to trade speed and convenience for certainty: with `true`, psicli checks that every received point, "
        "not only 64 of each frame, is on the curve; it refuses to run without TLS, even on one machine, without the "
        "native backend, which computes in constant time, and with a ledger that somebody has changed.",
        True,
        default=False,
    )
