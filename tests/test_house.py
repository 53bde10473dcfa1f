"""The house's table of rooms: who may import whom, and who alone may use what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "psicli"

# Every import between our own modules, top to bottom: a module may use those below it that it names here.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {
        "__init__", "bench", "certs", "check", "checklist", "config", "console", "errors", "failpoints", "job",
        "ledger", "locks", "report", "resume", "signals", "simulate", "state",
    },
    "check": {
        "__init__", "bench", "checklist", "config", "console", "curve", "errors", "estimate", "files", "items", "job",
        "ledger", "link", "locks", "protocol", "session", "signals", "spool", "state", "tables", "tls", "wire",
    },
    "checklist": {"errors"},
    "estimate": {"config", "files", "job", "memory", "partitions", "protocol"},
    "simulate": {"config", "errors", "files", "signals", "state"},
    "certs": {"errors", "files", "tls"},
    "bench": {"__init__", "curve", "errors", "signals"},
    "job": {
        "__init__", "config", "console", "curve", "errors", "failpoints", "files", "items", "ledger", "link", "locks",
        "memory", "outputs", "partitions", "pipeline", "policy", "protocol", "report", "resume", "session", "signals",
        "spool", "state", "tables", "tls", "trace",
    },
    "console": set(),
    "resume": {
        "__init__", "config", "errors", "files", "finished", "ledger", "pipeline", "protocol", "state", "tables",
        "worker",
    },
    "outputs": {"errors", "files", "partitions", "pipeline", "policy", "state", "tables"},
    "session": {
        "__init__", "curve", "errors", "failpoints", "link", "partitions", "pipeline", "protocol", "signals", "trace",
        "wire",
    },
    "pipeline": {
        "errors", "failpoints", "memory", "partitions", "protocol", "signals", "spool", "trace", "worker",
    },
    "finished": {"errors", "failpoints", "files", "protocol", "state", "worker"},
    "worker": {"curve", "errors", "partitions", "records"},
    "partitions": {"curve", "errors", "items", "records", "spool"},
    "records": set(),
    "link": {"errors", "failpoints", "protocol", "signals", "sockets", "tls", "trace", "window", "wire"},
    "window": {"errors"},
    "tls": {"errors", "signals", "sockets"},
    "sockets": {"errors", "signals"},
    "signals": {"errors"},
    "wire": {"errors", "protocol", "psi_pb2"},
    "protocol": {"errors"},
    "report": {"errors"},
    "locks": {"errors", "failpoints", "signals"},
    "tables": {"errors", "files", "items", "spool"},
    "config": {"errors", "files", "memory"},
    "memory": set(),
    "items": {"errors"},
    "policy": {"config", "errors"},
    "ledger": {"errors", "failpoints", "state"},
    "spool": {"errors", "failpoints", "state"},
    "state": {"errors", "failpoints", "files"},
    "curve": {"errors", "trace"},
    "trace": {"files"},
    "files": {"errors", "failpoints"},
    "failpoints": {"errors"},
    "errors": set(),
    "psi_pb2": set(),
}  # fmt: skip

# Libraries only some rooms may touch.
EXCLUSIVE = {
    "grpc": {"link"},
    "ssl": {"tls"},
    "google": {"wire", "psi_pb2"},
    "yaml": {"config"},
    "click": {"cli", "console"},
    "tqdm": {"console"},
    "pydantic": {"config"},
}


def sources() -> list[tuple[str, ast.Module]]:
    """Return every source file with the room it belongs to; a package is one room."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found.append((path.relative_to(PACKAGE).parts[0].removesuffix(".py"), ast.parse(path.read_text())))
    return found


def imports(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "psicli":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "__init__"


def test_every_module_is_in_the_table() -> None:
    assert {room for room, _ in sources()} == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_go_one_way(room: str) -> None:
    used = {room_of(name) for other, tree in sources() if other == room for name in imports(tree)} - {None, room}
    assert used == ALLOWED[room]


def test_the_table_has_no_cycle() -> None:
    left = {room: set(uses) for room, uses in ALLOWED.items()}
    while left:
        free = {room for room, uses in left.items() if not uses & left.keys()}
        assert free, f"a cycle among {sorted(left)}"
        left = {room: uses for room, uses in left.items() if room not in free}


@pytest.mark.parametrize("library", sorted(EXCLUSIVE))
def test_a_library_stays_in_its_room(library: str) -> None:
    users = {room for room, tree in sources() for name in imports(tree) if name.split(".")[0] == library}
    assert users <= EXCLUSIVE[library]


def test_only_files_replaces_files() -> None:
    users = {room for room, tree in sources() for node in ast.walk(tree) if is_replace(node)}
    assert users == {"files"}


def is_replace(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and ((node.value.id, node.attr) in {("os", "replace"), ("os", "rename"), ("shutil", "move")})
    )


@pytest.mark.parametrize("module", ["psicli.config", "psicli.cli", "psicli.locks"])
def test_a_mistake_in_the_job_file_is_told_without_the_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'grpc', 'pyarrow', 'numpy', 'pandas'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_nothing_prints_pickles_or_evaluates() -> None:
    forbidden = {"print", "eval", "exec", "compile", "input", "__import__"}
    for room, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, f"{room}: {node.func.id}()"
        assert not {name.split(".")[0] for name in imports(tree)} & {"pickle", "marshal", "shelve", "random"}, room
