"""Inputs on web servers: downloaded once, whole, into a file that only this user can read."""

from __future__ import annotations

import gzip
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes.expectations import failed, succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Result, Side, failing_at
from support.stores.web import Web, web_server


@pytest.fixture
def web(tmp_path: Path, pair: Pair) -> Iterator[Web]:
    with web_server(tmp_path) as server:
        server.content = {"a.csv": b"id,x\n1,a\n2,b\n", "a.csv.gz": gzip.compress(b"id,x\n1,a\n2,b\n")}
        pair.environment |= {**server.trusting, "no_proxy": "*"}
        yield server


@pytest.mark.parametrize("path", ["moved/a.csv.gz?sig=HIDDEN", pytest.param("file/a.csv", marks=pytest.mark.more)])
def test_a_file_of_a_web_server_is_downloaded_once(pair: Pair, web: Web, path: str) -> None:
    pair.path(DIALER, "b.csv").write_bytes(b"id\n2\n3\n")
    pair.add("t", Side(["id"], web.url(path), "out/a.csv"), Side(["id"], "b.csv"))
    alice, bob = pair.start(LISTENER, "-v", env=failing_at("input.read:stop")), pair.start(DIALER)
    alice.wait_until_stopped()
    (copy,) = (pair.folder / "state").glob("run-*/download")
    assert copy.stat().st_mode & 0o777 == 0o600
    # What the server has now no longer matters.
    web.content.clear()
    alice.send(signal.SIGCONT)
    results = alice.result(), bob.result()
    succeeded(results)
    assert pair.files(LISTENER)["out/a.csv"] == b"id,x\n2,b\n"
    assert len(web.asked) == (2 if path.startswith("moved") else 1)
    assert "HIDDEN" not in results[0].text
    pair.nothing_left()


def refused(pair: Pair, url: str) -> Result:
    pair.add("t", Side(["id"], url, "out/a.csv"), Side(["id"], "b.csv"))
    result = pair.start(LISTENER).result()
    assert "HIDDEN" not in result.text
    assert pair.files(LISTENER) == {}
    assert not [*(pair.folder / "state").glob("run-*")]
    return result


@pytest.mark.more
@pytest.mark.parametrize(
    ("path", "code", "sentence"),
    [
        ("short/a.csv?HIDDEN", 65, r"/short/a\.csv\?…: the download ended before its end"),
        ("file/none.csv", 66, r"/file/none\.csv: the server has no such file \(HTTP status 404\)"),
        ("403/a.csv?HIDDEN", 66, r"/403/a\.csv\?…: the server does not allow it \(HTTP status 403\)"),
        ("204/a.csv", 66, r"the server did not send the file \(HTTP status 204\)"),
        ("503/a.csv", 74, r"the server did not send the file \(HTTP status 503\)"),
        ("clear/a.csv", 66, "the server redirects to a URL that is not https"),
        ("circle/a.csv", 66, r"the server redirects in a circle \(HTTP status 302\)"),
        ("nowhere/a.csv", 66, "this URL, or one that the server redirects to, is not valid"),
        ("endless/a.csv", 65, "the server does not say how long the file is"),
        ("negative/a.csv", 65, "the server does not say how long the file is"),
        ("odd/a.csv", 65, "the server does not say how long the file is"),
    ],
)
def test_an_answer_without_the_whole_file_is_an_error(
    pair: Pair, web: Web, path: str, code: int, sentence: str
) -> None:
    failed(refused(pair, web.url(path)), code, sentence)


@pytest.mark.more
def test_a_server_that_is_not_trusted_is_an_error(pair: Pair, web: Web) -> None:
    del pair.environment["SSL_CERT_FILE"]
    failed(refused(pair, web.url("file/a.csv")), 74, "the server cannot be reached: its certificate is not trusted")
    assert web.asked == []


@pytest.mark.more
def test_a_server_that_is_not_there_is_an_error(pair: Pair, web: Web) -> None:
    with socket.socket() as closed:
        # The port is taken, so that no other program can listen there meanwhile.
        closed.bind(("127.0.0.1", 0))
        result = refused(pair, f"https://localhost:{closed.getsockname()[1]}/a.csv")
    failed(result, 74, "the server cannot be reached: connection refused")


@pytest.mark.more
def test_max_duration_ends_a_slow_download(pair: Pair, web: Web) -> None:
    # Long enough that the download has begun.
    pair.jobs[LISTENER]["policy"] = {"max_duration": "5s"}
    failed(refused(pair, web.url("slow/a.csv")), 79, r"the exchange was not complete .* after .* policy\.max_duration")
    assert len(web.asked) == 1
