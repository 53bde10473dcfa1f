"""Rules for the source code that the import contracts in pyproject.toml cannot express."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "psicli"


class Source(NamedTuple):
    """What a source file imports, which functions it calls by a bare name, and which attributes of names it uses."""

    path: str
    imports: set[str]
    calls: set[str]
    attributes: set[tuple[str, str]]


@cache
def sources() -> list[Source]:
    """Return all source files, by their path within the package."""
    return [parsed(path) for path in sorted(PACKAGE.rglob("*.py"))]


def parsed(path: Path) -> Source:
    source = Source(str(path.relative_to(PACKAGE)), set(), set(), set())
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                source.imports.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str()):
                assert node.level == 0, "imports are absolute"
                source.imports.update(f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Call(func=ast.Name(id=name)):
                source.calls.add(name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                source.attributes.add((name, attribute))
    return source


def test_only_files_replaces_files() -> None:
    replacing = {("os", "replace"), ("os", "rename"), ("shutil", "move")}
    assert {source.path for source in sources() if source.attributes & replacing} == {"storage/files.py"}


@pytest.mark.parametrize("module", ["psicli.config", "psicli.cli.main", "psicli.storage.locks"])
def test_an_error_in_the_job_file_is_reported_without_loading_the_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'grpc', 'pyarrow', 'numpy', 'pandas'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_classes_of_values_are_cheap_to_define() -> None:
    users = {source.path for source in sources() if "dataclasses.dataclass" in source.imports}
    assert not users, "import dataclass from psicli.core.records"


def test_only_places_reaches_other_machines() -> None:
    assert importing("pyarrow.fs") == {"storage/places/remote.py"}
    # A batch also reports to a monitor.
    assert importing("urllib.request") == {"storage/places/web.py", "batch/unattended/ping.py"}


def importing(module: str) -> set[str]:
    return {source.path for source in sources() if any(name.startswith(module) for name in source.imports)}


def test_nothing_prints_pickles_or_evaluates() -> None:
    forbidden = {"print", "eval", "exec", "compile", "input", "__import__"}
    for source in sources():
        assert not source.calls & forbidden, source.path
        modules = {name.split(".")[0] for name in source.imports}
        assert not modules & {"pickle", "marshal", "shelve", "random"}, source.path
