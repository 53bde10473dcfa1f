"""What libraries import and a run does not use is loaded where something of it is used, and then works."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from importlib.util import _LazyModule
from psicli.cli.imports import Sparing

sys.meta_path.insert(0, Sparing())
import {library}
late = sys.modules["{name}"]
print(type(late) is _LazyModule, late.{used}.__name__, type(late) is _LazyModule)
"""


@pytest.mark.parametrize(
    ("library", "name", "used"),
    [
        ("grpc", "asyncio", "run"),
        ("grpc", "grpc.aio", "insecure_channel"),
        (
            "google.protobuf.descriptor_pool",
            "google.protobuf.internal.python_message",
            "GeneratedProtocolMessageType",
        ),
        ("numpy", "numpy._core._add_newdocs", "add_newdoc"),
        ("numpy", "numpy._core._add_newdocs_scalars", "add_newdoc"),
    ],
)
def test_a_module_is_loaded_late(library: str, name: str, used: str) -> None:
    program = PROGRAM.format(library=library, name=name, used=used)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == f"True {used} False\n", result.stderr
