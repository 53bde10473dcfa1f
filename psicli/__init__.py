"""Batch private set intersection between two organisations, from cron or a shell pipeline."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("psicli")
