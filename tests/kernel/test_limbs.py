"""Tests that no sum or product in the kernel can overflow: limbs/intervals.cpp runs the kernel's code on intervals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.kernel.bounds import FIELD25, FIELD51, FIELD52, FIELDS, Field

SOURCES = Path(__file__).parents[2] / "psicli" / "curve" / "native_src"
INTERVALS = Path(__file__).parent / "limbs" / "intervals.cpp"
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(COMPILER is None and not os.environ.get("CI"), reason="there is no C++ compiler")


def by_header(field: Field) -> str:
    return field.header


def one_line(comment: str) -> str:
    """Return C comments as one line of text."""
    return re.sub(r"\s+", " ", re.sub(r"\n \*", "", comment))


def run_intervals(field: Field, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile the kernel's code in a folder with intervals instead of numbers, and run it."""
    found = re.search(r"^static void field_from_wide\(.*?^}\n", (folder / "hashing.h").read_text(), re.S | re.M)
    assert found, "field_from_wide is no longer in hashing.h"
    (folder / "field_from_wide.h").write_text(found[0])
    macros = {
        "FIELD": field.header.removeprefix("field").removesuffix(".h"),
        "TIGHT": ",".join(map(str, field.tight)),
        "LOOSE": ",".join(map(str, field.loose)),
        "CARRIED": str(field.carried),
        "COLUMN_BITS": str(field.column_bits),
    }
    flags = ["-std=c++17", f"-I{folder}"]
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    program = folder / "intervals"
    assert COMPILER
    compiled = subprocess.run([COMPILER, *flags, *defined, "-o", program, INTERVALS], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return subprocess.run([program], capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the kernel's headers."""
    for header in SOURCES.glob("*.h"):
        shutil.copy(header, tmp_path)
    return tmp_path


@pytest.mark.parametrize("field", FIELDS, ids=by_header)
def test_the_bounds_are_those_in_the_header(field: Field) -> None:
    text = one_line((SOURCES / field.header).read_text())
    assert [claim for claim in field.claims if claim not in text] == []


@pytest.mark.sample(1)
@pytest.mark.parametrize("field", FIELDS, ids=by_header)
def test_nothing_overflows(field: Field, folder: Path) -> None:
    done = run_intervals(field, folder)
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"stable after \d+ rounds\n$", done.stdout)
    for function in ("fe_carry", "fe_add", "fe_sub", "fe_mul", "fe_sqr", "fe_mul_small", "fe_reduce"):
        assert len(re.findall(rf"^{function} +\| +[1-9]\d* \|", done.stdout, re.M)) == 2


# For each planted error: the field, the file, the right and the wrong code, and the message that must be printed.
PLANTED = {
    "no carry from the last limb": (
        FIELD25, "field25.h", "    carry_limb(c, 9);\n", "",
        r"fe_carry, limb 9, call 1 of each function alone: the result is too large",
    ),
    "p instead of 2p in a difference with carries": (
        FIELD25, "field25.h", "(2 * LIMB_MASK(i) - (i == 0 ? 36 : 0))", "(LIMB_MASK(i) - (i == 0 ? 18 : 0))",
        r"fe_sub, limb 0, call \d+ of each function alone: a difference below zero",
    ),
    "an operand above 32 bits": (
        FIELD25, "field25.h", "v_mul32(g->v[i], v_all(19))", "v_mul32(g->v[i], v_all(38))",
        r"fe_mul, limb 8, call \d+ of each function alone: an operand of a multiplication reaches 2\^32",
    ),
    "columns above the limit": (
        FIELD25, "field25.h", "twice = (i) & 1 ? a + a : a;", "twice = (i) & 1 ? a << 2 : a;",
        r"fe_mul, limb .*, call \d+ of each function alone: a column is too large",
    ),
    "a sum with a loose sum": (
        FIELD25, "curve.h", "    fe_carry(&sum, &sum);\n", "",
        r"fe_add, limb 0, call \d+ of add_and_clear_cofactor: the second argument is too large",
    ),
    "a hash left loose": (
        FIELD25, "hashing.h", "    fe_carry(h, h);\n", "",
        r"limb 0, call \d+ of field_from_wide: the output is too large",
    ),
    "a sum of points left loose": (
        FIELD25, "curve.h", "    fe_add(X, X, &t);\n    fe_carry(X, X);\n", "    fe_add(X, X, &t);\n",
        r"limb 0, call \d+ of add_or_subtract: the output is too large",
    ),
    "no carry beyond the last limb": (
        FIELD51, "field51.h", "c[1] + w_shift_right(folded, 51);", "c[1] + w_low(folded);",
        r"fe_mul, limb .*, call \d+ of each function alone: a sum reaches 2\^64",
    ),
    "a shift that leaves too much": (
        FIELD51, "field51.h", "carry = w_shift_right(sum, 51);", "carry = w_shift_right(sum, 46);",
        r"fe_mul, limb \d, call \d+ of each function alone: a carry reaches 2\^64",
    ),
    "a point left loose": (
        FIELD51, "curve.h", "    fe_carry(X, X);\n", "",
        r"fe_add, limb 0, call \d+ of add_and_clear_cofactor: the argument is too large",
    ),
    "p instead of 2p in a difference": (
        FIELD51, "field51.h", "(2 * LIMB_MASK(i) - (i == 0 ? 36 : 0))", "(LIMB_MASK(i) - (i == 0 ? 18 : 0))",
        r"fe_sub, limb 0, call \d+ of each function alone: a difference below zero",
    ),
    "a sum left uncarried": (
        FIELD52, "field52.h", "c[i] = f->v[i] + g->v[i];\n    carry_columns(h, c);", "h->v[i] = f->v[i] + g->v[i];",
        r"fe_add, limb 0, call 2 of each function alone: the result is too large",
    ),
    "a shift before a product": (
        FIELD52, "field52.h", "v_add_low52(low[i], f->v[i], v_all(n))", "v_add_low52(low[i], f->v[i] << 1, v_all(n))",
        r"fe_mul_small, limb 0, call \d+ of each function alone: an operand of a multiplication reaches 2\^52",
    ),
    "products doubled too often": (
        FIELD52, "field52.h", "high[k] = high[k] << 1;", "high[k] = high[k] << 8;",
        r"fe_sqr, limb 1, call \d+ of each function alone: a shift by 1 reaches 2\^64",
    ),
}  # fmt: skip


@pytest.mark.sample(2)
@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_found(error: str, folder: Path) -> None:
    field, header, right, wrong, message = PLANTED[error]
    text = (folder / header).read_text()
    assert right in text
    (folder / header).write_text(text.replace(right, wrong))
    done = run_intervals(field, folder)
    assert done.returncode == 1, done.stdout
    assert re.search(message, done.stdout.splitlines()[-1])
