"""The native kernel as an installation has it or lacks it, and what the archives hold that are built here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {path.name for path in (ROOT / "psicli" / "curve" / "native_src").iterdir()}


@pytest.fixture
def without_native(tmp_path: Path) -> Path:
    """A folder with psicli as it is where the extension was not built."""
    unwanted = shutil.ignore_patterns("_native*.so", "__pycache__")
    shutil.copytree(ROOT / "psicli", tmp_path / "psicli", ignore=unwanted)
    return tmp_path


def psicli(folder: Path, *arguments: str, **env: str) -> tuple[int, str, list[str]]:
    """Run the psicli of a folder; return its code, its standard output and the log without time stamps."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
    done = subprocess.run(
        [sys.executable, "-m", "psicli", *arguments],
        cwd=folder, env={**inherited, **env}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, [line.partition(" ")[2] for line in done.stderr.splitlines()]


def test_without_the_extension_the_reference_does_its_work_and_says_so_once(without_native: Path) -> None:
    code, stdout, log = psicli(without_native, "bench", "--seconds", "0.02")
    assert code == 0
    assert "reference *" in stdout
    assert "native" not in stdout
    (warning,) = log
    assert warning.startswith("WARNING the native curve kernel is not there (it was not built): ")
    assert "install a C compiler" in warning


def test_an_extension_that_does_not_load_is_told_from_none(without_native: Path) -> None:
    (without_native / "psicli" / "curve" / "_native.abi3.so").write_bytes(b"not an object file")
    code, stdout, log = psicli(without_native, "bench", "--seconds", "0.02")
    assert (code, "reference *" in stdout) == (0, True)
    (warning,) = log
    assert warning.startswith("WARNING the native curve kernel is not there (it does not load: ")


@pytest.mark.parametrize(("variable", "value"), [("PSICLI_BACKEND", "native"), ("PSICLI_NATIVE_PATH", "portable")])
def test_what_is_asked_for_and_not_there_is_a_configuration_error(
    without_native: Path, variable: str, value: str
) -> None:
    code, stdout, log = psicli(without_native, "bench", **{variable: value})
    assert (code, stdout) == (78, "")
    assert log == [
        f"ERROR {variable} asks for the native curve kernel, which is not there: it was not built",
        "ERROR hint: Install a C compiler and Python's headers (gcc, python3-dev), then psicli again with "
        "`pip install --force-reinstall --no-cache-dir`; or unset the variable to run slower without it.",
    ]


# Built from a checkout -------------------------------------------------------------------------------------------


def build(folder: Path, what: str, env: Mapping[str, str]) -> Path:
    """Build a wheel or a source archive from a copy of this checkout, as an installer does."""
    checkout = folder / "checkout"
    unwanted = shutil.ignore_patterns("_native*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "psicli", checkout / "psicli", ignore=unwanted)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    out = folder / "out"
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, env={**os.environ, **env}, check=True, timeout=600)
    (built,) = out.iterdir()
    return built


def test_a_source_archive_holds_all_of_the_c(tmp_path: Path) -> None:
    with tarfile.open(build(tmp_path, "sdist", {})) as archive:
        names = {Path(name).name for name in archive.getnames() if "/native_src/" in name}
    assert names == SOURCES


@pytest.mark.slow
def test_a_wheel_serves_every_python_from_3_11_and_holds_no_c(tmp_path: Path) -> None:
    built = build(tmp_path, "wheel", {})
    assert "-cp311-abi3-" in built.name
    names = zipfile.ZipFile(built).namelist()
    assert "psicli/curve/_native.abi3.so" in names
    assert not [name for name in names if "native_src" in name]
    assert "psicli/curve/_native.pyi" in names


def test_without_a_compiler_it_installs_all_the_same(tmp_path: Path) -> None:
    built = build(tmp_path, "wheel", {"CC": "false"})
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(tmp_path / "installed")
    assert not [*(tmp_path / "installed").rglob("_native*.so")]
    code, stdout, log = psicli(tmp_path / "installed", "bench", "--seconds", "0.02")
    assert (code, "reference *" in stdout, len(log)) == (0, True, 1)


def test_a_kernel_that_is_built_anew_leaves_no_old_one() -> None:
    """A build that fails is no failure of the installation, and would leave the old kernel in use."""
    recipes = (ROOT / "Makefile").read_text().split("\n\n")
    installing = [recipe for recipe in recipes if "pip install" in recipe and " -e " in recipe]
    assert len(installing) == 4
    for recipe in installing:
        assert recipe.index("$(FORGET_KERNEL)") < recipe.index("pip install")
