"""The classes that psicli.core.records makes behave like those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from typing import Any, ClassVar

import pytest

from psicli.core.records import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A value."""

    x: int
    y: int = 2
    names: list[str] = field(default_factory=list, repr=False)
    unit: ClassVar[str] = "m"


@dataclass
class Counter:
    """It changes."""

    n: int = 0
    of: str = "rows"


@dataclass(frozen=True)
class Further(Point):
    """It has one field more."""

    z: int = 3


@dataclass(eq=False)
class Itself:
    """Equal to itself alone."""

    n: int


def test_fields_by_position_and_by_name() -> None:
    assert (Point(1).y, Point(1, 5).y, Point(x=1, y=7).y, Point(1).names) == (2, 5, 7, [])
    assert Point(1).names is not Point(1).names
    assert (Further(1, z=4).z, Further(1).y, Point.unit) == (4, 2, "m")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Point(), "lacks x"),  # type: ignore[call-arg]
        (lambda: Point(1, 2, [], 4), "has the fields x, y, names"),  # type: ignore[call-arg]
        (lambda: Point(1, x=1), "has the fields"),  # type: ignore[misc]
        (lambda: Point(1, w=1), "has the fields"),  # type: ignore[call-arg]
    ],
)
def test_fields_that_are_missing_or_unknown(make: Callable[[], Any], fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        make()


def test_a_frozen_value_does_not_change() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")
    counter = Counter()
    counter.n += 1
    assert counter == Counter(1)


def test_equality_hash_and_text() -> None:
    assert Point(1) == Point(1) != Point(2)
    assert Point(1) != Further(1)
    assert Itself(1) != Itself(1)
    assert len({Itself(1), Itself(1)}) == 2
    assert repr(Further(1)) == "Further(x=1, y=2, z=3)"
    assert hash(dataclass(frozen=True)(type("Pair", (), {"__annotations__": {"a": int}}))(1)) == hash((1,))
    with pytest.raises(TypeError):
        hash(Counter())


def test_what_the_standard_library_does_with_them() -> None:
    point = Point(1, names=["a"])
    assert replace(point, x=3) == Point(3, names=["a"])
    assert asdict(point) == {"x": 1, "y": 2, "names": ["a"]}
    assert [each.name for each in fields(Further)] == ["x", "y", "names", "z"]
    assert dataclasses.is_dataclass(Point)
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == point
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)
