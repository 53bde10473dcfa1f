"""Which form two key columns need, by how each party writes its values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from support.keys.proposals import normalized, proposed

from psicli.setup.propose import Given

UUIDS = [str(UUID(int=0x123E4567E89B42D3A456426614174000 + number * 0x9E3779B97F4A7C15)) for number in range(60)]
BARE = [each.replace("-", "") for each in UUIDS]
MIXED = [
    *(each.upper() for each in UUIDS[:10]), *BARE[10:20], *(f"{{{each}}}" for each in UUIDS[20:30]),
    *(f"urn:uuid:{each}" for each in UUIDS[30:40]), *UUIDS[40:59], "unknown",
]  # fmt: skip
DATES = [date(2024, 1 + number // 28, 1 + number % 28) for number in range(60)]
ISO = [str(day) for day in DATES]
DMY = [f"{day:%d.%m.%Y}" for day in DATES]
MDY = [f"{day:%m/%d/%Y}" for day in DATES]
MIDNIGHTS = [f"{day} 00:00:00" for day in DATES]
MORNINGS = [f"{day}T06:30:00Z" for day in DATES]
TIMESTAMPS = pa.array([datetime(day.year, day.month, day.day) for day in DATES], pa.timestamp("ns"))


@pytest.mark.parametrize(
    ("own", "peer", "name", "form", "count"),
    [
        (BARE, UUIDS, "x", "uuid", 60),
        ([*UUIDS[:30], *BARE[30:]], UUIDS, "x", "uuid", 60),
        ([*UUIDS[:1], *BARE[1:]], BARE, "x", "uuid", 60),
        (MIXED, BARE, "x", "uuid", 59),
        (MIXED, UUIDS, "x", "uuid", 59),
        # Without a hyphen on either side, they may as well be MD5 hashes.
        (BARE, [each.upper() for each in BARE], "x", "lower", 60),
        (BARE, [each.upper() for each in BARE], "order_uuid", "uuid", 60),
        ([each + "0" * 8 for each in BARE], UUIDS, "x", "text", 0),
    ],
)
def test_uuids(tmp_path: Path, own: Sequence[str], peer: Sequence[str], name: str, form: str, count: int) -> None:
    task = proposed(tmp_path, {name: own}, {"y": peer})
    assert task.forms == (form,)
    assert task.found[0] == f"{count} of the 60 distinct keys are also among the 60"


@pytest.mark.parametrize(
    ("own", "peer", "form", "normalize", "why"),
    [
        (ISO, MIDNIGHTS, "date", ("", ""), "all times are at midnight, so the dates are compared"),
        (DMY, MIDNIGHTS, "date", ("date/DMY", ""), "all times are at midnight"),
        (MDY, TIMESTAMPS, "date", ("date/MDY", ""), "all times are at midnight"),
        (pa.array(DATES), MIDNIGHTS, "date", ("", ""), "all times are at midnight"),
        (pa.array(DATES), TIMESTAMPS, "date", ("", ""), "all times are at midnight"),
        (TIMESTAMPS, [f"{day} 00:00" for day in DMY], "date", ("", "date/DMY"), "all times are at midnight"),
        ([*ISO[:30], *MIDNIGHTS[30:]], ISO, "date", ("", ""), "all times are at midnight"),
        (ISO, MORNINGS, "date", ("", ""), "only one side has times of day, so the days are compared, in UTC"),
        (TIMESTAMPS, MIDNIGHTS, "timestamp", ("", ""), "times: all are at midnight"),
        (MORNINGS, [each.replace("T", " ") for each in MORNINGS], "timestamp", ("", ""), "compared in UTC"),
        # No form takes them, but they are alike.
        ([f"{day} 06:30" for day in DMY], [f"{day} 06:30" for day in DMY], "text", ("", ""), "as they are"),
    ],
)
def test_dates_and_times(
    tmp_path: Path, own: Sequence[str] | pa.Array, peer: Sequence[str] | pa.Array, form: str,
    normalize: tuple[str, str], why: str,
) -> None:  # fmt: skip
    task = proposed(tmp_path, {"x": own}, {"y": peer})
    assert (task.forms, normalized(task)) == ((form,), normalize)
    assert why in task.why[0]
    assert task.found[0] == "60 of the 60 distinct keys are also among the 60"


def test_a_form_that_somebody_names_keeps_the_order_of_a_date(tmp_path: Path) -> None:
    for form, normalize in (("date", ("date/DMY", "date/MDY")), ("date/DMY", ("", "date/MDY")), ("text", ("", ""))):
        task = proposed(tmp_path, {"x": DMY}, {"y": MDY}, Given(forms=(form,)))
        assert (task.forms, normalized(task)) == ((form,), normalize)
