"""Counts the unusual keys of one key column, by kind."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psicli.items import kinds
from psicli.items.spelling import patterns
from psicli.items.spelling.case import CaseSample
from psicli.items.spelling.keys import LONGEST_NUMBER, Keys, is_digit

# How many of the first keys of a column show what it holds.
_LOOK_ROWS = 1000
# The lengths of dates and times in any form [bytes].
_SHORTEST_DATE, _LONGEST_TIME = 6, 40
_DATE_MARKS = tuple(b"./- ")
# A smaller share of dates is a coincidence: some part numbers look like dates.
_SHARE_OF_DATES = 0.1
_LONGEST_PLACEHOLDER = max(map(len, patterns.PLACEHOLDERS))


class Column:
    """The counts of the key column with this name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.rows = self.keys = 0
        self.counts: Counter[str] = Counter()
        self.words: set[str] = set()
        self.sample = CaseSample()
        self._look: Any = pa.array([], pa.large_string())
        # The lengths of the longest number with leading zeros and of the shortest one without.
        self._padded, self._plain = 0, LONGEST_NUMBER + 1

    def add(self, texts: Any, kind: Any) -> None:
        """Count the keys of some rows, as a pa.LargeStringArray; kind: the type of the column in the file."""
        self.rows += len(texts)
        lengths = pc.binary_length(texts)
        if texts.null_count or not pc.all(pc.greater(lengths, 0)).as_py():
            texts = texts.filter(pc.greater(lengths, 0))
        self.keys += len(texts)
        if not len(texts):
            return
        if pa.types.is_timestamp(kinds.plain(kind)):
            self._midnights(texts)
        elif _is_text(kind):
            self._look_at(texts)
            keys = Keys(texts)
            for part in (self._marks, self._placeholders, self._numbers, self._times, self._letters):
                part(keys)
            self._midnights(texts)
            self.sample.add(keys)

    def merge(self, later: Column) -> None:
        """Add the counts of later rows, as if their keys had been added here."""
        self.rows += later.rows
        self.keys += later.keys
        self.counts.update(later.counts)
        self.words |= later.words
        self.sample.merge(later.sample)
        self._look_at(later._look)
        self._padded, self._plain = max(self._padded, later._padded), min(self._plain, later._plain)

    def _look_at(self, texts: Any) -> None:
        """Keep the first keys of the column."""
        if len(self._look) < _LOOK_ROWS:
            self._look = pa.concat_arrays([self._look, texts[: _LOOK_ROWS - len(self._look)]])

    def _marks(self, keys: Keys) -> None:
        """Count what surrounds a key or does not show in it."""
        unusual = keys.unusual()
        first, last = keys.first == 0x20, keys.last == 0x20
        self.counts["blank"] += keys.count((first & last) | unusual, f"^({patterns.SPACE}|{patterns.INVISIBLE})+$")
        around = f"^{patterns.SPACE}+{patterns.NOT_SPACE}|{patterns.NOT_SPACE}{patterns.SPACE}+$"
        self.counts["spaces"] += keys.count(first | last | unusual, around)
        within = f"{patterns.INVISIBLE}|{patterns.NOT_SPACE}{patterns.NO_BREAK_SPACE}+{patterns.NOT_SPACE}"
        self.counts["invisible"] += keys.count(unusual, within)
        self.counts["accents"] += keys.count(unusual, _are_decomposed)
        quoted = np.isin(keys.first, (0x22, 0x27)) & (keys.lengths > 2)
        self.counts["quotes"] += keys.count(quoted, r"""^(".*"|'.*'|'[0-9].*)$""")

    def _placeholders(self, keys: Keys) -> None:
        named = keys.lengths == len(self._name.encode())
        self.counts["header"] += keys.count(named, partial(pc.equal, self._name))
        words = pa.array(patterns.PLACEHOLDERS, keys.texts.type)
        found = keys.matching(keys.lengths <= _LONGEST_PLACEHOLDER, partial(pc.is_in, value_set=words))
        self.counts["placeholder"] += len(found)
        self.words.update(found.unique().to_pylist())

    def _numbers(self, keys: Keys) -> None:
        if not keys.numeric.any():
            return
        zero = keys.last == 0x30
        if keys.hold("."):
            self.counts["point zero"] += keys.count(keys.numeric & zero, r"^[+-]?[0-9]+\.0+$")
            self.counts["fraction"] += keys.count(keys.numeric & ~zero, r"^[+-]?[0-9]+\.[0-9]+$")
        if keys.hold("eE"):
            self.counts["exponent"] += keys.count(keys.numeric, patterns.EXPONENT)
        if keys.hold(",'"):
            self.counts["separators"] += keys.count(keys.numeric, patterns.SEPARATORS)
        padded = keys.numeric & (keys.first == 0x30) & (keys.lengths > 1)
        with_zeros = keys.matching(padded, patterns.DIGITS)
        without = keys.matching(keys.numeric & ~padded & (keys.lengths < self._plain), patterns.DIGITS)
        self.counts["padded"] += len(with_zeros)
        self._padded = max(self._padded, pc.max(pc.binary_length(with_zeros)).as_py() or 0)
        self._plain = min(self._plain, pc.min(pc.binary_length(without)).as_py() or self._plain)

    def _times(self, keys: Keys) -> None:
        candidates = (keys.lengths >= _SHORTEST_DATE) & (keys.lengths <= _LONGEST_TIME)
        if keys.hold(":"):
            self.counts["time"] += keys.count(candidates & is_digit(keys.first), _other_times)
        if keys.hold("./- "):
            # A date begins with a day, a year or the name of a month.
            parted = ~is_digit(keys.first) & keys.hold(",")
            for position in (1, 2, 4):
                parted |= np.isin(keys.at(position), _DATE_MARKS)
            self.counts["date"] += keys.count(candidates & parted & is_digit(keys.last), patterns.DATE)

    def _midnights(self, texts: Any) -> None:
        for end in ("T00:00:00", "T00:00:00Z"):
            self.counts["midnight"] += pc.ends_with(texts, pattern=end).true_count

    def _letters(self, keys: Keys) -> None:
        capitals = keys.capitals()
        if keys.hold("@"):
            self.counts["e-mail"] += keys.count(capitals, patterns.EMAIL)
        hexadecimal = np.isin(keys.lengths, patterns.HEX_LENGTHS)
        if hexadecimal.any():
            self.counts["hexadecimal"] += keys.count(hexadecimal & capitals, patterns.HEXADECIMAL)
            # Only whether there are any is of interest.
            if not self.counts["small hexadecimal"]:
                self.counts["small hexadecimal"] = keys.count(hexadecimal & ~capitals, patterns.HEXADECIMAL)

    def look(self) -> str:
        """Return what a column of text holds, such as `whole numbers`; empty if its keys have no common form."""
        for name, pattern in patterns.LOOKS if len(self._look) else ():
            if pc.match_substring_regex(self._look, pattern=pattern).true_count >= 0.9 * len(self._look):
                return name
        return ""

    def is_worth_a_word(self, kind: str) -> bool:
        """Return whether what the column has of a kind is unusual beside its other keys."""
        count = self.counts[kind]
        against = {
            "point zero": count > self.counts["fraction"],
            "padded": self._plain < self._padded,
            "date": count >= _SHARE_OF_DATES * self.keys,
            "midnight": count == self.keys,
            "hexadecimal": self.counts["small hexadecimal"] > 0,
        }
        return count > 0 and against.get(kind, True)


def _is_text(kind: Any) -> bool:
    """Return whether the file holds the keys as text, which the exporting tool has spelled."""
    plain = kinds.plain(kind)
    return kinds.is_text(plain) or (kinds.is_bytes(plain) and not kinds.is_uuid(kind))


def _are_decomposed(texts: Any) -> Any:
    return pc.not_equal(texts, pc.utf8_normalize(texts, form="NFC"))


def _other_times(texts: Any) -> Any:
    others = pc.invert(pc.match_substring_regex(texts, pattern=patterns.ISO_TIME))
    return pc.match_substring_regex(texts.filter(others), pattern=patterns.TIME)
