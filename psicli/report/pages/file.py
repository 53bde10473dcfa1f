"""The file of a page. Nothing else is ever replaced by one: no input, no output, no file of a job."""

from __future__ import annotations

from pathlib import Path

from psicli.storage.files import check_replaceable, save

# No format of an output has these suffixes.
SUFFIXES = (".html", ".htm")
# How every page begins.
BEGINNING = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="psicli">
"""


def check_page_file(path: Path) -> None:
    """Check that a page can be written to this path; raises CannotCreateError, StorageError."""
    check_replaceable(path, BEGINNING.encode(), "the file there is no page of psicli")


def save_page(path: Path, page: str) -> None:
    """Write a page as a whole or not at all; raises CannotCreateError, StorageError."""
    check_page_file(path)
    save(path, page)
