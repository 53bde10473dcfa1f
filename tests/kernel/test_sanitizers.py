"""Tests of the C kernel under AddressSanitizer and UndefinedBehaviorSanitizer, alone and as the extension."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from support.kernel.programs import OPTIONS, PATHS, SOURCES, Build, compile_c, run, shared_folder, tool

pytestmark = pytest.mark.slow

SANITIZERS = [
    "-O1",  # gcc takes minutes for -O3 with these
    "-g", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
]  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build.make(shared_folder(tmp_path_factory, "sanitizers"), tool("gcc", "gcc"), *SANITIZERS)


@pytest.fixture(scope="module")
def program(build: Build) -> Path:
    return build.program("ctime")


@pytest.mark.parametrize("path", PATHS)
def test_sanitizers_find_nothing(path: str, program: Path) -> None:
    """Covers odd counts, many lengths, and unaligned buffers that end with their allocation (ctime/work.h)."""
    done = run(program, path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "message"), [("overflow", "heap-buffer-overflow"), ("undefined", "signed integer overflow")]
)
def test_sanitizers_find_planted_errors(error: str, message: str, program: Path) -> None:
    done = run(program, "portable", error)
    assert done.returncode != 0
    assert message in done.stderr


# Runs the tests of the extension with the extension that is built here, not with the installed one.
RUN_TESTS = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("psicli.curve._native", sys.argv[1])
sys.modules["psicli.curve._native"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
code = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", sys.argv[2], *sys.argv[3:]])
from psicli.curve import native
assert native._native is module
sys.exit(code)
"""


def test_the_extension_passes_its_tests(build: Build, tmp_path: Path) -> None:
    extension = tmp_path / "_native.abi3.so"
    include = f"-I{sysconfig.get_path('include')}"
    objects = [build.folder / f"{path.stem}.o" for path in SOURCES if path.stem != "module"]
    module = [path for path in SOURCES if path.stem == "module"]
    sources = [*module, *objects]
    compile_c(build.compiler, *OPTIONS, *SANITIZERS, include, "-shared", *sources, "-o", extension, cwd=tmp_path)
    libraries = [run(build.compiler, f"-print-file-name=lib{name}.so").stdout.strip() for name in ("asan", "ubsan")]
    tests = Path(__file__).parents[1]
    done = run(
        sys.executable, "-c", RUN_TESTS, extension, "native or portable or avx",
        *(tests / "unit" / "curve" / f"test_{name}.py" for name in ("vectors", "packed", "backends")),
        tests / "kernel" / "native",
        # Python does not free all memory at exit. Its own allocator hides accesses beyond the end of a buffer.
        env={"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
