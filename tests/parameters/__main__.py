"""Print what the numbers of RR22 are worth. With --simulate, repeat the simulations and searches as well."""

from __future__ import annotations

import sys
from math import log2

from parameters import code, store
from parameters.table import worths


def main() -> int:
    if "--simulate" in sys.argv[1:]:
        simulate()
        return 0
    every = worths()
    for worth in every:
        bar = f"{worth.bar:4.0f}" if worth.bar else "   -"
        print(f"{worth.bits:7.1f} bits, needed {bar}   {worth.what}" + ("" if worth.is_enough else "   TOO LITTLE"))
    return 0 if all(worth.is_enough for worth in every) else 1


def simulate() -> None:
    print("store: rows, band, runs, failures; measured and estimated security")
    for simulated, run in (
        (store.SIMULATED, store.failures),
        (store.SIMULATED_BY_KERNEL, store.failures_of_kernel),
    ):
        for rows, band, runs, _ in simulated:
            found = run(rows, band, runs, seed=1)
            measured = log2(runs / found) if found else float("nan")
            estimate = store.upper_estimate(rows, rows * 11 // 10 + band, band)
            print(f"{rows}, {band}, {runs}, {found}; {measured:.1f} and {estimate:.1f} bits", flush=True)
    print("code: length; the lightest word of ours; of random ones")
    for length, _, _ in code.SEARCHED:
        print(f"{length}; {code.searched(length)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
