"""Nothing secret decides where the C kernel goes or looks, or is left on its stack: on every CPU path.

Two tools follow secrets through the kernel as if they were uninitialised (ctime/ctime.c): Valgrind's memcheck, which
has no AVX-512, through what gcc makes; MemorySanitizer through what clang makes. Each must see a planted mistake.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.kernel.programs import PATHS, Build, alone, missing, run, shared_folder, tool

# What each tool ends with when it found something; a program itself ends with 1 or 2.
FOUND = 99
MISTAKES = ["branch", "address"]

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
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("path", MEMCHECK_PATHS)
def test_memcheck_finds_what_is_planted(path: str, mistake: str, memcheck: list[str | Path]) -> None:
    done = run(*memcheck, path, mistake)
    told = {"branch": "depends on uninitialised value", "address": "Use of uninitialised value"}
    assert done.returncode == FOUND
    assert told[mistake] in done.stderr


@pytest.mark.more
@pytest.mark.parametrize("path", PATHS)
def test_msan_finds_nothing(path: str, msan: Path) -> None:
    assert run_msan(msan, path) == (0, "")


@pytest.mark.sample(1)
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("path", PATHS)
def test_msan_finds_what_is_planted(path: str, mistake: str, msan: Path) -> None:
    code, told = run_msan(msan, path, mistake)
    assert code == FOUND
    assert "use-of-uninitialized-value" in told


# One instruction after another, where memcheck cannot look; the operations left out are parts of these -------------


@pytest.fixture(scope="module")
def steps(gcc: Build) -> Path:
    return gcc.program("steps", "-no-pie")


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["hash_and_mask", "keyed_hashes", "tokens", "on_curve"])
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_the_same_steps_whatever_the_secrets(path: str, operation: str, steps: Path) -> None:
    done = run(steps, path, operation)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_other_steps_are_seen(path: str, steps: Path) -> None:
    done = run(steps, path, "tokens", "branch")
    assert done.returncode == 1
    assert "tokens goes another way from step" in done.stderr


# What stays behind --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remnants(gcc: Build) -> Path:
    return gcc.program("remnants")


@pytest.mark.parametrize("path", PATHS)
def test_no_secret_stays_on_the_stack(path: str, remnants: Path) -> None:
    done = run(remnants, path)
    assert (done.returncode, done.stderr) == (0, "")
    depths = [int(depth) for depth in re.findall(r" (\d+)$", done.stdout, re.M)]
    # The kernel runs in threads, whose stacks may be small; and it did run, its wiping being the deepest of it.
    assert 65536 < max(depths) < 160 * 1024


@pytest.mark.parametrize("path", PATHS)
def test_what_stays_is_seen(path: str, remnants: Path) -> None:
    done = run(remnants, path, "leave")
    assert done.returncode == 1
    assert "mask of 1 leaves" in done.stderr
