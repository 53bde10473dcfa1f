"""Frozen values whose classes say what a file may hold: each field has a type, a description and examples.

The types are annotations, resolved when the first file is checked. A class costs next to nothing to define, because
each run defines all of them and uses few. `kinds` turns a type into a check, psicli/config/schema.py into JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, dataclass_transform, get_type_hints

from psicli.config.model.kinds import MISSING, UNKNOWN, Check, Fault, Loc, NotValidError, checker

_REQUIRED: Any = object()


class FieldInfo:
    """What a class says about a field: its default or what makes it, its description and examples, its bounds.

    schema: more keywords of its JSON Schema. shown: whether it appears in the text form of a value.
    """

    def __init__(
        self,
        default: Any = _REQUIRED,
        *,
        default_factory: Callable[[], Any] | None = None,
        description: str = "",
        examples: tuple[Any, ...] = (),
        bounds: Mapping[str, Any] | None = None,
        schema: Mapping[str, Any] | None = None,
        shown: bool = True,
    ) -> None:
        self.default, self._make = default, default_factory
        self.description, self.examples = description, examples
        self.bounds, self.schema = bounds or {}, schema or {}
        self.shown = shown

    @property
    def has_default(self) -> bool:
        """Whether a field that is left out has the same value in every file."""
        return self.default is not _REQUIRED

    def is_required(self) -> bool:
        return not self.has_default and self._make is None

    def value(self) -> Any:
        """Return the value of a field that is left out."""
        return self.default if self._make is None else self._make()


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value:
    """A frozen value with fields, made from keywords. What psicli itself puts into it is not checked."""

    model_fields: ClassVar[dict[str, FieldInfo]] = {}
    title: ClassVar[str] = ""

    def __init_subclass__(cls, title: str = "") -> None:
        own = {}
        for name, kind in cls.__annotations__.items():
            if not str(kind).startswith("ClassVar"):
                given = cls.__dict__.get(name, _REQUIRED)
                own[name] = given if isinstance(given, FieldInfo) else FieldInfo(given)
        for name in own.keys() & cls.__dict__.keys():
            delattr(cls, name)
        cls.model_fields = {**cls.model_fields, **own}
        cls.title = title or cls.__name__

    def __init__(self, **values: Any) -> None:
        """Raise TypeError if a field is missing or unknown."""
        lacking = [name for name, info in self.model_fields.items() if info.is_required() and name not in values]
        if lacking or (unknown := values.keys() - self.model_fields.keys()):
            raise TypeError(f"{type(self).__name__} lacks {lacking}" if lacking else f"there is no field {unknown}")
        self._fill(values)

    def _fill(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(
            (name, values[name] if name in values else info.value()) for name, info in self.model_fields.items()
        )
        self.__dict__["model_fields_set"] = frozenset(values)

    # The names of the fields that were given; the others have their defaults.
    model_fields_set: ClassVar[frozenset[str]]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __iter__(self) -> Any:
        """Yield the names and values of the fields."""
        return ((name, self.__dict__[name]) for name in self.model_fields)

    def __repr__(self) -> str:
        shown = (f"{name}={self.__dict__[name]!r}" for name, info in self.model_fields.items() if info.shown)
        return f"{type(self).__name__}({', '.join(shown)})"

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return a copy in which some fields have other values, which are not checked."""
        copy = object.__new__(type(self))
        copy.__dict__.update({**self.__dict__, **update})
        copy.__dict__["model_fields_set"] = self.model_fields_set | update.keys()
        return copy

    def model_dump(self, *, exclude_unset: bool = False) -> dict[str, Any]:
        """Return the fields as a dict, and those of values in it too. exclude_unset: only those that were given."""
        return {name: _dumped(value) for name, value in self if name in self.model_fields_set or not exclude_unset}

    @classmethod
    @cache
    def kinds(cls) -> dict[str, Any]:
        """Return the types of the fields."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hints[name] for name in cls.model_fields}


def _dumped(value: Any) -> Any:
    if isinstance(value, Value):
        return value.model_dump()
    # A tuple with names is a value of its own.
    return tuple(map(_dumped, value)) if type(value) is tuple else value


class Model(Value):
    """A value whose fields are checked and converted: they come from a file, as text, lists and dicts."""

    def __init__(self, **values: Any) -> None:
        """Raise NotValidError, which holds all faults."""
        faults: list[Fault] = []
        checked = self._checked(values, (), faults)
        if faults:
            raise NotValidError(faults)
        self._fill(checked)

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        """Return the value of a tree of text, lists and dicts; raises NotValidError, which holds all faults."""
        faults: list[Fault] = []
        found: Self = cls.check(value, (), faults)
        if faults:
            raise NotValidError(faults)
        return found

    @classmethod
    def check(cls, value: Any, loc: Loc, faults: list[Fault]) -> Any:
        """Return the value of a tree, and add its faults to those that were found."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            faults.append(Fault(loc))
            return value
        before = len(faults)
        checked = cls._checked(value, loc, faults)
        if len(faults) > before:
            return value
        made = object.__new__(cls)
        made._fill(checked)
        return made

    @classmethod
    def _checked(cls, values: Mapping[str, Any], loc: Loc, faults: list[Fault]) -> dict[str, Any]:
        checked = {}
        for name, check in cls._checks().items():
            if name in values:
                checked[name] = check(values[name], (*loc, name), faults)
            elif cls.model_fields[name].is_required():
                faults.append(Fault((*loc, name), MISSING))
        faults += [Fault((*loc, name), UNKNOWN) for name in values if name not in cls.model_fields]
        return checked

    @classmethod
    @cache
    def _checks(cls) -> dict[str, Check]:
        return {name: checker(kind, cls.model_fields[name].bounds) for name, kind in cls.kinds().items()}


def field(
    description: str,
    *examples: Any,
    default: Any = _REQUIRED,
    default_factory: Callable[[], Any] | None = None,
    schema: Mapping[str, Any] | None = None,
    shown: bool = True,
    **bounds: Any,
) -> Any:
    """Describe a field; its default serves as the example if there is no other. bounds: as in Bounds."""
    return FieldInfo(
        default,
        default_factory=default_factory,
        description=description,
        examples=examples or (default,),
        bounds=bounds,
        schema=schema,
        shown=shown,
    )


def optional(description: str, *examples: Any, shown: bool = True) -> Any:
    """Describe a field that may be left out."""
    return field(description, *examples, default=None, shown=shown)
