"""Installations with and without the native kernel, and the contents of the wheel and the source archive."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.kernel.programs import missing, run, tool

ROOT = Path(__file__).parents[2]
SOURCES = {str(path.relative_to(ROOT)) for path in ROOT.glob("psicli/*/native_src/*")}
KERNELS = ["psicli/curve/_native.abi3.so", "psicli/ole/_native.abi3.so"]
# Those of job files and of pages.
TEMPLATES = {
    str(path.relative_to(ROOT))
    for folder in (ROOT / "psicli").rglob("templates")
    for path in folder.rglob("*")
    if path.is_file()
}


@pytest.fixture
def without_native(tmp_path: Path) -> Path:
    """Return a folder with a copy of psicli that lacks the compiled extension."""
    # It keeps the compiled Python files, which each test would make again, but not those that another process is
    # writing just now, which soon have another name.
    unwanted = shutil.ignore_patterns("_native*.so", "*.pyc.*")
    shutil.copytree(ROOT / "psicli", tmp_path / "psicli", ignore=unwanted)
    return tmp_path


def psicli(folder: Path, *arguments: str, **env: str) -> tuple[int, str, list[str]]:
    """Run the psicli in a folder; return its exit code, its standard output and its log without time stamps."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
    done = subprocess.run(
        [sys.executable, "-m", "psicli", *arguments],
        cwd=folder, env={**inherited, **env}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, [line.partition(" ")[2] for line in done.stderr.splitlines()]


@pytest.mark.more
def test_without_the_extension_psicli_uses_the_reference_and_warns_once(without_native: Path) -> None:
    code, stdout, log = psicli(without_native, "bench", "--seconds", "0.02")
    assert code == 0
    assert "reference*" in stdout
    assert "native" not in stdout
    (warning,) = log
    assert warning.startswith("WARNING the native curve kernel is not available (it was not built), so ")
    assert "install a C compiler" in warning


@pytest.mark.more
def test_an_extension_that_does_not_load_has_its_own_warning(without_native: Path) -> None:
    (without_native / "psicli" / "curve" / "_native.abi3.so").write_bytes(b"not an object file")
    code, stdout, log = psicli(without_native, "bench", "--seconds", "0.02")
    assert (code, "reference*" in stdout) == (0, True)
    (warning,) = log
    assert warning.startswith("WARNING the native curve kernel is not available (it cannot be loaded: ")


@pytest.mark.sample(1)
@pytest.mark.parametrize(("variable", "value"), [("PSICLI_BACKEND", "native"), ("PSICLI_NATIVE_PATH", "portable")])
def test_asking_for_a_missing_kernel_is_a_configuration_error(without_native: Path, variable: str, value: str) -> None:
    code, stdout, log = psicli(without_native, "bench", **{variable: value})
    assert (code, stdout) == (78, "")
    assert log == [
        f"ERROR {variable} asks for the native curve kernel, which is not available: it was not built",
        "ERROR hint: Install a C compiler and Python's headers (gcc, python3-dev), then reinstall psicli with "
        "`pip install --force-reinstall --no-cache-dir`, or unset the variable to use the slower reference.",
    ]


# Builds from a checkout ------------------------------------------------------------------------------------------


def build(folder: Path, what: str, env: Mapping[str, str], copied: str = "checkout") -> Path:
    """Build a wheel or a source archive from a copy of this checkout, as an installer does."""
    checkout = folder / copied
    unwanted = shutil.ignore_patterns("_native*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "psicli", checkout / "psicli", ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    out = folder / "out"
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, env={**os.environ, **env}, check=True, timeout=600)
    (built,) = out.iterdir()
    return built


def test_a_source_archive_holds_all_c_sources_and_templates(tmp_path: Path) -> None:
    with tarfile.open(build(tmp_path, "sdist", {})) as archive:
        found = [Path(name) for name in archive.getnames()]
    names = {"/".join(path.parts[1:]) for path in found}
    assert {name for name in names if name.endswith((".c", ".h"))} == SOURCES
    assert names >= TEMPLATES


@pytest.mark.parametrize("package", ["curve", "ole"])
def test_the_kernel_is_hardened(package: str) -> None:
    """This is the kernel that all other tests use."""
    found = importlib.util.find_spec(f"psicli.{package}._native")
    if found is None or found.origin is None:
        missing("the native kernel", "gcc")
    check_hardened(Path(found.origin))


def check_hardened(kernel: Path) -> None:
    said = run(tool("readelf", "binutils"), "--wide", "--dynamic", "--program-headers", "--dyn-syms", kernel).stdout
    assert "BIND_NOW" in said
    assert "GNU_RELRO" in said
    assert re.search(r"GNU_STACK .* RW ", said)
    assert "RPATH" not in said
    assert "RUNPATH" not in said
    assert "__stack_chk_fail@" in said
    assert re.search(r"__mem\w+_chk@", said)
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", said) == ["libc.so.6"]


@pytest.mark.more
def test_two_builds_give_the_same_wheel_without_a_path_of_this_machine(tmp_path: Path) -> None:
    """The second one is built later, elsewhere, and from files of another age."""
    wheels = []
    for name, copied in (("a", "checkout"), ("another", "deeper/checkout")):
        folder = tmp_path / name
        folder.mkdir()
        env = {"SOURCE_DATE_EPOCH": "1700000000", "LDFLAGS": f"-Wl,-rpath,{folder} -L{folder}"}
        wheels.append(build(folder, "wheel", env, copied))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as wheel:
        kernels = [Path(wheel.extract(name, tmp_path)) for name in KERNELS]
    for kernel in kernels:
        check_hardened(kernel)
        for folder in (tmp_path, ROOT, Path(sys.prefix), Path(sys.base_prefix)):
            assert str(folder).encode() not in kernel.read_bytes()


@pytest.mark.more
def test_a_compiler_without_an_option_still_builds_the_kernel(tmp_path: Path) -> None:
    """An optional extension would be left out without a word."""
    old = tmp_path / "old-cc"
    old.write_text(
        f'#!/bin/sh\ncase "$*" in *-fcf-*|*-mbranch-*|*-z,now*) exit 1; esac\nexec {tool("gcc", "gcc")} "$@"\n'
    )
    old.chmod(0o755)
    built = build(tmp_path, "wheel", {"CC": str(old)})
    assert {*zipfile.ZipFile(built).namelist()} >= {*KERNELS}


@pytest.mark.slow
def test_a_wheel_works_with_every_python_from_3_11_and_holds_no_c_sources(tmp_path: Path) -> None:
    built = build(tmp_path, "wheel", {})
    assert "-cp311-abi3-" in built.name
    names = zipfile.ZipFile(built).namelist()
    assert {*names} >= {*KERNELS}
    assert not [name for name in names if "native_src" in name]
    assert {*names} >= {"psicli/curve/_native.pyi", "psicli/ole/_native.pyi"}


@pytest.mark.more
def test_without_a_compiler_it_still_installs(tmp_path: Path) -> None:
    built = build(tmp_path, "wheel", {"CC": "false"})
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(tmp_path / "installed")
        assert set(wheel.namelist()) >= TEMPLATES
    assert not [*(tmp_path / "installed").rglob("_native*.so")]
    code, stdout, log = psicli(tmp_path / "installed", "bench", "--seconds", "0.02")
    assert (code, "reference*" in stdout, len(log)) == (0, True, 1)
    # It has all that a command needs which uses templates.
    (tmp_path / "in.csv").write_text("id\nc-1\n")
    trial = ["init", "--input", str(tmp_path / "in.csv"), "--peer-input", str(tmp_path / "in.csv")]
    assert psicli(tmp_path / "installed", *trial, "--folder", str(tmp_path / "jobs"))[0] == 0
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["alice.yaml", "bob.yaml"]


def test_a_rebuild_removes_the_old_kernel_first() -> None:
    """An installation succeeds even if the build fails, and would then keep using the old kernel."""
    recipes = (ROOT / "Makefile").read_text().split("\n\n")
    installing = [recipe for recipe in recipes if "pip install" in recipe and " -e " in recipe]
    assert len(installing) == 5
    for recipe in installing:
        assert recipe.index("$(FORGET_KERNEL)") < recipe.index("pip install")
