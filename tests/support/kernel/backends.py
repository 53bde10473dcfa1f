"""The backends and CPU paths of this machine, of both kernels, for tests that run on each of them."""

from __future__ import annotations

import pytest

from psicli import curve, ole

# The names that reports use, such as `reference` and `native avx2`.
NAMES = sorted(curve.BACKENDS)
NATIVE = [name for name in NAMES if name.startswith("native ")]
OLE_NAMES = sorted(ole.BACKENDS)


def environment(name: str) -> dict[str, str]:
    """Return the variables that make psicli use a backend."""
    kind, _, path = name.partition(" ")
    return {"PSICLI_BACKEND": kind, "PSICLI_NATIVE_PATH": path}


def use(name: str, patch: pytest.MonkeyPatch) -> None:
    """Make a backend the one in use."""
    for variable, value in environment(name).items():
        patch.setenv(variable, value)


def use_ole(name: str, patch: pytest.MonkeyPatch) -> None:
    """Make a backend of psicli.ole the one in use, and one of psicli.curve that suits it."""
    use(name if name in NAMES else "native ", patch)
    patch.setattr(ole, "BACKENDS", {name: ole.BACKENDS[name]})


def label(name: str) -> str:
    return name.replace(" ", "-")
