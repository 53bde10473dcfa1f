"""Tests of who is served, who waits and who must go, with names for guests and a clock of our own."""

from __future__ import annotations

import pytest

from psicli.transport.door import admission
from psicli.transport.door.admission import LEAVING_STAY, LONGEST_STAY, SERVED_STAY, SILENT_STAY, Admission, Rate

LIMIT = 1024
SILENT, READY, SERVED = 128, 80, 80


def come(door: Admission[int], count: int, at: float = 0.0, first: int = 0) -> list[int]:
    guests = list(range(first, first + count))
    for guest in guests:
        door.come(guest, at)
    return guests


def served(door: Admission[int], count: int) -> list[int]:
    """Let as many guests be served as one second after the other allows."""
    found = [guest for second in range(count) if (guest := door.serve(float(second))) is not None]
    assert len(found) == count
    return found


def test_guests_are_served_in_the_order_in_which_they_speak() -> None:
    door = Admission[int](LIMIT)
    come(door, 5)
    for guest in (3, 1, 4):
        door.speak(guest, 1.0)
    assert served(door, 3) == [3, 1, 4]
    assert door.serve(9.0) is None


def test_nobody_has_to_go_while_nobody_waits() -> None:
    door = Admission[int](LIMIT)
    come(door, SILENT)
    assert door.overdue(LONGEST_STAY - 0.1, others_wait=False) is None
    assert door.overdue(LONGEST_STAY, others_wait=False) == 0


def test_the_oldest_silent_guest_goes_when_others_wait_and_all_places_are_taken() -> None:
    door = Admission[int](LIMIT)
    come(door, SILENT - 1)
    assert door.overdue(1.0, others_wait=True) is None
    come(door, 1, at=1.0, first=SILENT - 1)
    assert not door.has_room
    assert door.overdue(SILENT_STAY - 0.01, others_wait=True) is None
    assert door.overdue(1.0, others_wait=True) == 0
    door.forget(0)
    assert door.overdue(1.0, others_wait=True) is None
    assert door.has_room


def test_a_guest_that_has_spoken_is_never_taken_for_a_silent_one() -> None:
    door = Admission[int](LIMIT)
    come(door, SILENT)
    door.speak(0, 0.0)
    come(door, 1, first=SILENT)
    assert door.overdue(1.0, others_wait=True) == 1


def test_the_oldest_guest_that_is_served_goes_when_others_are_ready() -> None:
    door = Admission[int](LIMIT)
    for guest in come(door, SERVED):
        door.speak(guest, 0.0)
    served(door, SERVED)
    now = float(SERVED)
    assert door.overdue(LONGEST_STAY - 0.1, others_wait=True) is None
    come(door, 1, at=now, first=SERVED)
    door.speak(SERVED, now)
    assert door.others_are_ready
    assert door.serve(now) is None
    assert door.overdue(SERVED_STAY - 0.1, others_wait=False) is None
    assert door.overdue(SERVED_STAY, others_wait=False) == 0
    door.forget(0)
    assert door.serve(now) == SERVED


def test_progress_renews_a_stay_and_admission_ends_the_count() -> None:
    door = Admission[int](LIMIT)
    for guest in come(door, 3):
        door.speak(guest, 0.0)
    served(door, 3)
    door.renew(0, 5.0)
    door.forget(1)
    assert door.overdue(2 + LONGEST_STAY, others_wait=False) == 2
    door.forget(2)
    assert door.overdue(4.9 + LONGEST_STAY, others_wait=False) is None
    assert door.overdue(5.0 + LONGEST_STAY, others_wait=False) == 0


def test_no_more_are_accepted_while_too_many_are_ready() -> None:
    door = Admission[int](LIMIT)
    for guest in come(door, READY):
        assert door.has_room
        door.speak(guest, 0.0)
    assert not door.accepts(1.0)
    assert door.serve(1.0) is not None
    assert door.accepts(1.0)


def test_those_who_leave_are_limited_too() -> None:
    door = Admission[int](LIMIT)
    for guest in come(door, 64):
        door.dismiss(guest, 0.0)
    assert door.overdue(0.0, others_wait=False) == 0
    door.forget(0)
    assert door.overdue(0.0, others_wait=False) is None
    assert door.overdue(LEAVING_STAY, others_wait=False) == 1


def test_only_so_many_are_accepted_in_a_second() -> None:
    door = Admission[int](1 << 20)
    per_second, at_once = admission.ACCEPTED
    assert sum(door.accepts(1.0) for _ in range(10_000)) == at_once
    assert 0 < door.wait(1.0, others_wait=True) <= 1 / per_second
    assert sum(door.accepts(1.1) for _ in range(10_000)) == pytest.approx(0.1 * per_second, abs=1)


def test_the_wait_ends_when_something_is_due() -> None:
    door = Admission[int](LIMIT)
    assert door.wait(0.0, others_wait=False) == LONGEST_STAY
    come(door, SILENT)
    assert door.wait(5.0, others_wait=False) == LONGEST_STAY - 5
    assert door.wait(0.1, others_wait=True) == pytest.approx(SILENT_STAY - 0.1)
    assert door.wait(99.0, others_wait=True) == 0


@pytest.mark.parametrize("limit", [64, 256, 1024, 1 << 20])
def test_at_most_half_of_the_descriptors_are_for_guests(limit: int) -> None:
    door = Admission[int](limit)
    silent, ready, served, leaving = (group._most for group in door._groups)
    assert 0 < silent + ready + 3 * served + leaving <= min(limit, 1024) // 2


def test_a_rate_never_allows_more_than_its_burst() -> None:
    rate = Rate(10.0, 2.0)
    for _ in range(2):
        assert rate.wait(100.0) == 0
        rate.take()
    assert rate.wait(100.0) == pytest.approx(0.1)
    assert rate.wait(100.2) == 0


def test_the_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(admission.resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(admission.resource, "setrlimit", lambda which, limits: asked.append(limits))
    assert admission.descriptors() == 4096
    assert asked == [(4096, 4096)]


def test_connections_that_have_ended_may_be_accepted_faster() -> None:
    door = Admission[int](1 << 20)
    _, at_once = admission.ACCEPTED
    accepted = 0
    while door.accepts(1.0):
        door.was_gone()
        accepted += 1
    assert accepted >= 9 * at_once
