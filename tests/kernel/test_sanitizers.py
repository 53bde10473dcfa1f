"""The C kernel under AddressSanitizer and UndefinedBehaviorSanitizer, by itself and as the extension."""

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
def test_nothing_is_found(path: str, program: Path) -> None:
    """Odd counts, many lengths, buffers that end where they end and begin anywhere (ctime/work.h)."""
    done = run(program, path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("mistake", "told"), [("overflow", "heap-buffer-overflow"), ("undefined", "signed integer overflow")]
)
def test_what_is_planted_is_found(mistake: str, told: str, program: Path) -> None:
    done = run(program, "portable", mistake)
    assert done.returncode != 0
    assert told in done.stderr


# The tests of the extension, with one that was built here in the place of the installed one.
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


def test_the_extension_under_its_own_tests(build: Build, tmp_path: Path) -> None:
    made = tmp_path / "_native.abi3.so"
    include = f"-I{sysconfig.get_path('include')}"
    objects = [build.folder / f"{path.stem}.o" for path in SOURCES if path.stem != "module"]
    module = [path for path in SOURCES if path.stem == "module"]
    compile_c(build.compiler, *OPTIONS, *SANITIZERS, include, "-shared", *module, *objects, "-o", made, cwd=tmp_path)
    libraries = [run(build.compiler, f"-print-file-name=lib{name}.so").stdout.strip() for name in ("asan", "ubsan")]
    tests = Path(__file__).parents[1]
    done = run(
        sys.executable, "-c", RUN_TESTS, made, "native or portable or avx",
        *(tests / "unit" / "curve" / f"test_{name}.py" for name in ("vectors", "packed", "backends")),
        tests / "kernel" / "native",
        # Python itself frees little at its end, and has its own allocator, in which no buffer ends where it ends.
        env={"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
