"""Do the kernel's work of one party and nothing else: `end_to_end.py` starts this twice.

Prints `ready`, waits for a line, computes, and prints the seconds and the processor seconds that this took.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from psicli import curve
from psicli.exchange.worker import LocalWorkers


def main() -> None:
    rows = int(sys.argv[1])
    sid, scalar, frame = os.urandom(32), os.urandom(32), curve.frame_items()
    items = curve.packed_items([b"\x01\x00\x00\x00\x12customer-%09d" % row for row in range(rows)])
    points = curve.hash_and_mask(items[:frame], sid, scalar)

    def work(start: int) -> None:
        count = min(frame, rows - start)
        curve.hash_and_mask(items[start : start + count], sid, scalar)
        curve.mask(memoryview(points)[: 32 * count], scalar)

    starts: Iterator[int] = iter(range(0, rows, frame))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began, used = time.perf_counter(), time.process_time()
    # As many calls at the same time as in a run.
    with ThreadPoolExecutor(LocalWorkers.calls) as executor:
        done, _ = wait([executor.submit(work, start) for start in starts])
    for each in done:
        each.result()
    sys.stdout.write(f"{time.perf_counter() - began} {time.process_time() - used}\n")


if __name__ == "__main__":
    main()
