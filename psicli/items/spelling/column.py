"""Counts the unusual keys of one key column, by kind."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from psicli.items import compute as pc
from psicli.items import kinds
from psicli.items.encoding import packed
from psicli.items.forms.domains import GMAIL
from psicli.items.spelling import patterns
from psicli.items.spelling.case import CaseSample
from psicli.items.spelling.keys import HEX_DIGITS, LONGEST_NUMBER, Keys, is_digit

# How many of the first keys of a column show what it holds.
_LOOK_ROWS = 1000
# The lengths of dates and times in any form [bytes].
_SHORTEST_DATE, _LONGEST_TIME = 6, 40
_DATE_MARKS = pc.among(b"./- ")
_QUOTES = pc.among(b"\"'=")
# A smaller share of dates is a coincidence: some part numbers look like dates.
_SHARE_OF_DATES = 0.1
# The same is true of digits that could be dialled.
_SHARE_OF_SURE_PHONES, _SHARE_OF_PHONES = 0.1, 0.5
# So many of the keys show what a column holds, and so many which form it needs.
_SHARE_OF_A_LOOK, _SHARE_OF_A_FORM = 0.9, 0.5
# The lengths of phone numbers in any form [bytes].
_SHORTEST_PHONE, _LONGEST_PHONE = 7, 31
_LONGEST_PLACEHOLDER = max(map(len, patterns.PLACEHOLDERS))
# The pairs of bytes with which hashes of placeholders begin.
_HASHED_BEGINNINGS = np.zeros(1 << 16, np.bool_)
_HASHED_BEGINNINGS[[int.from_bytes(each[:2].encode()) for each in patterns.HASHED_PLACEHOLDERS]] = True


class Column:
    """The counts of the key column with this name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.rows = self.keys = 0
        self.counts: Counter[str] = Counter()
        self.words: set[str] = set()
        self.sample = CaseSample()
        self._look: Any = pa.array([], pa.large_string())
        # How many of the first keys match the pattern of a look, for those that were asked for.
        self._looks: dict[str, int] = {}
        # Arrow compiles this pattern in a tenth of the time that Python takes.
        octets = pa.scalar(name.encode(errors="replace"), pa.binary())
        self._named_as_phone = pc.match_substring_regex(octets, pattern=patterns.PHONE_NAME).as_py()
        # The lengths of the longest number with leading zeros and of the shortest one without.
        self._padded, self._plain = 0, LONGEST_NUMBER + 1

    def add(self, texts: Any, kind: Any) -> None:
        """Count the keys of some rows, as a pa.LargeStringArray; kind: the type of the column in the file."""
        self.rows += len(texts)
        lengths = pc.binary_length(texts)
        if texts.null_count or not pc.all(pc.greater(lengths, 0)).as_py():
            texts = pc.filter_(texts, pc.greater(lengths, 0))
        self.keys += len(texts)
        if not len(texts):
            return
        if pa.types.is_timestamp(kinds.plain(kind)):
            self._midnights(texts)
        elif _is_text(kind):
            self._look_at(texts)
            keys = Keys(texts)
            for part in (
                self._marks,
                self._placeholders,
                self._numbers,
                self._phones,
                self._times,
                self._letters,
                self._codes,
            ):
                part(keys)
            if keys.hold(":"):
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
            self._looks.clear()

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
        quoted = _QUOTES[keys.first] & (keys.lengths > 2)
        self.counts["quotes"] += keys.count(quoted, r"""^(=?".*"|'.*'|'[0-9].*)$""")

    def _placeholders(self, keys: Keys) -> None:
        named = keys.lengths == len(self._name.encode())
        self.counts["header"] += keys.count(named, partial(pc.equal, self._name))
        words = pa.array(patterns.PLACEHOLDERS, keys.texts.type)
        found = keys.matching(keys.lengths <= _LONGEST_PLACEHOLDER, partial(pc.is_in, value_set=words))
        self.counts["placeholder"] += len(found)
        self.words.update(pc.unique(found).to_pylist())

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

    def _phones(self, keys: Keys) -> None:
        ends = is_digit(keys.last) & (keys.lengths >= _SHORTEST_PHONE) & (keys.lengths <= _LONGEST_PHONE)
        plus, zero = ends & (keys.first == 0x2B), ends & (keys.first == 0x30)
        if plus.any():
            self.counts["E.164"] += keys.count(plus, patterns.E164)
            if keys.hold(" ()./-") or keys.data.max() >= 0x80:
                self.counts["phone"] += keys.count(plus, _spaced_phones)
        if keys.hold("("):
            self.counts["phone"] += keys.count(ends & ~plus, _with_area_code)
        others, pattern = (ends & ~plus, patterns.PHONE) if self._named_as_phone else (zero, patterns.DIALLED_PHONE)
        self.counts["dialled phone"] += keys.count(others, partial(_without_area_code, pattern=pattern))

    def _times(self, keys: Keys) -> None:
        candidates = (keys.lengths >= _SHORTEST_DATE) & (keys.lengths <= _LONGEST_TIME)
        if keys.hold(":"):
            self.counts["time"] += keys.count(candidates & is_digit(keys.first), _other_times)
        if keys.hold("./- "):
            candidates &= is_digit(keys.last)
            # A date begins with a day or a year, or with the name of a month, and then it has a comma.
            with_digit = is_digit(keys.first)
            parted = ~with_digit if keys.hold(",") else np.zeros(len(keys), np.bool_)
            for position in (1, 2, 4) if (candidates & with_digit).any() else ():
                parted |= with_digit & _DATE_MARKS[keys.at(position)]
            self.counts["date"] += keys.count(candidates & parted, patterns.DATE)

    def _midnights(self, texts: Any) -> None:
        for end in ("T00:00:00", "T00:00:00Z"):
            self.counts["midnight"] += pc.ends_with(texts, pattern=end).true_count

    def _letters(self, keys: Keys) -> None:
        capitals = keys.capitals()
        if keys.hold("@"):
            self.counts["e-mail"] += keys.count(capitals, patterns.EMAIL)
            self._addresses(keys)
        hexadecimal = keys.with_lengths(patterns.HEX_LENGTHS)
        if hexadecimal.any():
            self.counts["hexadecimal"] += keys.count(hexadecimal & capitals, patterns.HEXADECIMAL)
            self._note_any("small hexadecimal", keys, hexadecimal & ~capitals, patterns.HEXADECIMAL)

    def _addresses(self, keys: Keys) -> None:
        if keys.hold(">;,:"):
            self.counts["wrapped e-mail"] += keys.count(np.ones(len(keys), np.bool_), patterns.WRAPPED_EMAIL)
        # Only the providers with an at sign so far before the end ignore dots.
        candidates = np.zeros(len(keys), np.bool_)
        for domain in GMAIL:
            candidates |= (keys.before_end(len(domain) + 1) == 0x40) & (keys.last == 0x6D)
        if keys.hold("+"):
            candidates |= np.logical_or.reduceat(keys.data == 0x2B, keys.starts)
        self.counts["e-mail variant"] += keys.count(candidates, patterns.EMAIL_VARIANT)

    def _codes(self, keys: Keys) -> None:
        ends = HEX_DIGITS[keys.last]
        hashes = ends & keys.with_lengths(patterns.HASHED_LENGTHS)
        if hashes.any():
            # Few hashes begin like those of a placeholder.
            hashes &= _HASHED_BEGINNINGS[keys.first.astype(np.uint16) << 8 | keys.at(1)]
            digests = pa.array(patterns.HASHED_PLACEHOLDERS, keys.texts.type)
            self.counts["hashed placeholder"] += keys.count(hashes, partial(pc.is_in, value_set=digests))
        self.counts["uuid"] += keys.count(ends & (keys.lengths == patterns.BARE_UUID_LENGTH), _are_bare_uuids)
        self.counts["uuid"] += keys.count(keys.with_lengths(patterns.OTHER_UUID_LENGTHS), patterns.OTHER_UUID)
        self._note_any("plain uuid", keys, ends & (keys.lengths == patterns.UUID_LENGTH), patterns.UUID)

    def _note_any(self, kind: str, keys: Keys, candidates: Any, pattern: str) -> None:
        """Count a kind of which only matters whether there are any."""
        if not self.counts[kind]:
            self.counts[kind] = keys.count(candidates, pattern)

    def look(self) -> str:
        """Return what a column of text holds, such as `whole numbers`; empty if its keys have no common form."""
        if self._holds_phones(_SHARE_OF_A_LOOK):
            return patterns.PHONES
        return next((look for look in patterns.LOOKS if self._looks_like(look, _SHARE_OF_A_LOOK)), "")

    def _looks_like(self, look: str, share: float) -> bool:
        """Return whether this share of the first keys match the pattern of a look."""
        if look not in self._looks:
            self._looks[look] = pc.match_substring_regex(self._look, pattern=patterns.LOOKS[look]).true_count
        return len(self._look) > 0 and self._looks[look] >= share * len(self._look)

    def needed_form(self) -> str:
        """Return the form that most keys of the column need, by what they hold; empty if that does not show."""
        if self._holds_phones(_SHARE_OF_PHONES):
            return patterns.FORMS_OF_LOOKS[patterns.PHONES]
        found = (form for look, form in patterns.FORMS_OF_LOOKS.items() if self._looks_like(look, _SHARE_OF_A_FORM))
        return next(found, "")

    def unusual(self, kind: str) -> int:
        """Return how many rows have a kind of key that is unusual beside the other keys of the column."""
        count = self.counts[kind]
        if kind == "phone":
            return count + self._holds_phones(_SHARE_OF_PHONES) * self.counts["dialled phone"]
        against = {
            "point zero": count > self.counts["fraction"],
            "padded": self._plain < self._padded and not self._holds_phones(_SHARE_OF_PHONES),
            "date": count >= _SHARE_OF_DATES * self.keys,
            "midnight": count == self.keys,
            "hexadecimal": self.counts["small hexadecimal"] > 0,
            "uuid": self.counts["plain uuid"] > 0,
        }
        return count if against.get(kind, True) else 0

    def _holds_phones(self, share: float) -> bool:
        """Return whether this share of the keys are phone numbers; digits alone show it only beside other numbers."""
        sure = self.counts["phone"] + self.counts["E.164"]
        is_sure = self._named_as_phone or sure >= _SHARE_OF_SURE_PHONES * self.keys
        return bool(self.keys) and is_sure and sure + self.counts["dialled phone"] >= share * self.keys


def _is_text(kind: Any) -> bool:
    """Return whether the file holds the keys as text, which the exporting tool has spelled."""
    plain = kinds.plain(kind)
    return kinds.is_text(plain) or (kinds.is_bytes(plain) and not kinds.is_uuid(kind))


def _are_decomposed(texts: Any) -> Any:
    return pc.not_equal(texts, pc.utf8_normalize(texts, form="NFC"))


def _other_times(texts: Any) -> Any:
    others = pc.invert(pc.match_substring_regex(texts, pattern=patterns.ISO_TIME))
    return pc.match_substring_regex(pc.filter_(texts, others), pattern=patterns.TIME)


def _are_bare_uuids(texts: Any) -> Any:
    """Return which texts with the length of a UUID without hyphens have only its digits; faster than a pattern."""
    _, data = packed(texts)
    return pc.from_numpy(np.all(HEX_DIGITS[data].reshape(len(texts), -1), axis=1))


def _spaced_phones(texts: Any) -> Any:
    """Return which texts with a plus are phone numbers with something between their digits, not signed numbers."""
    are_numbers = pc.match_substring_regex(texts, pattern=patterns.SIGNED_NUMBER)
    return pc.and_not(pc.match_substring_regex(texts, pattern=patterns.SPACED_PHONE), are_numbers)


def _with_area_code(texts: Any) -> Any:
    have_code = pc.match_substring_regex(texts, pattern=patterns.AREA_CODE)
    return pc.and_(have_code, pc.match_substring_regex(texts, pattern=patterns.PHONE))


def _without_area_code(texts: Any, pattern: str) -> Any:
    have_code = pc.match_substring_regex(texts, pattern=patterns.AREA_CODE)
    return pc.and_not(pc.match_substring_regex(texts, pattern=pattern), have_code)
