"""Tests that no branch or address in the C kernels depends on a secret, and that no secret stays on the stack.

Two tools track secrets through a kernel as if they were uninitialised memory (ctime/ctime.c). Valgrind's memcheck,
which supports neither AVX-512 nor VAES, checks gcc's code, and MemorySanitizer checks clang's. Each tool must find a
planted error.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.kernel.programs import (
    CASES,
    OLE,
    Build,
    Kernel,
    alone,
    label,
    missing,
    on_every_path,
    run,
    shared_folder,
    tool,
)

# The exit code of a tool that has found an error; the checked program itself exits with 1 or 2.
FOUND = 99
PLANTED = ["branch", "address"]

MEMCHECK = [case for case in CASES if not case[1].startswith(("avx512", "vaes"))]
OTHERS = [case for case in CASES if case not in MEMCHECK]


def on(cases: list[tuple[Kernel, str]], *, soon: list[tuple[Kernel, str]]) -> pytest.MarkDecorator:
    """Run a test in each case, and in `make test` only in some: compilers take long for the kernel of the curve."""
    marked = [case if case in soon else pytest.param(*case, marks=pytest.mark.more) for case in cases]
    return pytest.mark.parametrize(("kernel", "path"), marked, ids=label)


on_memcheck_paths = on(MEMCHECK, soon=[(OLE, "portable")])
on_other_paths = pytest.mark.parametrize(("kernel", "path"), OTHERS, ids=label)
on_every_path_of_gcc = on(CASES, soon=[case for case in CASES if case[0] is OLE])


@pytest.fixture
def gcc(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build.make(kernel, shared_folder(tmp_path_factory, "gcc"), tool("gcc", "gcc"))


@pytest.fixture
def memcheck(gcc: Build) -> list[str | Path]:
    """The command that checks a path."""
    valgrind = tool("valgrind", "valgrind")
    if run(gcc.compiler, "-E", "-include", "valgrind/memcheck.h", "-xc", "/dev/null").returncode != 0:
        missing("valgrind/memcheck.h", "valgrind")
    return [valgrind, "-q", f"--error-exitcode={FOUND}", gcc.program("ctime", "-DPSICLI_VALGRIND")]


@pytest.fixture
def msan(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that checks a path."""
    folder = shared_folder(tmp_path_factory, "msan")
    clang = tool("clang", "clang")
    with alone(folder):
        (folder / "empty.c").write_text("int main(void) { return 0; }\n")
        linked = run(clang, "-fsanitize=memory", folder / "empty.c", "-o", folder / "empty").returncode == 0
    if not linked:
        missing("MemorySanitizer", "libclang-rt-dev")
    return Build.make(kernel, folder, clang, "-fsanitize=memory", "-DPSICLI_PLAIN").program("ctime")


def run_msan(*command: str | Path) -> tuple[int, str]:
    done = run(*command, env={"MSAN_OPTIONS": f"exit_code={FOUND}"})
    return done.returncode, done.stderr


@on_memcheck_paths
def test_memcheck_finds_nothing(kernel: Kernel, path: str, memcheck: list[str | Path]) -> None:
    done = run(*memcheck, path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("error", PLANTED)
@on_memcheck_paths
def test_memcheck_finds_planted_errors(kernel: Kernel, path: str, error: str, memcheck: list[str | Path]) -> None:
    done = run(*memcheck, path, error)
    messages = {"branch": "depends on uninitialised value", "address": "Use of uninitialised value"}
    assert done.returncode == FOUND
    assert messages[error] in done.stderr


@pytest.mark.more
@on_every_path
def test_msan_finds_nothing(kernel: Kernel, path: str, msan: Path) -> None:
    assert run_msan(msan, path) == (0, "")


@pytest.mark.more
@pytest.mark.parametrize("error", PLANTED)
@on_every_path
def test_msan_finds_planted_errors(kernel: Kernel, path: str, error: str, msan: Path) -> None:
    code, messages = run_msan(msan, path, error)
    assert code == FOUND
    assert "use-of-uninitialized-value" in messages


# Single steps, on the paths that memcheck does not support. The curve's other operations are parts of these ----------


@pytest.fixture
def steps(gcc: Build) -> Path:
    return gcc.program("steps", "-no-pie")


STEPPED = {
    "curve": ["hash_and_mask", "digests", "partners", "tokens", "on_curve"],
    "ole": [
        *("encrypt", "hashes", "add_products", "combine", "transpose", "grow", "regrow", "spread", "spread_at_points"),
        *("convolve", "convolve_pairs", "expand", "expand_pairs", "rows", "encode", "decode"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "path", "operation"), [(*case, name) for case in OTHERS for name in STEPPED[case[0].package]], ids=label
)
def test_steps_do_not_depend_on_secrets(kernel: Kernel, path: str, operation: str, steps: Path) -> None:
    done = run(steps, path, operation)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@on_other_paths
def test_different_steps_are_detected(kernel: Kernel, path: str, steps: Path) -> None:
    # The first bit of the result differs for the two secrets.
    operation = {"curve": "tokens", "ole": "encrypt"}[kernel.package]
    done = run(steps, path, operation, "branch")
    assert done.returncode == 1
    assert f"{operation} takes different steps from step" in done.stderr


# The stack ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def remnants(gcc: Build) -> Path:
    return gcc.program("remnants")


@on_every_path_of_gcc
def test_no_secret_stays_on_the_stack(kernel: Kernel, path: str, remnants: Path) -> None:
    done = run(remnants, path)
    assert (done.returncode, done.stderr) == (0, "")
    depths = [int(depth) for depth in re.findall(r" (\d+)$", done.stdout, re.M)]
    # The upper limit is for threads, whose stacks may be small. The lower one shows that the stack was wiped.
    assert 65536 < max(depths) < 160 * 1024


@on_every_path_of_gcc
def test_remnants_are_detected(kernel: Kernel, path: str, remnants: Path) -> None:
    done = run(remnants, path, "leave")
    assert done.returncode == 1
    assert " of 1 leaves" in done.stderr
