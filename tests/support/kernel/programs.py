"""Compiles a kernel in C with its extension's options, and links it with the programs of tests/kernel/ctime."""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.kernel import backends

from psicli import ole

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests" / "kernel" / "ctime"
EXTENSIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
# What setup.py adds to the extensions.
HARDENING: list[str] = runpy.run_path(str(ROOT / "setup.py"))["COMPILING"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


@dataclass(frozen=True)
class Kernel:
    """A kernel in C; package: psicli.curve or psicli.ole; paths: the CPU paths of it that this machine can run."""

    package: str
    paths: tuple[str, ...]

    @property
    def sources(self) -> list[Path]:
        return [ROOT / name for name in self._extension["sources"]]

    @property
    def options(self) -> list[str]:
        macros = (f"-D{name}={value}" for name, value in self._extension["define-macros"])
        return [*self._extension["extra-compile-args"], *macros]

    @property
    def linked(self) -> list[Path]:
        """The sources that the programs are linked with: those that need no Python."""
        return [path for path in self.sources if not path.name.startswith("module")]

    @property
    def _extension(self) -> Mapping[str, Any]:
        (found,) = (extension for extension in EXTENSIONS if extension["name"] == f"psicli.{self.package}._native")
        return found


def _paths(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix("native ") for name in names if name.startswith("native "))


CURVE = Kernel("curve", _paths(backends.NATIVE))
OLE = Kernel("ole", _paths(ole.BACKENDS))
KERNELS = [CURVE, OLE]
# Each kernel with each of its CPU paths, and what tests call the pairs.
CASES = [(kernel, path) for kernel in KERNELS for path in kernel.paths]


def label(of: object) -> str | None:
    return of.package if isinstance(of, Kernel) else None


on_every_path = pytest.mark.parametrize(("kernel", "path"), CASES, ids=label)


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
    """A kernel's object files, compiled without warnings, and the programs linked with them; each is made once."""

    kernel: Kernel
    folder: Path
    compiler: str
    options: tuple[str, ...]

    @staticmethod
    def make(kernel: Kernel, folder: Path, compiler: str, *options: str) -> Build:
        """Compile a kernel with the extension's options and the given ones, in a folder of its own in this one."""
        includes = ["-I", str(kernel.sources[0].parent), "-I", str(PROGRAMS / kernel.package)]
        folder = folder / kernel.package
        folder.mkdir(exist_ok=True)
        build = Build(kernel, folder, compiler, (*kernel.options, *WARNINGS, "-g", *options, *includes))
        with alone(folder):
            if not (folder / "made").exists():
                compile_c(compiler, *build.options, "-c", *kernel.linked, cwd=folder)
                (folder / "made").touch()
        return build

    def program(self, name: str, *options: str) -> Path:
        """Compile a program and link it with the kernel."""
        made = self.folder / name
        objects = [f"{path.stem}.o" for path in self.kernel.linked]
        source = PROGRAMS / f"{name}.c"
        with alone(self.folder):
            if not made.exists():
                compile_c(self.compiler, *self.options, *options, source, *objects, "-o", made, cwd=self.folder)
        return made
