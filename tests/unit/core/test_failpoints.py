"""Failpoints: the values of PSICLI_FAILPOINT, and that the list of points and the calls in the code agree."""

from __future__ import annotations

import ast
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes.expectations import failed, marked_pair, succeeded
from support.processes.runner import LISTENER, PARTIES, Pair, failing_at

from psicli.core import failpoints
from psicli.core.errors import VariableError
from psicli.core.failpoints import CARRYING, CONSENT, MESSAGES, POINTS, VARIABLE

PACKAGE = Path(failpoints.__file__).parents[1]


@pytest.fixture(autouse=True)
def disarmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disarm every point after the test."""
    yield
    monkeypatch.delenv(VARIABLE, raising=False)
    failpoints.arm()


def arm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in failing_at(text).items():
        monkeypatch.setenv(name, value)
    failpoints.arm()


def calls() -> Iterator[tuple[str, str]]:
    """Yield the function and the name of the point of every failpoint call in the code."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("failpoints.hit", "failpoints.carry"):
                name = node.args[0]
                # An f-string stands for one point for each kind of message.
                kinds = MESSAGES if isinstance(name, ast.JoinedStr) else ("",)
                text = name.values[-1] if isinstance(name, ast.JoinedStr) else name
                assert isinstance(text, ast.Constant)
                yield from (
                    (ast.unparse(node.func).removeprefix("failpoints."), f"{kind}{text.value}") for kind in kinds
                )


def test_every_point_is_in_the_code_and_listed() -> None:
    found = set(calls())
    assert {name for _, name in found} == set(POINTS)
    assert {name for function, name in found if function == "carry"} == set(CARRYING)
    assert len(set(POINTS)) == len(POINTS)


def test_nothing_happens_without_the_variable(caplog: pytest.LogCaptureFixture) -> None:
    failpoints.arm()
    for name in POINTS:
        failpoints.hit(name)
    assert failpoints.carry("link.arriving", b"octets") == b"octets"
    assert caplog.records == []


def test_only_the_chosen_hit_triggers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    arm(monkeypatch, "output.renamed:raise:2")
    failpoints.hit("output.synced")
    failpoints.hit("output.renamed")
    with pytest.raises(RuntimeError, match=r"failpoint output\.renamed"):
        failpoints.hit("output.renamed")
    failpoints.hit("output.renamed")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "output.written:enospc")
    with pytest.raises(OSError, match="No space left") as caught:
        failpoints.hit("output.written")
    assert caught.value.errno == errno.ENOSPC


def test_flip_inverts_one_byte_of_the_chosen_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "frame.sending:flip:2")
    sent = [failpoints.carry("frame.sending", bytes(5)) for _ in range(3)]
    assert sent == [bytes(5), b"\0\0\xff\0\0", bytes(5)]


@pytest.mark.parametrize(
    "text",
    [
        "output.renames:kill", "output.renamed", "output.renamed:", "output.renamed:die", "output.renamed:kill:0",
        "output.renamed:kill:-1", "output.renamed:kill:x", "output.renamed:kill:1:1", "output.renamed:flip", ":kill",
        "\x1b[31m:kill",
    ],
)  # fmt: skip
def test_an_unknown_failpoint_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(VariableError, match="not a failpoint") as caught:
        arm(monkeypatch, text)
    assert caught.value.code == 78
    assert caught.value.message.isprintable()


def test_a_run_with_a_mistyped_failpoint_does_not_begin(pair: Pair) -> None:
    marked_pair(pair)
    result = pair.start(LISTENER, env=failing_at("output.renames:kill")).result()
    failed(result, 78, "PSICLI_FAILPOINT is 'output.renames:kill', which is not a failpoint")
    assert result.stdout == b""
    pair.nothing_left()


@pytest.mark.sample(1)
@pytest.mark.parametrize("consent", [None, "", "no"])
def test_a_variable_that_was_left_behind_fails_no_run(pair: Pair, consent: str | None) -> None:
    marked_pair(pair)
    env = {VARIABLE: "session.agreed:kill", CONSENT: consent}
    runs = [pair.start(party, "--quiet", "--json", env=env) for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    for result in results:
        assert "WARNING ignoring PSICLI_FAILPOINT, which only psicli's own tests use; unset it" in result.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize("flags", [["--quiet"], ["--quiet", "--json"]])
def test_a_run_that_fails_on_purpose_says_so(pair: Pair, flags: list[str]) -> None:
    marked_pair(pair)
    runs = [pair.start(party, *flags, env=failing_at("session.agreed:raise")) for party in PARTIES]
    for result in [run.result() for run in runs]:
        assert result.code == 70
        assert "PSICLI_FAILPOINT is set, so this run will fail on purpose (session.agreed:raise)" in result.stderr
