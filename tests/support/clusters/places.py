"""Everything that a node of a Ray cluster holds of a job, and a search for many secrets in it."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from support.clusters.cluster import Node

# Only writable memory can hold a secret.
MAPPED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw(?!.*plasma)")
# The size of a scalar, an order secret and a point, of a page of memory, and of a part to search at once [bytes].
WIDTH, PAGE, PART = 32, 4096, 1 << 18
_LOW = np.uint64(0xFFFFFF)
# How often the object store is looked at [s].
LOOK = 0.5


def store(node: Node) -> bytes:
    """Return the memory of a node's object store that is in use; Ray removes its file's name, but keeps it open."""
    found = b""
    for path in Path(f"/proc/{node.raylet().pid}/fd").iterdir():
        with suppress(OSError):
            if "plasma" in os.readlink(path):
                found += b"".join(_data(path))
    return found


def _data(path: Path) -> Iterator[bytes]:
    """Yield the parts of a sparse file that hold data."""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            stop = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            yield os.pread(file.fileno(), stop - at, at)
            at = stop


def memory(process: psutil.Process) -> bytes:
    """Return the memory of a process that it may write to, without the object store."""
    parts = []
    with open(f"/proc/{process.pid}/maps") as maps, open(f"/proc/{process.pid}/mem", "rb", 0) as octets:
        for line in maps:
            if found := MAPPED.match(line):
                start, stop = (int(each, 16) for each in found.groups())
                with suppress(OSError, ValueError, OverflowError):
                    octets.seek(start)
                    parts.append(octets.read(stop - start))
    return b"".join(parts)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a folder with their contents."""
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):
            if path.is_file():
                yield str(path.relative_to(folder)), path.read_bytes()


class Watch:
    """Collects, until its end, what the object stores and the spill folders of nodes hold at any time."""

    def __init__(self, nodes: Sequence[Node], spilled: Path) -> None:
        self.stores: set[bytes] = set()
        self.spills: dict[str, bytes] = {}
        self._nodes, self._spilled = nodes, spilled
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            self._look()

    def _look(self) -> None:
        self.stores |= {store(node) for node in self._nodes}
        self.spills |= files(self._spilled)


class Secrets:
    """Records of 32 bytes of several kinds, all of which are looked for at once, at any place."""

    def __init__(self, kinds: Mapping[str, bytes]) -> None:
        self.kinds = {
            octets[at : at + WIDTH]: kind for kind, octets in kinds.items() for at in range(0, len(octets), WIDTH)
        }
        heads = b"".join(each[:8] for each in self.kinds)
        self._heads = np.unique(np.frombuffer(heads, "<u8"))
        # Whether a record begins with these 24 bits, which rules out nearly all places quickly.
        self._begins = np.zeros(1 << 24, np.bool_)
        self._begins[self._heads & _LOW] = True

    def within(self, text: bytes) -> set[str]:
        """Return the kinds of which a text holds a record, as it is or in hex."""
        text = _used(text)
        found = {self.kinds[each] for each in self._raw(text)}
        for digits in re.findall(rb"[0-9a-fA-F]{%d,}" % (2 * WIDTH), text):
            for start in (0, 1):
                even = digits[start : start + (len(digits) - start) // 2 * 2]
                found |= {self.kinds[each] for each in self._raw(bytes.fromhex(even.decode()))}
        return found

    def _raw(self, text: bytes) -> Iterator[bytes]:
        for base, offset in itertools.product(range(0, len(text), PART), range(8)):
            first = base + offset
            count = (min(len(text), base + PART + 7) - first) // 8
            if count <= 0:
                continue
            words = np.frombuffer(text, "<u8", count, first)
            maybe = np.flatnonzero(self._begins[words & _LOW])
            nearest = np.minimum(np.searchsorted(self._heads, words[maybe]), len(self._heads) - 1)
            for at in maybe[self._heads[nearest] == words[maybe]].tolist():
                record = text[first + 8 * at : first + 8 * at + WIDTH]
                if record in self.kinds:
                    yield record


def _used(text: bytes) -> bytes:
    """Return the pages of a text that are not all zero; most of a process's memory is, and its pages hold no record."""
    pages = np.frombuffer(text + bytes(-len(text) % PAGE), "<u8").reshape(-1, PAGE // 8)
    return pages[pages.any(axis=1)].tobytes()
