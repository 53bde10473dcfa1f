"""The locked requirements of a deployment fit pyproject.toml, and nothing in them comes from this machine."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BOUNDS = [Requirement(each) for each in PROJECT["project"]["dependencies"]]
TO_BUILD = [Requirement(each) for each in PROJECT["build-system"]["requires"]]
# A requirement with its hashes, one per line.
PINNED = re.compile(r"(?P<pin>[A-Za-z0-9_.-]+==[^ \\]+(?: ; [^\\\n]+)?)(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
MACHINES = ["x86_64", "aarch64"]


def locked(python: str, machine: str) -> dict[str, Requirement]:
    """Return what is installed for a Python on a machine, by name."""
    where = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pins = [Requirement(found["pin"]) for found in PINNED.finditer(LOCK)]
    chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(where)]
    found = {canonicalize_name(pin.name): pin for pin in chosen}
    assert len(found) == len(chosen)
    return found


def test_every_line_is_a_release_with_its_hashes() -> None:
    """There is no option, no address and no path, and a file without its hash cannot be installed."""
    assert PINNED.sub("", LOCK) == ""


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_within_the_bounds(python: str, machine: str) -> None:
    found = locked(python, machine)
    for bound in BOUNDS + TO_BUILD:
        (pin,) = found[canonicalize_name(bound.name)].specifier
        assert pin.operator == "=="
        assert bound.specifier.contains(pin.version), bound


def test_the_lock_is_complete() -> None:
    """It holds what the installed dependencies depend on.

    Tools of the tests can hold back a release; what that depends on says nothing about the locked one.
    """
    found = locked("3.11", "x86_64")
    missing, left = set(), [bound.name for bound in BOUNDS]
    seen: set[str] = set()
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        if name not in found:
            missing.add(name)
        elif not found[name].specifier.contains(metadata.version(name)):
            continue
        needs = [Requirement(each) for each in metadata.requires(name) or []]
        left += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert missing == set()
