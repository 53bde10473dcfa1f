"""Compiles the C kernel with the extension's options, and links it with the programs of tests/kernel/ctime."""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from support.kernel import backends

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests" / "kernel" / "ctime"
EXTENSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
SOURCES = [ROOT / name for name in EXTENSION["sources"]]
KERNEL = [path for path in SOURCES if path.name.startswith("path_")]
OPTIONS = [*EXTENSION["extra-compile-args"], *(f"-D{name}={value}" for name, value in EXTENSION["define-macros"])]
# What setup.py adds to the extension.
HARDENING: list[str] = runpy.run_path(str(ROOT / "setup.py"))["COMPILING"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# The CPU paths that this machine can run.
PATHS = [name.removeprefix("native ") for name in backends.NATIVE]


def tool(command: str, package: str) -> str:
    """Return the path of a command; if it is missing, skip the test, or fail it in CI."""
    found = shutil.which(command)
    if found is None:
        missing(command, package)
    return found


def missing(what: str, package: str) -> NoReturn:
    reason = f"{what} is missing; install the package {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=900
    )


def compile_c(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run([*map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that all processes of this test run share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that other processes wait."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Build:
    """The kernel's object files, compiled without warnings, and the programs linked with them; each is made once."""

    folder: Path
    compiler: str
    options: tuple[str, ...]

    @staticmethod
    def make(folder: Path, compiler: str, *options: str) -> Build:
        """Compile the kernel with the extension's options and the given ones."""
        build = Build(folder, compiler, (*OPTIONS, *WARNINGS, "-g", *options, "-I", str(KERNEL[0].parent)))
        with alone(folder):
            if not (folder / "made").exists():
                compile_c(compiler, *build.options, "-c", *KERNEL, cwd=folder)
                (folder / "made").touch()
        return build

    def program(self, name: str, *options: str) -> Path:
        """Compile a program and link it with the kernel."""
        made = self.folder / name
        objects = [f"{path.stem}.o" for path in KERNEL]
        source = PROGRAMS / f"{name}.c"
        with alone(self.folder):
            if not made.exists():
                compile_c(self.compiler, *self.options, *options, source, *objects, "-o", made, cwd=self.folder)
        return made
