from __future__ import annotations

import pytest

from psicli import curve


@pytest.fixture(params=sorted(curve.BACKENDS))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> curve.Backend:
    """Each backend there is, in turn, made the one in use."""
    monkeypatch.setenv("PSICLI_BACKEND", request.param)
    return curve.BACKENDS[request.param]
