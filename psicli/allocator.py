"""Give freed memory back to the system, so that what bounds a run's data bounds the process.

Allocators keep what is freed for the next time. glibc does it in an arena a thread, for ever larger pieces, and Arrow
brings an allocator of its own that does it too: a process can then hold twice what is in use, now and then.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

import pyarrow as pa

# From mallopt(3): from how many bytes on a piece is mapped by itself, and unmapped when it is freed.
_M_MMAP_THRESHOLD = -3
# Buffers of frames and batches are about as large; mapping them costs a few percent of the reading [bytes].
_MAPPED_BYTES = 1 << 20


def give_back_what_is_freed() -> None:
    """Have large pieces of memory given back as soon as they are freed, by C code and Arrow alike."""
    # Only glibc needs it, and only glibc has it. Set once, the threshold no longer grows by itself.
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
