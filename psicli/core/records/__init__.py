"""A `dataclass` that is cheap to define: no code is generated for a class.

The one of the standard library compiles up to seven functions for each class. psicli has more than a hundred, and each
run defines them all and makes few values of them. `fields`, `replace` and `asdict` of the standard library work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, field
from typing import Any, TypeVar, dataclass_transform, overload

_T = TypeVar("_T")


@overload
def dataclass(cls: type[_T], /) -> type[_T]: ...
@overload
def dataclass(
    *, frozen: bool = False, eq: bool = True, repr: bool = True, slots: bool = False
) -> Callable[[type[_T]], type[_T]]: ...


@dataclass_transform(field_specifiers=(field,))
def dataclass(
    cls: type[Any] | None = None, /, *, frozen: bool = False, eq: bool = True, repr: bool = True, slots: bool = False
) -> Any:
    """Make a class of values as `dataclasses.dataclass` does, with these of its options."""

    def made(cls: type[Any]) -> type[Any]:
        own = cls.__dict__
        methods: dict[str, Any] = {"__init__": _init}
        if repr:
            methods["__repr__"] = _repr
        if eq:
            # A value that can change has no hash.
            methods |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            methods |= {"__setattr__": _refuse, "__delattr__": _refuse, "__reduce__": _reduce}
        methods = {name: method for name, method in methods.items() if name not in own}
        cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
        cls.__record__ = {each.name: each for each in dataclasses.fields(cls)}
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    return made if cls is None else made(cls)


def _init(self: Any, *values: Any, **named: Any) -> None:
    fields = self.__record__
    given = dict(zip(fields, values, strict=False))
    if len(values) > len(fields) or given.keys() & named.keys() or named.keys() - fields.keys():
        raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}")
    given |= named
    for name, each in fields.items():
        if name in given:
            value = given[name]
        elif each.default is not MISSING:
            value = each.default
        elif each.default_factory is not MISSING:
            value = each.default_factory()
        else:
            raise TypeError(f"{type(self).__name__} lacks {name}")
        object.__setattr__(self, name, value)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__record__])


def _repr(self: Any) -> str:
    shown = [f"{name}={getattr(self, name)!r}" for name, each in self.__record__.items() if each.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise FrozenInstanceError(f"cannot change field {name!r}")


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), _values(self)
