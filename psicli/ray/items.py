"""Items in Ray's object store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psicli.items.partitions import BinItems


@dataclass(frozen=True)
class BinSource(BinItems):
    """The items of a bin that lie in Ray's object store; it can be sent to a node."""

    count: int
    refs: tuple[Any, ...]
    recipe: Callable[..., BinItems]
