"""Tests that gcc and clang compile the kernels without warnings, with the same results on every CPU path."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from support.kernel.programs import HARDENING, KERNELS, WARNINGS, Build, Kernel, compile_c, label, run, tool

# gcc gives some warnings only when it optimises.
COMPILERS = {"gcc": "-c", "clang": "-fsyntax-only"}

on_every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=label)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kernel", "source"),
    [(kernel, source) for kernel in KERNELS for source in kernel.sources],
    ids=lambda of: label(of) or of.name,
)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warning(compiler: str, kernel: Kernel, source: Path, tmp_path: Path) -> None:
    options = [*kernel.options, *HARDENING, *WARNINGS, f"-I{sysconfig.get_path('include')}"]
    compile_c(tool(compiler, compiler), *options, COMPILERS[compiler], source, cwd=tmp_path)


@pytest.mark.slow
@on_every_kernel
def test_all_paths_and_compilers_give_the_same_results(kernel: Kernel, tmp_path: Path) -> None:
    results = {}
    for compiler in COMPILERS:
        folder = tmp_path / compiler
        folder.mkdir()
        program = Build.make(kernel, folder, tool(compiler, compiler)).program("ctime")
        for path in kernel.paths:
            done = run(program, path)
            assert done.returncode == 0
            results[compiler, path] = done.stdout
    assert len(results["gcc", "portable"].splitlines()) > 40
    assert {name for name, result in results.items() if result != results["gcc", "portable"]} == set()


@pytest.mark.slow
@on_every_kernel
def test_clang_builds_the_extension(kernel: Kernel, tmp_path: Path) -> None:
    include = f"-I{sysconfig.get_path('include')}"
    extension = tmp_path / "_native.abi3.so"
    compile_c(
        tool("clang", "clang"),
        *kernel.options,
        *HARDENING,
        include,
        "-shared",
        "-fPIC",
        *kernel.sources,
        "-o",
        extension,
        cwd=tmp_path,
    )
    code = (
        "from importlib.util import module_from_spec as module, spec_from_file_location as spec\n"
        f"found = spec('_native', {str(extension)!r})\n"
        "native = module(found)\n"
        "found.loader.exec_module(native)\n"
        "print(*native.paths())\n"
    )
    done = run(sys.executable, "-c", code)
    assert sorted(done.stdout.split()) == sorted(kernel.paths)
