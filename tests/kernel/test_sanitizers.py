"""Tests of the C kernels under AddressSanitizer and UndefinedBehaviorSanitizer, alone and as the extension."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from support.kernel.programs import KERNELS, Build, Kernel, compile_c, label, on_every_path, run, shared_folder, tool

pytestmark = pytest.mark.slow

SANITIZERS = [
    "-O1",  # gcc takes minutes for -O3 with these
    "-g", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
]  # fmt: skip


on_every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=label)


@pytest.fixture
def build(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build.make(kernel, shared_folder(tmp_path_factory, "sanitizers"), tool("gcc", "gcc"), *SANITIZERS)


@pytest.fixture
def program(build: Build) -> Path:
    return build.program("ctime")


@on_every_path
def test_sanitizers_find_nothing(kernel: Kernel, path: str, program: Path) -> None:
    """Covers odd counts, many lengths, and unaligned buffers that end with their allocation (ctime/*/work.h)."""
    done = run(program, path)
    assert (done.returncode, done.stderr) == (0, "")


@on_every_kernel
@pytest.mark.parametrize(
    ("error", "message"), [("overflow", "heap-buffer-overflow"), ("undefined", "signed integer overflow")]
)
def test_sanitizers_find_planted_errors(kernel: Kernel, error: str, message: str, program: Path) -> None:
    done = run(program, "portable", error)
    assert done.returncode != 0
    assert message in done.stderr


# Runs the tests of the extension with the extension that is built here, not with the installed one.
RUN_TESTS = """
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
name, path, *arguments = sys.argv[1:]
spec = spec_from_file_location(f"psicli.{name}._native", path)
sys.modules[spec.name] = module = module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
code = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", *arguments])
assert import_module(f"psicli.{name}.native")._native is module
sys.exit(code)
"""


TESTS = Path(__file__).parents[1]
# What runs with each extension: options and files. The reference needs no sanitizer.
RUNS: dict[str, list[str | Path]] = {
    "curve": [
        *("-k", "native or portable or avx", TESTS / "kernel" / "native"),
        *(TESTS / "unit" / "curve" / f"test_{name}.py" for name in ("vectors", "packed", "backends")),
    ],
    "ole": [TESTS / "kernel" / "ole"],
}


@on_every_kernel
def test_the_extension_passes_its_tests(kernel: Kernel, build: Build, tmp_path: Path) -> None:
    extension = tmp_path / "_native.abi3.so"
    include = f"-I{sysconfig.get_path('include')}"
    objects = [build.folder / f"{path.stem}.o" for path in kernel.linked]
    module = [path for path in kernel.sources if path not in kernel.linked]
    sources = [*module, *objects]
    compile_c(build.compiler, *kernel.options, *SANITIZERS, include, "-shared", *sources, "-o", extension, cwd=tmp_path)
    libraries = [run(build.compiler, f"-print-file-name=lib{name}.so").stdout.strip() for name in ("asan", "ubsan")]
    done = run(
        sys.executable, "-c", RUN_TESTS, kernel.package, extension, *RUNS[kernel.package],
        # Python does not free all memory at exit. Its own allocator hides accesses beyond the end of a buffer.
        env={"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
