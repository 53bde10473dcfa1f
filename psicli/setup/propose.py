"""Proposes the key columns of a task and their forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from psicli.core.errors import printable, shown
from psicli.core.records import dataclass
from psicli.setup import looks, names
from psicli.setup.forms import Choice, choose, compared_endings, equal, given, without_region
from psicli.setup.looks import Column, Table, read_column
from psicli.setup.plan import PlannedTask, Side, UnfitError

# How many columns of a file are compared with those of the other.
_COMPARED_COLUMNS = 10
_OF_NAMES = {names.EMAIL: 0.6, names.PHONE: 0.6, names.UUID: 0.6, names.HASH: 0.5, names.ID: 0.5}
_OF_LOOKS = {
    **dict.fromkeys((looks.EMAIL, looks.UUID, looks.SHA256), 0.3),
    **dict.fromkeys((looks.PHONE, looks.HASH), 0.2),
    # Two rows may well have the same of these, and yet be different things.
    **dict.fromkeys((looks.DATE, looks.TIME, looks.FRACTION), -0.6),
}
# Longer texts are descriptions.
_LONG_TEXT = "^.{60,}$"
# Looks of which two columns may have one each, and still hold the same things.
_ALIKE = (
    {looks.DATE, looks.TIME},
    {looks.UUID, looks.HASH},
    {looks.PHONE, looks.INTEGER},
    {looks.TEXT, looks.INTEGER},
    {looks.TEXT, looks.PHONE},
)
# Pairs that are worth less are no keys, though some of their values are equal.
_LEAST_LIKENESS = 2.0
# Fewer of their values, as a share, may be equal by chance.
_LEAST_SHARE = 0.01
_OTHERS_SHOWN = 4
# Two columns of these have no equal values by chance, as two columns of serial numbers have.
_TELLING = (looks.EMAIL, looks.PHONE, looks.UUID, looks.SHA256, looks.HASH)


@dataclass(frozen=True)
class Given:
    """What somebody has chosen. keys, peer_keys, forms: in this order, or empty. region: of phone numbers."""

    keys: tuple[str, ...] = ()
    peer_keys: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    region: str = ""


def rating(column: Column) -> float:
    """Return how good a key a column would be; more is better."""
    if not len(column.texts):
        return -1.0
    worth = column.distinct_share * column.filled_share
    worth += _OF_NAMES.get(names.concept(column.name), 0.0) + _OF_LOOKS.get(column.look, 0.0)
    return worth - 0.5 * column.share(_LONG_TEXT)


def propose(name: str, tables: Mapping[str, Table], parties: Sequence[str], choices: Given) -> PlannedTask:
    """Return a task for the inputs that are here; parties: this one and its partner, whose input may be elsewhere.

    Raises BadInputError or InputMissingError for a key column that cannot be one, and UnfitError if an input has none
    or the choices do not fit each other.
    """
    _check(choices, has_peer=len(tables) > 1)
    asked = dict(zip(parties, (choices.keys, choices.peer_keys), strict=True))
    found, others = _pairs(tables, asked, choices)
    chosen = [
        given(choices.forms[at], columns, choices.region) if choices.forms else choose(columns, choices.region)
        for at, columns in enumerate(found)
    ]
    sides = {}
    for at, (party, table) in enumerate(tables.items()):
        keys = tuple(columns[at].name for columns in found)
        sides[party] = Side(table.path, table.format, keys, tuple(choice.normalize[at] for choice in chosen))
    whys = tuple(_why(columns, choice) for columns, choice in zip(found, chosen, strict=True))
    common = _common(found[0], chosen[0]) if len(tables) == 2 and len(found) == 1 else ""
    forms = tuple(choice.form for choice in chosen)
    without = sum(map(without_region, found, chosen))
    return PlannedTask(name, sides, forms, whys, asked, (common, others), without)


def _check(choices: Given, *, has_peer: bool) -> None:
    """Check that the columns and forms that somebody has named fit each other; raises UnfitError."""
    own = len(choices.keys) or 1
    # Whoever names several columns of one side has to name those of the other, unless the partner will.
    peer = len(choices.peer_keys) or (1 if has_peer else own)
    if own != peer:
        raise UnfitError(f"name as many columns with {'--key' if own < peer else '--peer-key'}: {max(own, peer)}")
    if any(len(set(columns)) < len(columns) for columns in (choices.keys, choices.peer_keys)):
        raise UnfitError("name each key column once")
    if choices.forms and len(choices.forms) != own:
        raise UnfitError(f"give --form once for each key column: {own}")


def _pairs(
    tables: Mapping[str, Table], asked: Mapping[str, tuple[str, ...]], choices: Given
) -> tuple[list[tuple[Column, ...]], str]:
    """Return the key columns, for each of them the column of every input that is here, and a line about others."""
    columns = {}
    for party, table in tables.items():
        columns[party] = [[read_column(table, name)] for name in asked[party]] or [_best(table)]
    if len(tables) == 1:
        return [(each[0],) for each in next(iter(columns.values()))], ""
    own, peer = columns.values()
    ranked = [_ranked(ours, theirs, choices) for ours, theirs in zip(own, peer, strict=True)]
    others = [f"{shown(ours.name)} with {shown(theirs.name)}" for ours, theirs in ranked[0][1:_OTHERS_SHOWN]]
    more = f"these columns have equal values, too: {', '.join(others)} (--key, --peer-key)" if others else ""
    return [pairs[0] for pairs in ranked], more


class _Pair(NamedTuple):
    """A column of each party. share: how many of the values are equal in the form that the two need."""

    columns: tuple[Column, Column]
    worth: float
    share: float

    @property
    def is_equal(self) -> bool:
        return self.share >= _LEAST_SHARE

    @property
    def is_serial(self) -> bool:
        return all(column.is_serial for column in self.columns)

    @property
    def is_telling(self) -> bool:
        return self.is_equal and all(column.look in _TELLING for column in self.columns)


def _best(table: Table) -> list[Column]:
    """Return the columns of a file that are the best keys, the best one first."""
    found = sorted(table.columns.values(), key=rating, reverse=True)[:_COMPARED_COLUMNS]
    if not found:
        raise UnfitError(f"{printable(table.path)} has no column that can be a key")
    return found


def _ranked(own: Sequence[Column], peer: Sequence[Column], choices: Given) -> list[tuple[Column, ...]]:
    """Return the pair of columns that probably hold the same things, then others with equal values, best first."""
    if len(own) == len(peer) == 1:
        return [(own[0], peer[0])]
    found = [_pair(columns, choices) for columns in product(own, peer)]
    least = min((pair.worth for pair in found if pair.is_telling), default=None)
    if least is not None:
        # Serial numbers of both parties count from the same number, whatever they count.
        found = [pair._replace(worth=min(pair.worth, least)) if pair.is_serial else pair for pair in found]
    found.sort(key=lambda pair: (-pair.worth, pair.is_serial))
    ranked: list[tuple[Column, ...]] = [found[0].columns]
    for pair in found:
        # A column is named once.
        is_new = not any(column in taken for taken in ranked for column in pair.columns)
        if is_new and pair.is_equal and pair.worth > _LEAST_LIKENESS:
            ranked.append(pair.columns)
    return ranked


def _pair(columns: tuple[Column, Column], choices: Given) -> _Pair:
    """Return two columns with how well they go together."""
    own, peer = columns
    worth = rating(own) + rating(peer)
    concepts = {names.concept(column.name) for column in columns}
    worth += 0.5 * (len(concepts) == 1 and concepts != {""}) + 0.5 * names.is_alike(own.name, peer.name)
    kinds = {column.look for column in columns} - {looks.SHA256}
    if len(kinds) > 1 and not any(kinds <= alike for alike in _ALIKE):
        return _Pair(columns, worth - 1.5, 0.0)
    count = equal(columns, choose(columns, choices.region)) if len(own.texts) and len(peer.texts) else 0
    share = count / max(min(own.distinct, peer.distinct), 1)
    # Two columns of countries have all values in common, and are no keys.
    gain = 2 * share * min(own.distinct_share, peer.distinct_share) if count else -1.0
    return _Pair(columns, worth + gain, share)


def _why(columns: Sequence[Column], choice: Choice) -> str:
    """Return a line about a pair of key columns for people, without a value of theirs."""
    return f"{' and '.join(shown(column.name) for column in columns)}: {choice.why}" if choice.why else ""


def _common(columns: Sequence[Column], choice: Choice) -> str:
    """Return how many keys of two columns are equal, as far as they were read."""
    is_whole = all(column.rows < looks.SAMPLED_ROWS for column in columns)
    about = "" if compared_endings(columns, choice) == compared_endings((), choice) else "about "
    part = "" if is_whole else f" in the first {looks.SAMPLED_ROWS:,} rows"
    own, peer = (column.distinct for column in columns)
    return f"{about}{equal(columns, choice):,} of the {own:,} distinct keys are also among the {peer:,}{part}"
