"""Batch private set intersection between two organisations, from cron, a shell pipeline or Python.

The names of the Python API are imported when they are used, so that the command line starts without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psicli.api import Job, Progress, Report, RunError, TaskResult, intersect, load_job, run

__version__ = "0.1.0"
__all__ = ["Job", "Progress", "Report", "RunError", "TaskResult", "__version__", "intersect", "load_job", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("psicli.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
