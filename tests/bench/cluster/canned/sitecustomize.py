"""Let a party's workers return points and tokens that were made beforehand, so that they cost no time.

Python imports this file in every process whose PYTHONPATH names this folder; it alters psicli's own processes and Ray's
workers if the variable BENCH_CANNED names a file with packed points. Nothing matches.
"""

import os
import sys
from pathlib import Path


def use_canned_points() -> None:
    import numpy as np

    from psicli.exchange import worker

    points = Path(os.environ["BENCH_CANNED"]).read_bytes()
    tokens = os.urandom(len(points) // 2)

    class Canned:
        order_secret = bytes(32)

        def __init__(self, sid, items, own, peer, frame_items, *, receives, strict=False):
            assert own * 32 <= len(points), "not enough points"
            self._items, self._peer, self._frame_items, self._receives = len(items), peer, frame_items, receives

        def mask_own(self, start, stop):
            return points[32 * start : 32 * stop]

        def mask_peer(self, seq, points):
            start = 16 * seq * self._frame_items
            return None if self._receives else tokens[start : start + len(points) // 2]

        def keep_tokens(self, *arguments):
            pass

        check = wipe = keep_tokens

        def match(self, *, bitmap=False):
            return worker.Match(np.zeros(self._items, np.bool_), bytes(-(-self._peer // 8) if bitmap else 0))

    worker.Worker = Canned


OURS = "psicli", "default_worker.py"
if "BENCH_CANNED" in os.environ and any(each.endswith(OURS) for each in sys.orig_argv):
    use_canned_points()
