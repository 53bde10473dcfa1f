"""Record the secrets of psicli's actors, so that a test can search for them.

Python imports this file in every process of a cluster whose PYTHONPATH names this folder. Only processes that run the
code of jobs record something: each appends to its own files in the folder TEST_SECRETS, which are named after the kind
of what they hold.
"""

import os
import sys

# Something that Ray does write down: what an actor says on standard error.
CANARY = b"said by an actor"


def record() -> None:
    from psicli import curve
    from psicli.exchange.worker import Worker

    folder, files = os.environ["TEST_SECRETS"], {}

    def keep(kind, octets):
        if kind not in files:
            files[kind] = open(f"{folder}/{kind}-{os.getpid()}", "ab", buffering=0)  # noqa: SIM115
        files[kind].write(octets)

    begin, hash_and_mask, mask = Worker.__init__, curve.hash_and_mask, curve.mask

    def begun(self, *arguments, **more):
        begin(self, *arguments, **more)
        keep("scalars", bytes(self._scalar))
        keep("orders", self.order_secret)
        print(CANARY.decode(), file=sys.stderr, flush=True)

    def hashed_and_masked(items, sid, scalar, tag=curve.ITEM_TAG):
        points = hash_and_mask(items, sid, scalar, tag)
        keep("unmasked", curve.BACKENDS[curve.backend()].hash_to_points(items, sid + tag, curve.DST))
        keep("masked", points)
        return points

    def masked(points, scalar):
        products, bad = mask(points, scalar)
        keep("products", products)
        return products, bad

    Worker.__init__, curve.hash_and_mask, curve.mask = begun, hashed_and_masked, masked


if "TEST_SECRETS" in os.environ and any(each.endswith("default_worker.py") for each in sys.orig_argv):
    record()
