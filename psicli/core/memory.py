"""Who may take what of the memory of a run. What does not fit goes to disk; nothing else decides how much that is.

what                                              of the working memory
two bins under way, and what is being matched     2 x 5/16
rows of a task while they are read                2/16
matched rows while they are sorted                3/16
frames on their way, blocks of files              1/16
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

# Python, Arrow, gRPC, the kernel and their threads, before a row has been read [bytes].
LIBRARIES = 220_000_000
# Less leaves no room for a few frames and blocks of a file beside the libraries [bytes].
LEAST_MEMORY = 384_000_000
# What an item takes in a bin: itself and its place, points of both sides, tokens, and what comparing them takes; the
# tests measure it [bytes].
BIN_ITEM_BYTES = 320


@dataclass(frozen=True)
class MemoryPlan:
    """The shares of a run that may fill so much memory in all [bytes]."""

    memory: int

    @property
    def working(self) -> int:
        """What is left for a job's data: the libraries take their part before the first row [bytes]."""
        return self.memory - LIBRARIES

    @property
    def bin(self) -> int:
        """What one of the two bins under way may take [bytes]."""
        return self.working * 5 // 16

    @property
    def reading(self) -> int:
        """What the rows of a task may take while they are read [bytes]."""
        return self.working * 2 // 16

    @property
    def sorting(self) -> int:
        """What the matched rows of a task may take while they are sorted [bytes]."""
        return self.working * 3 // 16

    def bin_items(self, least: int, most: int) -> int:
        """Return the largest power of two of items that a bin has room for, within these bounds [items]."""
        room = max(self.bin // BIN_ITEM_BYTES, 1)
        return min(max(1 << room.bit_length() - 1, least), most)


UNBOUNDED = MemoryPlan(sys.maxsize)


def peak_memory() -> int | None:
    """Return the most memory this process has had at once [bytes]: VmHWM, which files mapped into it count to."""
    try:
        with open("/proc/self/status") as status:
            kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(kilobytes) * 1024
