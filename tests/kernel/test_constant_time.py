"""Tests that no branch or address in the C kernel depends on a secret, and that no secret stays on the stack.

Two tools track secrets through the kernel as if they were uninitialised memory (ctime/ctime.c). Valgrind's memcheck,
which does not support AVX-512, checks gcc's code, and MemorySanitizer checks clang's. Each tool must find a planted
error.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.kernel.programs import PATHS, Build, alone, missing, run, shared_folder, tool

# The exit code of a tool that has found an error; the checked program itself exits with 1 or 2.
FOUND = 99
PLANTED = ["branch", "address"]

MEMCHECK_PATHS = [path for path in PATHS if not path.startswith("avx512")]
OTHER_PATHS = [path for path in PATHS if path not in MEMCHECK_PATHS]


@pytest.fixture(scope="module")
def gcc(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build.make(shared_folder(tmp_path_factory, "gcc"), tool("gcc", "gcc"))


@pytest.fixture(scope="module")
def memcheck(gcc: Build) -> list[str | Path]:
    """The command that checks a path."""
    valgrind = tool("valgrind", "valgrind")
    if run(gcc.compiler, "-E", "-include", "valgrind/memcheck.h", "-xc", "/dev/null").returncode != 0:
        missing("valgrind/memcheck.h", "valgrind")
    return [valgrind, "-q", f"--error-exitcode={FOUND}", gcc.program("ctime", "-DPSICLI_VALGRIND")]


@pytest.fixture(scope="module")
def msan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that checks a path."""
    folder = shared_folder(tmp_path_factory, "msan")
    clang = tool("clang", "clang")
    with alone(folder):
        (folder / "empty.c").write_text("int main(void) { return 0; }\n")
        linked = run(clang, "-fsanitize=memory", folder / "empty.c", "-o", folder / "empty").returncode == 0
    if not linked:
        missing("MemorySanitizer", "libclang-rt-dev")
    return Build.make(folder, clang, "-fsanitize=memory", "-DPSICLI_PLAIN").program("ctime")


def run_msan(*command: str | Path) -> tuple[int, str]:
    done = run(*command, env={"MSAN_OPTIONS": f"exit_code={FOUND}"})
    return done.returncode, done.stderr


@pytest.mark.more
@pytest.mark.parametrize("path", MEMCHECK_PATHS)
def test_memcheck_finds_nothing(path: str, memcheck: list[str | Path]) -> None:
    done = run(*memcheck, path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.more
@pytest.mark.parametrize("error", PLANTED)
@pytest.mark.parametrize("path", MEMCHECK_PATHS)
def test_memcheck_finds_planted_errors(path: str, error: str, memcheck: list[str | Path]) -> None:
    done = run(*memcheck, path, error)
    messages = {"branch": "depends on uninitialised value", "address": "Use of uninitialised value"}
    assert done.returncode == FOUND
    assert messages[error] in done.stderr


@pytest.mark.more
@pytest.mark.parametrize("path", PATHS)
def test_msan_finds_nothing(path: str, msan: Path) -> None:
    assert run_msan(msan, path) == (0, "")


@pytest.mark.sample(1)
@pytest.mark.parametrize("error", PLANTED)
@pytest.mark.parametrize("path", PATHS)
def test_msan_finds_planted_errors(path: str, error: str, msan: Path) -> None:
    code, messages = run_msan(msan, path, error)
    assert code == FOUND
    assert "use-of-uninitialized-value" in messages


# Single steps, on the paths that memcheck does not support; the other operations are parts of these ----------------


@pytest.fixture(scope="module")
def steps(gcc: Build) -> Path:
    return gcc.program("steps", "-no-pie")


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["hash_and_mask", "digests", "tokens", "on_curve"])
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_steps_do_not_depend_on_secrets(path: str, operation: str, steps: Path) -> None:
    done = run(steps, path, operation)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_different_steps_are_detected(path: str, steps: Path) -> None:
    done = run(steps, path, "tokens", "branch")
    assert done.returncode == 1
    assert "tokens takes different steps from step" in done.stderr


# The stack ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remnants(gcc: Build) -> Path:
    return gcc.program("remnants")


@pytest.mark.parametrize("path", PATHS)
def test_no_secret_stays_on_the_stack(path: str, remnants: Path) -> None:
    done = run(remnants, path)
    assert (done.returncode, done.stderr) == (0, "")
    depths = [int(depth) for depth in re.findall(r" (\d+)$", done.stdout, re.M)]
    # The upper limit is for threads, whose stacks may be small. The lower one shows that the stack was wiped.
    assert 65536 < max(depths) < 160 * 1024


@pytest.mark.parametrize("path", PATHS)
def test_remnants_are_detected(path: str, remnants: Path) -> None:
    done = run(remnants, path, "leave")
    assert done.returncode == 1
    assert "mask of 1 leaves" in done.stderr
