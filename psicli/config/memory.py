"""How much memory a run may fill: `512MB` to bytes, and what a machine has."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from psicli.config.fields import wrong
from psicli.errors import shown
from psicli.memory import LEAST_MEMORY

_TEXT = r"([1-9][0-9]{0,14}) ?(?:([KMGT])(i?)B)?"
_UNITS = " KMGT"
# Where a container or a service is given less than the machine has (cgroup 2, cgroup 1).
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def _to_bytes(value: object) -> object:
    """Return how many bytes a text such as 512MB, 2GiB or 2000000000 stands for. Raises PydanticCustomError."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(_TEXT, value, re.IGNORECASE)
    if not found:
        raise wrong(f"{shown(value)} is no amount of memory", "give for example 512MB, 2GB or 400MiB")
    size = int(found[1]) * (1024 if found[3] else 1000) ** _UNITS.index((found[2] or " ").upper())
    if size < LEAST_MEMORY:
        raise wrong(f"{shown(value)} is too little", f"give at least {LEAST_MEMORY // 1_000_000}MB")
    return size


Memory = Annotated[
    int,
    BeforeValidator(_to_bytes),
    # As a job file writes it, not as the job holds it.
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_TEXT}$"}, {"type": "integer", "minimum": LEAST_MEMORY}]}
    ),
]


def default_memory() -> int:
    """Return a quarter of the machine's memory, or the least there must be [bytes]."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _LIMITS:
        # Without a limit there is the word max, or no file.
        with suppress(OSError, ValueError):
            sizes.append(int(path.read_text()))
    return max(min(sizes) // 4, LEAST_MEMORY)
