"""Several parties or many jobs on one machine: the simulation of a job, and batches."""

import sys

# How psicli starts itself; -P keeps modules in the current folder out.
PSICLI = (sys.executable, "-P", "-m", "psicli")
# Variables that set options of `psicli run`; whoever starts it sets these options.
SET_BY_OPTIONS = frozenset({
    "PSICLI_PARTY", "PSICLI_PORT_OFFSET", "PSICLI_ONLY", "PSICLI_JSON", "PSICLI_TRACE", "PSICLI_QUIET",
    "PSICLI_VERBOSE", "PSICLI_REPORT", "PSICLI_METRICS",
})  # fmt: skip
