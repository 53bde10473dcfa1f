"""Tests of the backends of psicli.ole: which one is in use, and the self-test of each."""

from __future__ import annotations

import logging
from functools import partial
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.kernel import backends

from psicli import curve, ole
from psicli.core.errors import SelfCheckError, VariableError
from psicli.curve import pool
from psicli.ole import reference

NATIVE = [name for name in backends.OLE_NAMES if name != reference.NAME]


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("", "", "native vaes"),
        ("native", "", "native vaes"),
        ("", "avx2", "native vaes"),
        ("", "portable", "native portable"),
        ("reference", "", "reference"),
        ("reference", "portable", "reference"),
    ],
)
def test_the_variables_of_the_curve_backend_choose(
    monkeypatch: pytest.MonkeyPatch, kind: str, path: str, name: str
) -> None:
    curves, oles = ["native avx2", "native portable", "reference"], ["native vaes", "native portable", "reference"]
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(curves, curve.reference))
    monkeypatch.setattr(ole, "BACKENDS", dict.fromkeys(oles, reference))
    monkeypatch.setenv("PSICLI_BACKEND", kind)
    monkeypatch.setenv("PSICLI_NATIVE_PATH", path)
    assert ole.backend() == name


def test_a_path_that_the_curve_does_not_have_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(["native avx2", "reference"], curve.reference))
    monkeypatch.setenv("PSICLI_BACKEND", "native")
    monkeypatch.setenv("PSICLI_NATIVE_PATH", "vaes")
    with pytest.raises(VariableError, match="is 'vaes', which this machine cannot run"):
        ole.backend()


def test_a_missing_kernel_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    curve.warn_of_fallback.cache_clear()
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(["native avx2", "reference"], curve.reference))
    monkeypatch.setattr(ole, "BACKENDS", {"reference": reference})
    monkeypatch.setattr(logging.getLogger("psicli"), "propagate", True)
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    assert [ole.backend() for _ in range(3)] == ["reference"] * 3
    (record,) = caplog.records
    assert "the native rr22 kernel is not available" in record.getMessage()
    curve.warn_of_fallback.cache_clear()


@pytest.mark.parametrize(
    ("kind", "path", "variable"),
    [("native", "", "PSICLI_BACKEND"), ("", "avx2", "PSICLI_NATIVE_PATH"), ("native", "avx2", "PSICLI_BACKEND")],
)
def test_a_missing_kernel_that_is_asked_for_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, kind: str, path: str, variable: str
) -> None:
    """As if the kernel of the curve were missing, which is still in use for all else."""
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(["native avx2", "reference"], curve.reference))
    monkeypatch.setattr(ole, "BACKENDS", {"reference": reference})
    monkeypatch.setattr(ole, "_why_no_native", "it was not built")
    monkeypatch.setenv("PSICLI_BACKEND", kind)
    monkeypatch.setenv("PSICLI_NATIVE_PATH", path)
    expected = f"{variable} asks for the native rr22 kernel, which is not available: it was not built"
    with pytest.raises(VariableError, match=expected) as caught:
        ole.backend()
    assert caught.value.code == 78
    assert curve.backend() == "native avx2"


# The self-test ------------------------------------------------------------------------------------------------------


def test_self_test_passes(ole_backend: ole.Backend) -> None:
    ole.self_test()
    assert ole.kernel() is ole_backend


class OneWrong:
    """A correct backend, except that one bit of one result of a function is wrong."""

    def __init__(self, function: str) -> None:
        self._function = function

    def __getattr__(self, name: str) -> Any:
        right = getattr(reference, name)
        if name != self._function:
            return right

        def wrong(*arguments: Any) -> Any:
            result = right(*arguments)
            if isinstance(result, bool):
                return not result
            # Functions that change their first argument return nothing.
            changed = arguments[0] if result is None else result[-1] if isinstance(result, tuple) else result
            changed[-1, -1] ^= np.uint64(1 << 63)
            return result

        return wrong


FUNCTIONS = [
    "encrypt", "hashes", "add_products", "grow", "regrow", "spread", "combine", "transpose", "compress", "rows",
    "encode", "decode",
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_self_test_finds_one_wrong_bit(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    monkeypatch.setattr(ole, "BACKENDS", {"broken": OneWrong(function)})
    with pytest.raises(SelfCheckError, match=f"the broken backend failed its self-check: wrong answer from {function}"):
        ole.self_test()


def _expanded_from_the_start(made: Any, path: str, out: Any, noise: Any, width: int, first: int) -> None:
    made(path, out, noise, width, 0)


def _leaves_of_few_trees(made: Any, path: str, leaves: Any, *known: Any) -> None:
    made(path, leaves, *known)
    leaves[4 * known[-1] :] = 0


def _streams_of_few_groups(made: Any, path: str, sums: Any, planes: Any, seeds: Any, points: Any) -> None:
    made(path, sums, planes, seeds, points)
    sums[4 * len(sums) // (len(seeds) // 16) :] = 0


def _half_decoded(made: Any, path: str, out: Any, store: Any, rows: Any) -> None:
    made(path, out, store, rows)
    out[len(out) // 2 :] = 0


FAULTS = {
    "compress": ("expand", _expanded_from_the_start),
    "grow": ("grow", _leaves_of_few_trees),
    "regrow": ("regrow", _leaves_of_few_trees),
    "spread": ("spread", _streams_of_few_groups),
    "decode": ("decode", _half_decoded),
}


@pytest.mark.skipif(not NATIVE, reason="the kernel in C is not there")
@pytest.mark.parametrize("function", FAULTS)
def test_self_test_finds_faults_of_the_kernel_that_begin_late(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """With parts that are not the first, many trees and many rows: some of these faults would not spoil the results."""
    from psicli.ole import native

    name, fault = FAULTS[function]
    broken = SimpleNamespace(**vars(native._native))
    setattr(broken, name, partial(fault, getattr(native._native, name)))
    monkeypatch.setattr(native, "_native", broken)
    monkeypatch.setattr(pool, "_wanted", 2)
    with pytest.raises(SelfCheckError, match=f"failed its self-check: wrong answer from .*{function}"):
        ole.self_test(NATIVE[0])


def test_every_function_of_a_backend_is_tested() -> None:
    assert set(FUNCTIONS) == {name for name in vars(ole.Backend) if not name.startswith("_")}


# Digests and tokens -------------------------------------------------------------------------------------------------


def test_digests_of_items_are_those_of_the_protocol(ole_backend: ole.Backend) -> None:
    sid, items = bytes(range(32)), [b"", b"a", b"b" * 300]
    digests = ole.item_digests(pa.array(items, pa.large_binary()), sid)
    expected = [sha256(b"psicli/v1/rr22/item\0" + sid + b"\x01" + item).digest() for item in items]
    assert digests.shape == (3, 4)
    assert [digest.tobytes() for digest in digests] == expected
    assert ole.item_digests(pa.array([], pa.large_binary()), sid).shape == (0, 4)


@pytest.mark.parametrize("size", [1, 9, 11, 32])
def test_tokens_are_those_of_the_protocol(ole_backend: ole.Backend, size: int) -> None:
    sid = bytes(range(32))
    blocks = np.arange(600, dtype=np.uint64).reshape(-1, 2)
    expected = [sha256(b"psicli/v1/rr22/token\0" + sid + block.tobytes()).digest()[:size] for block in blocks]
    assert ole.tokens(blocks, sid, size) == b"".join(expected)
    # Blocks need not follow each other in memory.
    assert ole.tokens(blocks[::2], sid, size) == b"".join(expected[::2])
    assert ole.tokens(blocks[:0], sid, size) == b""
