"""Tests of what listener and dialer share: the notation of addresses, the backoff, and the log lines of a wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import grpc
import pytest

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import NotPsicliError, PeerGoneError
from psicli.transport.dialer import FIRST_PAUSE, backoff
from psicli.transport.endpoint import Endpoint, Ticker, pump
from psicli.transport.link import Link


@pytest.mark.parametrize(("host", "where"), [("10.0.0.1", "10.0.0.1:80"), ("::1", "[::1]:80")])
def test_the_notation_of_an_address(host: str, where: str) -> None:
    assert Endpoint(host, 80, "bob").where == where


@pytest.mark.parametrize(("host", "place"), [("0.0.0.0", "port 80"), ("::", "port 80"), ("10.0.0.1", "10.0.0.1:80")])
def test_the_place_where_a_listener_listens(host: str, place: str) -> None:
    assert Endpoint(host, 80, "bob").place == place


STATUSES = [
    (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", NotPsicliError, "a gRPC server that does not know psicli"),
    (grpc.StatusCode.UNIMPLEMENTED, "Received http2 header with status: 404", NotPsicliError, "with HTTP status 404"),
    (grpc.StatusCode.PERMISSION_DENIED, "Received http2 header with status: 403", NotPsicliError, "HTTP status 403"),
    (grpc.StatusCode.UNAVAILABLE, "Received http2 header with status: 503", PeerGoneError, "a proxy answers there"),
    (grpc.StatusCode.UNAVAILABLE, "Failed parsing HTTP/2", PeerGoneError, "complete: the connection broke$"),
]


@pytest.mark.parametrize(("code", "details", "error", "sentence"), STATUSES)
def test_what_a_failed_call_says_about_the_other_end(
    code: grpc.StatusCode, details: str, error: type[PsicliError], sentence: str
) -> None:
    class Failure(grpc.RpcError, grpc.Call):  # type: ignore[misc]
        def code(self) -> grpc.StatusCode:
            return code

        def details(self) -> str:
            return details

    Failure.__abstractmethods__ = frozenset()
    stream = Link().stream
    assert stream is not None

    def incoming() -> Iterator[bytes]:
        raise Failure
        yield b""

    pump(stream, incoming())
    assert type(stream.failure) is error
    assert re.search(sentence, stream.failure.message)


def test_pauses_double_up_to_the_longest() -> None:
    longest = 5 * FIRST_PAUSE
    assert list(islice(backoff(longest), 5)) == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, longest, longest]
    assert list(islice(backoff(FIRST_PAUSE / 2), 2)) == [FIRST_PAUSE / 2] * 2


def test_a_line_is_written_when_it_is_due_or_hastened() -> None:
    lines: list[str] = []
    ticker = Ticker()
    ticker.tick(lines.append, "too early")
    assert ticker.left > 0
    ticker.hasten()
    ticker.tick(lines.append, "now")
    ticker.tick(lines.append, "too early again")
    assert lines == ["now"]
