"""Which pairs of columns are named, and how many of their values are said to be equal."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.keys.proposals import proposed

SIZE = 400
MAILS = [f"person.{number}@example.com" for number in range(2 * SIZE)]
SERIAL = [*range(1, SIZE + 1)]
PHONES = [f"+4915{number * 7919 % 10**8:08d}" for number in range(2 * SIZE)]
HASHES = [hashlib.sha256(mail.encode()).hexdigest() for mail in MAILS]
UUIDS = [f"{each[:8]}-{each[8:12]}-{each[12:16]}-{each[16:20]}-{each[20:32]}" for each in HASHES]


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (MAILS[:SIZE], [each.upper() for each in MAILS[SIZE - 8 : 2 * SIZE - 8]]),
        (MAILS[:SIZE], HASHES[SIZE - 8 : 2 * SIZE - 8]),
        (PHONES[:SIZE], PHONES[SIZE - 8 : 2 * SIZE - 8]),
        (UUIDS[:SIZE], [each.replace("-", "") for each in UUIDS[SIZE - 8 : 2 * SIZE - 8]]),
    ],
)
def test_serial_numbers_rank_below_what_is_never_equal_by_chance(
    tmp_path: Path, own: list[str], peer: list[str]
) -> None:
    task = proposed(tmp_path, {"id": SERIAL, "a": own}, {"id": [f"{number}.0" for number in SERIAL], "b": peer})
    assert [side.keys for side in task.sides.values()] == [("a",), ("b",)]
    assert task.found[1] == "these columns have equal values, too: 'id' with 'id' (--key, --peer-key)"


def test_serial_numbers_are_the_key_if_nothing_else_is(tmp_path: Path) -> None:
    columns = {"id": SERIAL, "mail": MAILS[:SIZE]}
    task = proposed(tmp_path, columns, {"id": SERIAL, "mail": MAILS[SIZE:]})
    assert task.sides["bob"].keys == ("id",)
    # Numbers with many gaps are no serial numbers.
    sparse = [number * 1_000_003 % 100_000_007 for number in SERIAL]
    task = proposed(tmp_path, columns | {"id": sparse}, {"id": sparse, "x": MAILS[SIZE - 8 : 2 * SIZE - 8]})
    assert task.sides["bob"].keys == ("id",)


def test_columns_without_equal_values_are_not_named(tmp_path: Path) -> None:
    own = {"mail": MAILS[:SIZE], "nr": SERIAL, "tel": PHONES[:SIZE], "code": [f"c-{each}" for each in SERIAL]}
    peer = {
        "mail": MAILS[:SIZE],
        "num": [number + 10_000 for number in SERIAL],
        # One of 400 values is equal.
        "tel": PHONES[SIZE - 1 : 2 * SIZE - 1],
        "code": [f"c-{each + SIZE // 2}" for each in SERIAL],
    }
    task = proposed(tmp_path, own, peer)
    assert task.found[1] == "these columns have equal values, too: 'code' with 'code' (--key, --peer-key)"
    del own["code"]
    assert proposed(tmp_path, own, peer).found[1] == ""


@pytest.mark.more
@pytest.mark.parametrize("spelled", ["49{}.0", "0{} ext. 5", "+49 {} x12", "+49{};ext=1234", "tel:+49{}#7"])
def test_the_estimate_takes_numbers_with_ends_for_what_they_are(tmp_path: Path, spelled: str) -> None:
    numbers = [f"151{number * 7919 % 10**8:08d}" for number in range(30_000)]
    own = [f"+49 {number[:3]} {number[3:]}" for number in numbers[:20_000]]
    peer = [spelled.format(number) if at % 2 else f"0{number}" for at, number in enumerate(numbers[10_000:])]
    task = proposed(tmp_path, {"tel": own}, {"tel": peer})
    about, count, *_ = task.found[0].split()
    assert (about, task.forms) == ("about", ("phone/DE",))
    assert 9_500 < int(count.replace(",", "")) < 10_500
