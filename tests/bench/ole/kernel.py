"""Show the processor time of each function of the kernel of RR22 for each CPU path, with one thread.

Then that of both halves of a whole attempt at a bin, from the digests of the items to the blocks that tokens are made
of. Each figure is the best of some runs, because other programs of a busy machine slow down all but a few of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from psicli import curve, ole
from psicli.ole import reference
from psicli.ole.blocks import Blocks, aligned
from psicli.ole.vectors import ReceiverVectors, SenderVectors
from psicli.protocol.rr22.sizes import DELTA_BITS, DELTA_TREES, TREES, Sizes, sizes

KEY = bytes(range(16))
SID = bytes(32)


def blocks(count: int, words: int = 2) -> Blocks:
    made = aligned(count, words)
    made[:] = reference.stream(KEY, count * words // 2).reshape(count, words)
    return made


def functions(kernel: ole.Backend, items: int, of: Sizes) -> dict[str, Callable[[], object]]:
    """Return a call of each function with the arguments that an attempt at a bin has."""
    keys, store, noise, pairs = blocks(items), blocks(of.store), blocks(of.noise), blocks(of.noise, 4)
    rows, points = kernel.rows(keys, of.store, KEY), np.zeros(TREES, np.uint32)
    return {
        "hashes": lambda: kernel.hashes(blocks(of.paths), 0),
        "grow": lambda: kernel.grow(keys[:TREES], of.width),
        "regrow": lambda: kernel.regrow(blocks(TREES * of.depth), points, of.width),
        "spread": lambda: kernel.spread(blocks(16 * DELTA_TREES), TREES, points[:DELTA_TREES]),
        "combine": lambda: kernel.combine(blocks(DELTA_BITS * TREES)),
        "transpose": lambda: kernel.transpose(blocks(of.paths)),
        "compress": lambda: kernel.compress(noise, of.store),
        "compress two": lambda: kernel.compress(pairs, of.store),
        "add_products": lambda: kernel.add_products(store, store, keys[:1]),
        "rows": lambda: kernel.rows(keys, of.store, KEY),
        "encode": lambda: kernel.encode(rows, keys, store),
        "decode": lambda: kernel.decode(rows, store),
    }


def best(call: Callable[[], object], runs: int) -> float:
    """Return the least processor time of a call [s]."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def attempt(items: int, of: Sizes) -> dict[str, float]:
    """Return the processor time of each step of both halves [s]."""
    digests = blocks(items, 4)
    receiver, sender = ReceiverVectors(SID, of), SenderVectors(SID, of)
    times: dict[str, float] = {}

    def step(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        made = call(*arguments)
        times[name] = time.process_time() - start
        return made

    step("receiver encode", receiver.encode, digests)
    choices = step("receiver choices", receiver.choices, step("sender keys", sender.keys))
    sums = step("sender sums", sender.sums, choices)
    vector = step("receiver vector", receiver.vector, sums)
    step("sender evaluate", sender.evaluate, vector, digests)
    step("receiver evaluate", receiver.evaluate)
    for half in ("receiver", "sender"):
        times[half] = sum(spent for name, spent in times.items() if name.startswith(half))
    return times


def show(title: str, columns: dict[str, dict[str, float]]) -> None:
    print(f"{title:<20}", *(f"{name.removeprefix('native '):>10}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:<20}", *(f"{column[row]:10.3f}" for column in columns.values()))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[1 << 14, 1 << 20], help="items of each party")
    parser.add_argument("--runs", type=int, default=3, help="runs of each function")
    parser.add_argument("--paths", nargs="+", default=[name for name in ole.BACKENDS if name != reference.NAME])
    options = parser.parse_args()
    curve.set_threads(1)
    for items in options.items:
        of = sizes(items)
        times = {}
        for path in options.paths:
            calls = functions(ole.BACKENDS[path], items, of)
            times[path] = {name: best(call, options.runs) for name, call in calls.items()}
        show(f"{items:,} items [s]", times)
        whole = [attempt(items, of) for _ in range(options.runs)]
        least = {step: min(times[step] for times in whole) for step in whole[0]}
        show("a whole attempt [s]", {ole.backend(): least})


if __name__ == "__main__":
    main()
