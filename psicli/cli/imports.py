"""Keeps a run from importing what other libraries import and psicli does not use: that took a tenth of a start."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

# What pyarrow only tries to import.
_LEFT_OUT = {"pandas", "dateutil"}
# What is loaded where something of it is used: nothing is in a run. Ray uses some of it.
_LATE = {
    "asyncio",
    "grpc.aio",
    # Protobuf in Python, beside the one in C.
    "google.protobuf.internal.python_message",
    # Only the docstrings of what numpy has in C.
    "numpy._core._add_newdocs",
    "numpy._core._add_newdocs_scalars",
}


class Sparing:
    """A finder of modules for sys.meta_path, before all others."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in _LEFT_OUT:
            raise ModuleNotFoundError(f"psicli does not use {name}")
        if name not in _LATE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
