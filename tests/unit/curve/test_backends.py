"""Tests of choosing a backend, and of the checks that find errors of the machine or the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from support.kernel.samples import ALICE, BOB, TASK_SID, random_points, split, u_bytes

from psicli import curve
from psicli.core.errors import PsicliError, SelfCheckError, VariableError
from psicli.curve import reference

# The backend in use -------------------------------------------------------------------------------------------------


def test_backend_is_named(backend: curve.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curve.BACKENDS[curve.backend()] is backend
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        monkeypatch.setenv(variable, "")
    assert curve.backend() == next(iter(curve.BACKENDS))


def test_the_size_of_frames_depends_on_the_backend(backend: curve.Backend) -> None:
    small = {"reference": 2048, "native portable": 4096}
    assert curve.frame_items() == small.get(curve.backend(), 16_384)


@pytest.fixture
def two_paths(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that this machine has exactly two CPU paths."""
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(["native avx2", "native portable", "reference"], reference))
    return monkeypatch


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("", "", "native avx2"),
        ("native", "", "native avx2"),
        ("native", "portable", "native portable"),
        ("", "portable", "native portable"),
        ("reference", "", "reference"),
        ("reference", "portable", "reference"),
    ],
)
def test_the_environment_chooses(two_paths: pytest.MonkeyPatch, kind: str, path: str, name: str) -> None:
    two_paths.setenv("PSICLI_BACKEND", kind)
    two_paths.setenv("PSICLI_NATIVE_PATH", path)
    assert curve.backend() == name


@pytest.mark.parametrize(
    ("variable", "value", "error", "sentence"),
    [
        ("PSICLI_BACKEND", "gpu\x1b[2J", VariableError, r"is 'gpu\\x1b\[2J', but must be native or reference"),
        ("PSICLI_BACKEND", "native avx2", VariableError, "but must be native or reference"),
        ("PSICLI_NATIVE_PATH", "avx512", VariableError, "is 'avx512', .*it can run avx2, portable"),
        ("PSICLI_NATIVE_PATH", "sse\x07", VariableError, r"is 'sse\\x07', .*it can run avx2, portable"),
    ],
)
def test_an_unavailable_backend_is_a_configuration_error(
    two_paths: pytest.MonkeyPatch, variable: str, value: str, error: type[PsicliError], sentence: str
) -> None:
    two_paths.delenv("PSICLI_BACKEND", raising=False)
    two_paths.setenv(variable, value)
    with pytest.raises(error, match=sentence) as caught:
        curve.backend()
    assert caught.value.code == 78


# Errors of the machine or the compiler ------------------------------------------------------------------------------


def test_self_test_passes(backend: curve.Backend) -> None:
    curve.self_test()
    for name in curve.BACKENDS:
        curve.self_test(name)


def use_kernel(kernel: object, patch: pytest.MonkeyPatch) -> None:
    """Make a kernel the backend in use, under the name `native broken`."""
    patch.setattr(curve, "BACKENDS", {"native broken": kernel, "reference": reference})
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        patch.delenv(variable, raising=False)


class Reversed:
    """A backend that returns points in the byte order of RFC 9380, as some implementations do."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reference, name)

    def hash_to_points(self, values: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes:
        return b"".join(point[::-1] for point in split(reference.hash_to_points(values, prefix, dst)))

    def hash_and_mask(self, values: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes) -> bytes:
        return reference.mask(memoryview(self.hash_to_points(values, prefix, dst)), scalar)[0]


def test_self_test_finds_a_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(Reversed(), monkeypatch)
    with pytest.raises(SelfCheckError, match=r"native broken .*hash_and_mask, mask, tokens, probe") as caught:
        curve.self_test()
    assert caught.value.code == 70


class OneLaneWrong:
    """A correct backend, except that one of its functions is wrong in one of 16 lanes."""

    FRAME_ITEMS = 2048
    right: Any = next(iter(curve.BACKENDS.values()))

    def __init__(self, function: str, lane: int) -> None:
        self._function = function
        self._lane = slice(lane, None, 16)

    def _spoil(self, function: str, packed: bytes, size: int = 32) -> bytes:
        outputs = split(packed, size)
        if function == self._function:
            outputs[self._lane] = [bytes([output[0] ^ 1]) + output[1:] for output in outputs[self._lane]]
        return b"".join(outputs)

    def hash_to_points(self, *arguments: Any) -> bytes:
        return self._spoil("hash_to_points", self.right.hash_to_points(*arguments))

    def hash_and_mask(self, *arguments: Any) -> bytes:
        return self._spoil("hash_and_mask", self.right.hash_and_mask(*arguments))

    def digests(self, values: pa.LargeBinaryArray, prefix: bytes, size: int) -> bytes:
        return self._spoil("digests", self.right.digests(values, prefix, size), size)

    def mask(self, points: memoryview, scalar: bytes) -> tuple[bytes, list[int]]:
        products, bad = self.right.mask(points, scalar)
        if self._function == "bad points":
            bad = sorted(set(bad) - set(range(len(points) // 32)[self._lane]))
        return self._spoil("mask", products), bad

    def partners(self, *arguments: Any) -> bytearray:
        return bytearray(self._spoil("partners", bytes(self.right.partners(*arguments))))

    def tokens(self, *arguments: Any) -> bytes:
        return self._spoil("tokens", self.right.tokens(*arguments), 16)

    def on_curve(self, points: memoryview) -> bool:
        checked = split(bytes(points))
        if self._function == "on_curve":
            checked[self._lane] = [u_bytes(9)] * len(checked[self._lane])
        return bool(self.right.on_curve(memoryview(b"".join(checked))))


@pytest.mark.parametrize(
    "function", ["hash_and_mask", "digests", "mask", "tokens", "bad points", "partners", "on_curve"]
)
def test_self_test_finds_one_wrong_lane(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    for lane in range(16):
        use_kernel(OneLaneWrong(function, lane), monkeypatch)
        with pytest.raises(SelfCheckError, match=f"wrong answer from .*{function}") as caught:
            curve.self_test()
        assert caught.value.code == 70


def call(function: str, values: pa.LargeBinaryArray, points: bytes) -> object:
    """Call one of the functions whose outputs are spot-checked."""
    calls: dict[str, Callable[[], object]] = {
        "hash_and_mask": lambda: curve.hash_and_mask(values, TASK_SID, ALICE),
        "digests": lambda: curve.digests(values, TASK_SID, 32),
        "mask": lambda: curve.mask(points, ALICE),
        "bad points": lambda: curve.mask(bytes(len(points)), ALICE),
        "tokens": lambda: curve.tokens(points, TASK_SID),
        "partners": lambda: curve.partners(u_bytes(6) * len(values), u_bytes(9), bytes(len(values))),
    }
    return calls[function]()


SPOT_CHECKED = ["hash_and_mask", "digests", "mask", "bad points", "partners", "tokens"]


@pytest.mark.parametrize("function", SPOT_CHECKED)
def test_the_spot_check_finds_a_wrong_output(
    monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray, function: str
) -> None:
    """Every output is checked here, to cover all lanes. The message does not reveal which output was wrong."""
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 1)
    sentences = set()
    for lane in range(16):
        use_kernel(OneLaneWrong(function, lane), monkeypatch)
        call(function, thousand.slice(0, lane), random_points(lane))
        with pytest.raises(SelfCheckError) as caught:
            call(function, thousand.slice(0, lane + 1), random_points(lane + 1))
        assert caught.value.code == 70
        sentences.add(caught.value.message)
    assert len(sentences) == 1


@pytest.mark.parametrize("function", SPOT_CHECKED)
def test_the_spot_check_covers_one_output_in_each_run(
    monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray, function: str
) -> None:
    """One of eight outputs is checked, in a single call or in eight calls, and any index can be chosen."""
    assert curve.SPOT_CHECK_RUN == 65_536
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 8)
    for lane, count in ((0, 1), (0, 8), (7, 8)):
        use_kernel(OneLaneWrong(function, lane), monkeypatch)
        found = 0
        for _ in range(200):
            try:
                call(function, thousand.slice(0, count), random_points(count))
            except SelfCheckError:
                found += 1
        # 25 are expected. A correct spot check exceeds these bounds once in 10^9 tests.
        assert 2 <= found <= 60


def test_the_reference_must_confirm_a_bad_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, psicli blames the peer for its own error."""

    class Suspicious(OneLaneWrong):
        def mask(self, points: memoryview, scalar: bytes) -> tuple[bytes, list[int]]:
            products, bad = self.right.mask(points, scalar)
            return products, bad or [3]

    use_kernel(Suspicious("", 0), monkeypatch)
    points = random_points(5)
    with pytest.raises(SelfCheckError) as caught:
        curve.mask(points, ALICE)
    assert caught.value.code == 70
    assert curve.mask(bytes(32) + points, ALICE)[1] == [0]


def test_the_spot_check_accepts_correct_outputs(
    backend: curve.Backend, monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray
) -> None:
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 1)
    points = bytearray(random_points(20))
    points[:32] = bytes(32)
    assert curve.mask(points, BOB)[1] == [0]
    curve.hash_and_mask(thousand.slice(5, 20), TASK_SID, ALICE)
    curve.keyed_hashes(thousand.slice(5, 20), TASK_SID)
    curve.partners(curve.hash_and_mask(thousand.slice(0, 20), TASK_SID, ALICE), u_bytes(9), bytes(range(20)))
    curve.tokens(points, TASK_SID)
