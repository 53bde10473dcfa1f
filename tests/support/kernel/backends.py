"""Every curve backend and CPU path of this machine, for tests that run on each."""

from __future__ import annotations

import pytest

from psicli import curve

# Names as reports give them: `reference`, `native avx2`.
NAMES = sorted(curve.BACKENDS)
NATIVE = [name for name in NAMES if name.startswith("native ")]


def environment(name: str) -> dict[str, str]:
    """Return the variables that make psicli use a backend."""
    kind, _, path = name.partition(" ")
    return {"PSICLI_BACKEND": kind, "PSICLI_NATIVE_PATH": path}


def use(name: str, patch: pytest.MonkeyPatch) -> None:
    """Make a backend the one in use here."""
    for variable, value in environment(name).items():
        patch.setenv(variable, value)


def label(name: str) -> str:
    return name.replace(" ", "-")
