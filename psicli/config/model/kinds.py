"""Check a value against a type, as an annotation names it, and convert it: a file holds only text, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

Loc: TypeAlias = tuple[str | int, ...]

# A fault that no check describes: the field is missing or unknown, or its value is of another kind.
MISSING, UNKNOWN, OTHER_KIND = "missing", "unknown", "other kind"


class WrongError(ValueError):
    """What a check of a single value raises: what is wrong, and what would be right."""

    def __init__(self, what: str, right: str) -> None:
        super().__init__(f"{what}; {right}")
        self.what, self.right = what, right


class Fault(NamedTuple):
    """A fault of a tree: its place, what is wrong (or one of the three words above), and what would be right."""

    loc: Loc
    what: str = OTHER_KIND
    right: str = ""


class NotValidError(ValueError):
    """A tree that is not as its model says."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{'.'.join(map(str, loc))}: {what}; {right}" for loc, what, right in faults))
        self.faults = faults


# Returns the checked and converted value, and adds the faults that it finds.
Check: TypeAlias = Callable[[Any, Loc, list[Fault]], Any]


# What stands beside a type in Annotated ------------------------------------------------------------------------


class Before:
    """Checks or changes the value as it is in the file; raises WrongError."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call


class After:
    """Checks or changes the converted value; raises WrongError."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call


class Bounds(NamedTuple):
    """The least and the greatest number (ge, gt, le), what it is a multiple of, or the least length of a list."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    multiple_of: int | None = None
    min_length: int | None = None

    def check(self, value: Any, given: Any) -> None:
        """Raise WrongError, which names the value as it was given."""
        if (self.ge is not None and value < self.ge) or (self.gt is not None and value <= self.gt):
            least = f"more than {self.gt}" if self.ge is None else f"at least {self.ge}"
            raise WrongError(f"{given} is out of range", f"give {least}")
        if self.le is not None and value > self.le:
            raise WrongError(f"{given} is out of range", f"give at most {self.le}")
        if self.multiple_of is not None and value % self.multiple_of:
            raise WrongError(
                f"{given} is not a multiple of {self.multiple_of}", f"give a multiple of {self.multiple_of}"
            )
        if self.min_length is not None and len(value) < self.min_length:
            raise WrongError("is empty", "give at least one path")


class SchemaWith:
    """More keywords of the JSON Schema."""

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        self.keywords = keywords


class SchemaIs:
    """The whole JSON Schema, where it describes the text in the file and not the value that it becomes."""

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        self.keywords = keywords


# Types ---------------------------------------------------------------------------------------------------------


def parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type and what stands beside it."""
    if get_origin(kind) is not Annotated:
        return kind, ()
    inner, *beside = get_args(kind)
    return inner, tuple(beside)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, with NoneType if the value may be None; a type alone is its only one."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def checker(kind: Any, bounds: Mapping[str, Any] | None = None) -> Check:
    """Return the check of a type. bounds: those of a field, besides those of its type."""
    kind, beside = parts(kind)
    convert = _converter(kind)
    limits = [*([Bounds(**bounds)] if bounds else []), *(each for each in beside if isinstance(each, Bounds))]
    before = [each.call for each in beside if isinstance(each, Before)]
    after = [each.call for each in beside if isinstance(each, After)]
    if not (limits or before or after):
        return convert

    def check(given: Any, loc: Loc, faults: list[Fault]) -> Any:
        value, known = given, len(faults)
        try:
            for call in before:
                value = call(value)
            value = convert(value, loc, faults)
            if len(faults) == known:
                for limit in limits:
                    limit.check(value, given)
                for call in after:
                    value = call(value)
        except WrongError as exc:
            faults.append(Fault(loc, exc.what, exc.right))
        return value

    return check


def _converter(kind: Any) -> Check:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _union(kind)
    if origin is tuple:
        return _list(checker(get_args(kind)[0]))
    if origin is dict:
        return _table(checker(get_args(kind)[1]))
    if origin is Literal:
        return _one_of(get_args(kind))
    if kind in _PLAIN:
        return _plain(_PLAIN[kind])
    model: Check = kind.check
    return model


def _plain(convert: Callable[[Any], Any]) -> Check:
    """Return the check of a value that is a text in a file. convert: returns None for a value of another kind."""

    def check(value: Any, loc: Loc, faults: list[Fault]) -> Any:
        try:
            found = convert(value)
        except (TypeError, ValueError):
            found = None
        if found is None:
            faults.append(Fault(loc))
        return found

    return check


def _one_of(values: tuple[str, ...]) -> Check:
    """Return the check of a text that is one of several. Its fault lists them, and shows the one that is meant."""

    def check(value: Any, loc: Loc, faults: list[Fault]) -> Any:
        if value not in values:
            # Other programs write PROTOCOL_ECDH, and papers RR-22.
            plain = value.lower().replace("-", "") if isinstance(value, str) else ""
            meant = [each for each in values if each in plain]
            shown = f", as in `{loc[-1]}: {max(meant, key=len)}`" if loc and meant else ""
            faults.append(Fault(loc, right=f"give {' or '.join(values)}{shown}"))
        return value

    return check


def _as_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: lambda value: value if isinstance(value, str) else None,
    int: int,
    float: float,
    bool: _as_bool,
    Path: Path,
}


def _list(check_each: Check) -> Check:
    def check(value: Any, loc: Loc, faults: list[Fault]) -> Any:
        if not isinstance(value, list | tuple):
            faults.append(Fault(loc))
            return value
        return tuple(check_each(each, (*loc, position), faults) for position, each in enumerate(value))

    return check


def _table(check_each: Check) -> Check:
    def check(value: Any, loc: Loc, faults: list[Fault]) -> Any:
        if not isinstance(value, dict):
            faults.append(Fault(loc))
            return value
        return {name: check_each(each, (*loc, name), faults) for name, each in value.items()}

    return check


_TEXT, _LIST, _TABLE = "text", "list", "table"


def _union(kind: Any) -> Check:
    """Return the check of a type with several forms: whether a value is a text, a list or a table chooses one."""
    members = alternatives(kind)
    checks = {_kind_of_type(member): checker(member) for member in members if member is not NoneType}
    # A list is one of the values of a type without another form.
    only = next(iter(checks.values())) if len(checks) == 1 else None

    def check(value: Any, loc: Loc, faults: list[Fault]) -> Any:
        if value is None and NoneType in members:
            return None
        chosen = only or checks.get(_kind_of_value(value))
        if chosen is None:
            faults.append(Fault(loc))
            return value
        return chosen(value, loc, faults)

    return check


def _kind_of_type(kind: Any) -> str:
    kind = parts(kind)[0]
    if get_origin(kind) is tuple:
        return _LIST
    return _TABLE if get_origin(kind) is dict or hasattr(kind, "model_fields") else _TEXT


def _kind_of_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _LIST
    return _TABLE if isinstance(value, dict) or hasattr(value, "model_fields") else _TEXT
