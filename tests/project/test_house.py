"""Rules for the source code that the import contracts in pyproject.toml cannot express."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "psicli"


def sources() -> list[tuple[str, ast.Module]]:
    """Return the path within the package and the syntax tree of every source file."""
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def imports(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_files_replaces_files() -> None:
    users = {path for path, tree in sources() for node in ast.walk(tree) if is_replace(node)}
    assert users == {"storage/files.py"}


def is_replace(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and ((node.value.id, node.attr) in {("os", "replace"), ("os", "rename"), ("shutil", "move")})
    )


@pytest.mark.parametrize("module", ["psicli.config", "psicli.cli.main", "psicli.storage.locks"])
def test_an_error_in_the_job_file_is_reported_without_loading_the_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'grpc', 'pyarrow', 'numpy', 'pandas'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_classes_of_values_are_cheap_to_define() -> None:
    users = {path for path, tree in sources() if "dataclasses.dataclass" in imports(tree)}
    assert not users, "import dataclass from psicli.core.records"


def test_only_places_reaches_other_machines() -> None:
    users = {path for path, tree in sources() if any(each.startswith("pyarrow.fs") for each in imports(tree))}
    assert users == {"storage/places/remote.py"}
    users = {path for path, tree in sources() if any(each.startswith("urllib.request") for each in imports(tree))}
    # A batch also reports to a monitor.
    assert users == {"storage/places/web.py", "batch/unattended/ping.py"}


def test_nothing_prints_pickles_or_evaluates() -> None:
    forbidden = {"print", "eval", "exec", "compile", "input", "__import__"}
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, f"{path}: {node.func.id}()"
        assert not {name.split(".")[0] for name in imports(tree)} & {"pickle", "marshal", "shelve", "random"}, path
