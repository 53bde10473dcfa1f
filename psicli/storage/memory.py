"""The memory plan: how a run divides its memory. Anything that does not fit into its share is written to disk.

use                                               share of the working memory
two bins in progress, and the bin being matched   2 x 5/16
rows of a task while psicli reads them            2/16
matched rows while psicli sorts them              3/16
frames in transit, blocks of files                1/16
"""

from __future__ import annotations

import os
import resource
import sys

from psicli.core.errors import AddressSpaceError, in_units
from psicli.core.records import dataclass

# Memory of Python, Arrow, gRPC, the kernel and their threads before the first row is read [bytes].
LIBRARIES = 220_000_000
# With less there is no room for a few frames and blocks of a file besides the libraries [bytes].
LEAST_MEMORY = 384_000_000
# Address space that libraries and stacks reserve besides the memory that they use: in all, and for each core [bytes].
_RESERVED, _RESERVED_PER_CORE = 600_000_000, 64_000_000
# In which steps psicli advises people on memory: a tenth of a gigabyte [bytes].
_STEP = 100_000_000
# Memory of one item in a bin: the item and its position, the points of both sides, the tokens and the work space to
# compare them. The tests measure it. By RR22, a bin needs at most two thirds of this besides its items [bytes].
BIN_ITEM_BYTES = 320


@dataclass(frozen=True)
class MemoryPlan:
    """The shares of a run whose total memory is limited. memory: the limit [bytes]."""

    memory: int

    @property
    def working(self) -> int:
        """The memory left for a job's data after the libraries have taken theirs [bytes]."""
        return self.memory - LIBRARIES

    @property
    def bin(self) -> int:
        """The share of each of the two bins in progress [bytes]."""
        return self.working * 5 // 16

    @property
    def reading(self) -> int:
        """The share for the rows of a task while psicli reads them [bytes]."""
        return self.working * 2 // 16

    @property
    def sorting(self) -> int:
        """The share for the matched rows of a task while psicli sorts them [bytes]."""
        return self.working * 3 // 16

    @property
    def room(self) -> int:
        """How many items a bin has room for [items]."""
        return max(self.bin // BIN_ITEM_BYTES, 1)

    def bin_items(self, least: int, most: int) -> int:
        """Return how many items a bin has room for, as a power of two between `least` and `most` [items]."""
        return min(max(1 << self.room.bit_length() - 1, least), most)


def memory_for_bin(items: int) -> int:
    """Return the memory that makes room for a bin of this many items, in whole steps [bytes]."""
    need = max(LIBRARIES + -(-items * BIN_ITEM_BYTES * 16 // 5), LEAST_MEMORY)
    return -(-need // _STEP) * _STEP


UNBOUNDED = MemoryPlan(sys.maxsize)


def room_for_memory() -> int | None:
    """Return how much memory the limit on the address space (ulimit -v) leaves for a run [bytes]; None without one."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else max(limit - _reserved(), 0)


def check_address_space(memory: int = LEAST_MEMORY) -> None:
    """Raise AddressSpaceError if a run cannot use this much memory [bytes]: libraries would end it without a word."""
    room = room_for_memory()
    if room is not None and room < memory:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        raise AddressSpaceError(limit=in_units(limit), need=in_units(memory + _reserved()))


def _reserved() -> int:
    return _RESERVED + _RESERVED_PER_CORE * (os.cpu_count() or 1)


def peak_memory() -> int | None:
    """Return the peak memory of this process [bytes], or None if unknown: VmHWM, which includes mapped files."""
    try:
        with open("/proc/self/status") as status:
            kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(kilobytes) * 1024
