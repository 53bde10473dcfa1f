"""The paths of the curve kernel for AVX-512, on any x86-64 CPU: their intrinsics are emulated in plain C."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from support.kernel.programs import CURVE, ROOT, compile_c, run, tool

EMULATED = Path(__file__).with_name("emulated")
# The compiler must not use the instructions that this CPU may lack, and module.c must not ask for them.
REPLACED = {r"^#pragma GCC target\(.*\)$": "", r"__builtin_cpu_supports\([^)]*\)": "1"}


@pytest.mark.more
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have the portable path only")
def test_the_paths_for_avx512_pass_the_tests_of_the_curve(tmp_path: Path) -> None:
    package = tmp_path / "psicli"
    shutil.copytree(ROOT / "psicli", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for source in (package / "curve" / "native_src").glob("*.c"):
        text = source.read_text()
        for pattern, replacement in REPLACED.items():
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        source.write_text(text)
    # Vectors this wide do not fit into the registers of this CPU; PSICLI_PLAIN does without what needs them there.
    options = [*CURVE.options, "-DPSICLI_PLAIN", "-Wno-psabi", f"-I{EMULATED}", f"-I{sysconfig.get_path('include')}"]
    sources = [tmp_path / path.relative_to(ROOT) for path in CURVE.sources]
    extension = package / "curve" / "_native.abi3.so"
    compile_c(tool("gcc", "gcc"), *options, "-shared", "-fPIC", *sources, "-o", extension, cwd=tmp_path)

    # Not with the package of the folder in which it runs.
    command, own = [sys.executable, "-P"], {"PYTHONPATH": str(tmp_path)}
    used = run(*command, "-c", "import psicli.curve._native as native; print(native.__file__)", env=own)
    assert used.stdout == f"{extension}\n", used.stderr
    selected = ["-k", "native-avx512", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run(*command, "-m", "pytest", *selected, ROOT / "tests" / "unit" / "curve", env=own)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    # At least this many for each of the two paths.
    assert passed is not None, done.stdout
    assert int(passed[1]) > 2 * 50
