"""The chain that makes changes of the ledger evident, as functions of its lines without any I/O.

Each line ends with its number and `prev`, the SHA-256 digest of the line before it. A line that follows something else
(nothing, lines of an older version, a torn line, a break that psicli has found) says `covers` and has the digest of
everything before it instead. The head, in a small file of its own, holds the number and the digest of the last line.
It is written before each line with the digest that the line will have, and again after it, so that a run may be killed
at any moment.

Whoever may write both files can compute everything again. Only a digest that was noted elsewhere shows that.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from psicli.core.records import dataclass

# What a fault is called.
CHANGED, REMOVED, INSERTED, MOVED, BACK_DATED = "changed", "removed", "inserted", "moved", "back-dated"
GONE, HEAD_GONE, RECORDED, ANCHOR = "gone", "head file gone", "found before", "head not found"
# These faults are in a line, the others show at it.
_IN_IT = {CHANGED, INSERTED}
# The event of a line that records a break; the line covers everything before it.
BROKEN = "broken"
# A clock may be set back by so much.
CORRECTION = timedelta(minutes=5)

_NOTHING = hashlib.sha256().hexdigest()
_NO_DIGEST = "0" * len(_NOTHING)
# The digest of a line that was being written when the system stopped.
_UNKNOWN = "f" * len(_NOTHING)
_COVERS = b', "covers": true'
# With blanks at its end, a line is still recognised, but it is not the line that psicli wrote.
_TAIL = re.compile(rb'(, "covers": true)?, "number": ([0-9]{1,15}), "prev": "([0-9a-f]{64})"\}[ \t\r]*\n\Z')
HEAD_BYTES = 296
_NUMBER, _DIGEST = rb"([0-9]{20})", rb"([0-9a-f]{64})"
_HEAD_FIELDS = [_NUMBER, _DIGEST, _NUMBER, _DIGEST, _NUMBER, _NUMBER, _DIGEST, rb"([0-9a-f]{16})"]
_HEAD = re.compile(b" ".join(_HEAD_FIELDS) + rb"\n")
# Where the time is in a line.
_MOMENT = slice(10, 35)


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def sealed(entry: dict[str, Any], number: int, prev: str, *, covers: bool = False) -> bytes:
    """Return an entry, whose first field is its time, as a line of the chain.

    covers: whether `prev` is the digest of everything before it, instead of the line before it.
    """
    return json.dumps(entry).encode()[:-1] + _COVERS * covers + _tail(number, prev)


def _tail(number: int, prev: str) -> bytes:
    return b', "number": %d, "prev": "%s"}\n' % (number, prev.encode())


class Head(NamedTuple):
    """The last line, the offset after it, and the digest and end of a line that is being written, if there is one.

    synced, synced_digest: the last line that is surely on the disk; boot: when the system was started, as an id.
    """

    number: int = 0
    digest: str = _NOTHING
    end: int = 0
    next_digest: str = _NO_DIGEST
    next_end: int = 0
    synced: int = 0
    synced_digest: str = _NOTHING
    boot: str = _NO_DIGEST[:16]

    @classmethod
    def decode(cls, octets: bytes) -> Head | None:
        """Return the head that a file holds, or None if it is no head."""
        if (match := _HEAD.fullmatch(octets)) is None:
            return None
        number, last, end, following, next_end, synced, synced_digest, boot = (each.decode() for each in match.groups())
        return cls(int(number), last, int(end), following, int(next_end), int(synced), synced_digest, boot)

    def encode(self) -> bytes:
        """Return the content of the file, which always has the same size."""
        written = f"{self.number:020} {self.digest} {self.end:020} {self.next_digest} {self.next_end:020}"
        return f"{written} {self.synced:020} {self.synced_digest} {self.boot}\n".encode()

    @property
    def writes(self) -> bool:
        """Whether a line was about to be written."""
        return self.next_digest != _NO_DIGEST

    def before(self, line: bytes, start: int) -> Head:
        """Return the head to write before a line that will begin at this offset."""
        return self._replace(end=start, next_digest=digest(line), next_end=start + len(line))

    def after(self) -> Head:
        """Return the head once the line that was being written is in the file."""
        return self._replace(
            number=self.number + 1,
            digest=self.next_digest,
            end=self.next_end,
            next_digest=_NO_DIGEST,
            next_end=0,
        )

    def on_disk(self) -> Head:
        """Return the head once everything up to the last line is on the disk."""
        return self._replace(synced=self.number, synced_digest=self.digest)

    def has_last(self, number: int, last: str) -> bool:
        """Whether this may be the last line; a line that is being written may be there or not."""
        known = [(self.number, self.digest)] + [(self.number + 1, self.next_digest)] * self.writes
        return (number, last) in known


class Line(NamedTuple):
    """A line of the file. at: its position there, from 1; number: 0 if it is not part of the chain.

    covers: whether its `prev` is the digest of everything before it. torn: whether it may be the beginning of a line;
    ends: whether it has an end.
    """

    at: int
    number: int
    prev: str
    digest: str
    moment: bytes
    covers: bool
    torn: bool
    ends: bool
    # What a line that records a break says: what was found, and which head the ledger should have had.
    found: tuple[str, ...] = ()
    last: int = 0
    head: str = ""


@dataclass(frozen=True)
class Fault:
    """What is wrong with the ledger. at: the line of the file where it shows."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Verdict:
    """What an examination found. lines: how many the chain has; number: the highest; head: the last line's digest.

    last, expected: the number and the digest that the last line should have. faults: all of them; fresh: those that no
    line records yet. before: lines of an older version, before the chain; torn: lines that a run did not write to their
    end. anchor: the number of the line that has the given digest.
    """

    lines: int
    number: int
    head: str
    last: int
    expected: str
    faults: tuple[Fault, ...]
    fresh: tuple[Fault, ...]
    before: int
    torn: int
    anchor: int | None


def is_intact(read: Callable[[], Iterable[bytes]], head: Head) -> bool:
    """Return whether `examine` would find nothing that no line records; this is much faster, but gives no reasons.

    read: returns all lines, at every call.
    """
    start = max((at for at, line in enumerate(read()) if _COVERS in line), default=-1)
    everything, number, last, moment = hashlib.sha256(), 0, "", b""
    for at, line in enumerate(_completed(read(), head)):
        if at < start:
            everything.update(line)
            continue
        if at == start:
            match = _TAIL.search(line)
            if match is None or not match[1] or match[3].decode() != everything.hexdigest():
                return False
            number = int(match[2])
        else:
            number += 1
            if not line.endswith(_tail(number, last)) or (line[_MOMENT] < moment and _set_back(moment, line[_MOMENT])):
                return False
        last, moment = digest(line), line[_MOMENT]
    return head.has_last(number, last)


def after_restart(read: Callable[[], Iterable[bytes]], head: Head) -> Head:
    """Return the head that fits a ledger after the system was restarted, or the head itself if none does.

    If the system stops, either file may lack what was written last. So after that the ledger may end with any line from
    the last one on that was surely on the disk.
    """

    def whole() -> Iterator[bytes]:
        return (line for line in _completed(read(), head) if line.endswith(b"\n"))

    found, end, reached = head, 0, not head.synced
    for line in whole():
        end += len(line)
        if match := _TAIL.search(line):
            found = head._replace(number=int(match[2]), digest=digest(line), end=end, next_digest=_NO_DIGEST)
            reached = reached or (found.number, found.digest) == (head.synced, head.synced_digest)
    if not reached or not is_intact(whole, found):
        return head
    size = sum(map(len, read()))
    return found._replace(next_digest=_UNKNOWN, next_end=size + 1) if size > end else found


def examine(lines: Iterable[bytes], head: Head | None, anchor: str | None = None, *, existed: bool = False) -> Verdict:
    """Return everything that is wrong with a ledger.

    head: None if the head file is gone or damaged. anchor: a digest noted elsewhere, which one of the lines must have.
    existed: whether there was a ledger, even if now both files are empty or gone.
    """
    return _Examination([*_read(_completed(lines, head))], head, existed=existed).verdict(anchor)


def _completed(lines: Iterable[bytes], head: Head | None) -> Iterator[bytes]:
    """Yield all lines; if the last one only lacks the character that ends it, as on a full disk, complete it."""
    known = () if head is None else (head.digest, head.next_digest)
    for line in lines:
        lacks = not line.endswith(b"\n") and digest(line + b"\n") in known
        yield line + b"\n" * lacks


def _read(lines: Iterable[bytes]) -> Iterator[Line]:
    everything = hashlib.sha256()
    for at, octets in enumerate(lines, 1):
        number, prev, covers, torn = 0, "", False, False
        if match := _TAIL.search(octets):
            number, prev = int(match[2]), match[3].decode()
            covers = bool(match[1]) and prev == everything.hexdigest()
        else:
            torn = is_torn(octets.removesuffix(b"\n"))
        everything.update(octets)
        recorded = _recorded(octets) if covers else ()
        ends = octets.endswith(b"\n")
        yield Line(at, number, prev, digest(octets), octets[_MOMENT], covers, torn, ends, *recorded)


def is_torn(octets: bytes) -> bool:
    """Return whether this text may be the beginning of a line, which a run did not write to its end."""
    try:
        entry = json.loads(octets)
    except (ValueError, RecursionError):
        return b"\n" not in octets
    return b"\n" not in octets and not (isinstance(entry, dict) and {"event", "time"} <= entry.keys())


def _recorded(octets: bytes) -> tuple[tuple[str, ...], int, str]:
    """Return what a line that records a break says; empty for any other line."""
    try:
        entry = json.loads(octets)
        if entry["event"] == BROKEN:
            return tuple(map(str, entry["found"])), int(entry.get("last", 0)), str(entry.get("head", ""))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return (), 0, ""


class _Examination:
    """Compares the lines of a ledger with each other and with the head."""

    def __init__(self, lines: list[Line], head: Head | None, *, existed: bool) -> None:
        self._lines, self._head, self._existed = lines, head, existed
        self._faults: list[Fault] = []
        self._torn = 0
        self._end = len(lines) + 1
        self._chained = [line for line in lines if line.number]
        first = self._chained[0].at if self._chained else len(lines) + 1
        self._before, self._rest = lines[: first - 1], lines[first - 1 :]
        self._last, self._expected = max((line.number for line in self._chained), default=0), ""
        if head is not None:
            written = any((line.number, line.digest) == (head.number + 1, head.next_digest) for line in self._chained)
            self._last, self._expected = head.number + written, head.next_digest if written else head.digest
        # The line that the chain, or the head, has at each number; then those lines that take the place of others.
        self._known = self._vouched()
        self._numbered = {line.number: line for line in reversed(self._chained)}
        self._places = dict(self._known)

    def _add(self, kind: str, text: str, at: int) -> None:
        self._faults.append(Fault(kind, text, at))

    def _vouched(self) -> dict[int, Line]:
        digests = {line.prev for line in self._chained}
        covering = [line for line in self._chained if line.covers and line.at > 1]
        digests |= {line.head or self._lines[line.at - 2].digest for line in covering}
        if self._head is not None:
            digests |= {self._head.digest, self._head.next_digest}
        elif self._chained:
            digests.add(self._chained[-1].digest)
        found: dict[int, Line] = {}
        for line in self._chained:
            in_order = line.at > 1 and self._lines[line.at - 2].number == line.number - 1
            if line.digest in digests and (in_order or line.number not in found):
                found[line.number] = line
        return found

    def verdict(self, anchor: str | None) -> Verdict:
        self._check_start()
        self._check_lines()
        self._check_numbers()
        self._check_order()
        if self._head is None and self._chained:
            self._add(
                HEAD_GONE, "the head file is gone or damaged, so nobody can tell whether lines are missing", self._end
            )
        if self._existed and not self._lines and (self._head is None or not self._head.number):
            text = "gone: the whole ledger, of whose runs the state folder holds traces; they no longer count"
            self._add(GONE, text, self._end)
        for line in self._chained:
            self._faults += [Fault(RECORDED, f"line {line.number} records: {each}", line.at) for each in line.found]
        numbers = {line.digest: line.number for line in self._chained}
        if anchor is not None and anchor not in numbers:
            self._add(
                ANCHOR, f"no line has the head {anchor}: the ledger was changed since, or is another one", self._end
            )
        faults = tuple(sorted(self._faults, key=lambda fault: fault.at))
        covered = max((line.at for line in self._chained if line.covers), default=0)
        fresh = tuple(fault for fault in faults if fault.at > covered or (fault.at == covered and fault.kind in _IN_IT))
        head = self._chained[-1].digest if self._chained else _NOTHING
        known = self._last, self._expected or head
        number, found = max([self._last, *self._numbered]), numbers.get(anchor or "")
        torn = self._torn
        return Verdict(len(self._chained), number, head, *known, faults, fresh, len(self._before), torn, found)

    def _check_start(self) -> None:
        """Check what is before the chain, and what follows it without being part of it."""
        if not self._chained:
            return
        first = self._chained[0]
        if self._before and not first.covers:
            if first.prev == _NOTHING:
                self._add(INSERTED, f"inserted: {_numbers(1, len(self._before))} of the file", first.at)
            elif first.number == 1:
                self._add(CHANGED, "changed: the lines before the chain", first.at)

    def _check_lines(self) -> None:
        """Find lines that nothing vouches for."""
        following: list[Line | None] = [None]
        for line in reversed(self._rest[1:]):
            following.append(line if line.number else following[-1])
        number = 0
        for line, after in zip(self._rest, reversed(following), strict=False):
            number = max(number, line.number)
            if line.number and self._known.get(line.number) is not line:
                self._check_line(line)
            elif not line.number:
                self._check_text(line, number + 1, after)
        late = [number for number in self._known if number > self._last]
        if late:
            text = f"inserted: {_numbers(min(late), max(late))}, after the head; or the head file is an older copy"
            self._add(INSERTED, text, self._known[min(late)].at)

    def _check_line(self, line: Line) -> None:
        """Find out what a line is whose digest no other line and no head has."""
        following = self._numbered.get(line.number + 1)
        missing = following is None and line.number < self._last
        if line.number not in self._places and (missing or (following and following.covers and not following.head)):
            # The line that would know its digest is gone.
            self._places[line.number] = line
            return
        last = following.last if following is not None and following.covers else self._last
        if line.number in self._places or line.number > last:
            self._add(INSERTED, f"inserted: line {line.at} of the file", line.at)
        else:
            self._add(CHANGED, f"changed: line {line.number}", line.at)
            self._places[line.number] = line

    def _check_text(self, line: Line, number: int, following: Line | None) -> None:
        """Find out what a line of text is that is not part of the chain; number: the one that belongs here."""
        # Without a head, nobody knows whether a line was being written.
        writes = self._head is None or self._head.writes
        seen = following.covers and not following.found if following else writes and not line.ends
        if line.torn and seen:
            self._torn += 1
        elif number not in self._places and number <= self._last:
            self._places[number] = line._replace(number=number)
            self._add(CHANGED, f"changed: line {number}", line.at)
        else:
            self._add(INSERTED, f"inserted: line {line.at} of the file", line.at)

    def _check_numbers(self) -> None:
        """Find numbers that no line has."""
        number = 0
        for following in [*sorted(each for each in self._places if each <= self._last), self._last + 1]:
            if following > number + 1:
                missing = _numbers(number + 1, following - 1)
                if following <= self._last:
                    self._add(REMOVED, f"removed: {missing}", self._places[following].at)
                else:
                    text = f"gone from the end: {missing}; somebody removed them or put an older copy in place"
                    self._add(GONE, text, self._end)
            number = following

    def _check_order(self) -> None:
        """Find lines that are not where their number belongs, and lines with an earlier time than the one before."""
        ordered = sorted(self._places.values(), key=lambda line: line.at)
        staying = _longest_ascending([line.number for line in ordered])
        for at, line in enumerate(ordered):
            if at not in staying:
                self._add(MOVED, f"moved: line {line.number}", line.at)
        for number, line in self._places.items():
            before = self._known.get(number - 1)
            if before is not None and line.moment < before.moment and _set_back(before.moment, line.moment):
                self._add(BACK_DATED, f"back-dated: line {number} is earlier than the line before it", line.at)


def _set_back(before: bytes, after: bytes) -> bool:
    """Whether a time is earlier than the one before it by more than a correction of the clock."""
    try:
        earlier, later = (datetime.fromisoformat(moment.decode("ascii")) for moment in (before, after))
        return later < earlier - CORRECTION
    except (ValueError, TypeError):
        return False


def _longest_ascending(numbers: Sequence[int]) -> set[int]:
    """Return the positions of the longest ascending sequence: the lines that nobody needs to move."""
    tops: list[int] = []
    at_top: list[int] = []
    before: list[int] = []
    for at, number in enumerate(numbers):
        length = bisect_left(tops, number)
        before.append(at_top[length - 1] if length else -1)
        tops[length : length + 1], at_top[length : length + 1] = [number], [at]
    found, at = set(), at_top[-1] if at_top else -1
    while at >= 0:
        found.add(at)
        at = before[at]
    return found


def _numbers(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"
