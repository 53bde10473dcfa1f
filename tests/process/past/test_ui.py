"""psicli ui over real connections: who gets in, what is refused, and what the page shows while a job runs."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.history.data import series
from support.history.ledgers import write_ledger
from support.processes.expectations import long_pair, marked_pair, succeeded
from support.processes.runner import PARTIES, Pair, Run
from support.waiting import DEADLINE, wait_until

from psicli.storage import reports


class Browser:
    """A client of one `psicli ui`, with or without a session."""

    def __init__(self, run: Run, address: str) -> None:
        self.run, self.address = run, address
        found = re.fullmatch(r"http://127\.0\.0\.1:([0-9]+)(/\?token=[A-Za-z0-9_-]{43})", address)
        assert found is not None
        self.port, self.target = int(found[1]), found[2]
        self.cookie = ""

    def get(
        self, target: str, method: str = "GET", host: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
            for name, value in {**({"Cookie": self.cookie} if self.cookie else {}), **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def enter(self) -> None:
        status, headers, _ = self.get(self.target)
        assert (status, headers["Location"]) == (303, "/")
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def raw(self, octets: bytes) -> bytes:
        """Send octets and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as connection:
            connection.sendall(octets)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def started(pair: Pair, *arguments: str) -> Browser:
    """Start psicli ui; its standard output goes to a file, which a test can read while it runs."""
    path = pair.folder / "address"
    run = pair.start_command("ui", *arguments, shell=f">{path}")
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "psicli ui prints its address")
    return Browser(run, path.read_text().strip())


@pytest.fixture
def browser(pair: Pair) -> Iterator[Browser]:
    found = started(pair)
    yield found
    found.run.send(signal.SIGINT)
    result = found.run.result()
    assert result.code == 0, result.text
    assert "Traceback" not in result.stderr
    # The token is on standard output alone.
    assert found.target not in result.stderr


def test_the_token_lets_one_browser_in_once(browser: Browser) -> None:
    for target in ("/", "/api/status", "/now", "/?token=", "/?token=x", "/none"):
        status, headers, text = browser.get(target)
        assert (status, "Set-Cookie" in headers) == (403, False)
        assert "Open the address that `psicli ui` has printed." in text
    # Whoever only looks whether the address exists does not use it up.
    assert browser.get(browser.target, "HEAD")[0] == 403
    browser.enter()
    first, browser.cookie = browser.cookie, ""
    assert browser.get(browser.target)[0] == 403
    assert browser.get("/", Cookie=first + "x")[0] == 403
    assert browser.get("/", Cookie=first)[0] == 200
    # The browser that is in may load the address again.
    status, headers, _ = browser.get(browser.target, Cookie=first)
    assert (status, headers["Location"], "Set-Cookie" in headers) == (303, "/", False)


def test_what_other_pages_and_hosts_send_is_refused(browser: Browser) -> None:
    """A session does not help: a browser would send it, too. DNS rebinding ends at the Host."""
    for cookie in (False, True):
        if cookie:
            browser.enter()
        own = f"http://127.0.0.1:{browser.port}"
        for host in ("evil.example", f"evil.example:{browser.port}", "127.0.0.1", f"[::1]:{browser.port}"):
            status, _, text = browser.get("/", host=host)
            assert (status, own in text) == (421, True)
            assert browser.get(browser.target, host=host)[0] == 421
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            assert browser.get("/api/status", **headers)[0] == 403
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"):
            status, headers, _ = browser.get("/", method, Content_Length="0")
            assert (status, headers.get("Allow")) == (405, "GET, HEAD")
    assert browser.get("/", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert browser.get("/", host=f"localhost:{browser.port}")[0] == 200


@pytest.mark.more
def test_no_address_leads_to_a_file(pair: Pair, browser: Browser) -> None:
    browser.enter()
    (pair.folder / "state").mkdir(0o700, exist_ok=True)
    secret = pair.folder / "state" / "secret.json"
    secret.write_text("secret")
    for target in (
        "/../state/secret.json",
        "/runs/../../secret.json",
        "/runs/..%2f..%2fsecret.json",
        "/runs/%2e%2e/secret",
        f"/runs/{secret}",
        f"/{secret}",
        f"//{secret}",
        "/runs/" + "0" * 15 + "%30",
        "/runs/0000000000000000%00",
        "/runs/0000000000000000/",
        "/runs/",
        "/history/..",
        "/history/%2e%2e%2fsecret",
        "/now/",
        "/api",
        "/api/status?x=1",
        "/a" * 90,
        "/" + "a" * 5000,
    ):
        status, _, text = browser.get(target)
        assert (status, "secret" in text.replace(target, "")) == (404, False), target
    for octets in (
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % browser.port,
        b"GET /runs/\x00 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % browser.port,
        b"GET * HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % browser.port,
    ):
        answer = browser.raw(octets.replace(b"\r\n\r\n", b"\r\nCookie: %s\r\n\r\n" % browser.cookie.encode()))
        assert answer.split()[1] in (b"400", b"404"), answer


@pytest.mark.more
def test_requests_that_are_none(browser: Browser) -> None:
    own = b"Host: 127.0.0.1:%d\r\n" % browser.port
    for octets, expected in (
        (b"\r\n\r\n", (b"",)),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", (b"400",)),
        (b"GET / HTTP/9.9\r\n" + own + b"\r\n", (b"505",)),
        (b"GET\r\n\r\n", (b"400",)),
        (b"GET /\r\n" + own + b"\r\n", (b"",)),
        (b"GET / HTTP/1.1\r\n" + own + own + b"\r\n", (b"421",)),
        (b"GET / HTTP/1.1\r\n\r\n", (b"421",)),
        (b"GET / HTTP/1.1\r\n" + own + b"X: y\r\n" * 200 + b"\r\n", (b"431",)),
        # Longer than any request of a browser, and one that never ends.
        (b"GET / HTTP/1.1\r\n" + own + b"X: " + b"y" * 16_350, (b"",)),
        (b"GET / HTTP/1.1\r\nHost", (b"",)),
    ):
        answer = browser.raw(octets)
        found = answer.split()[1] if answer else b""
        assert found in expected, (octets[:60], answer)
        assert not answer or b"\r\nX-Frame-Options: DENY\r\n" in answer
        assert b"Set-Cookie" not in answer


@pytest.mark.more
def test_headers_of_all_answers(browser: Browser) -> None:
    answers = [browser.get("/none")]
    browser.enter()
    answers += [browser.get(target) for target in ("/", "/now", "/api/status", "/none")]
    for _, headers, text in answers:
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "psicli"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert int(headers["Content-Length"]) == len(text.encode())
    status, headers, text = browser.get("/", "HEAD")
    assert (status, text, int(headers["Content-Length"]) > 1000) == (200, "", True)


@pytest.mark.more
def test_history_and_kept_reports(pair: Pair) -> None:
    marked_pair(pair)
    succeeded(pair.run())
    browser = started(pair)
    browser.enter()
    _, _, overview = browser.get("/")
    runs = [each.run for each in reports.kept(pair.folder / "state")]
    assert len(runs) == 2
    assert sorted(re.findall(r'href="/runs/([0-9a-f]{16})"', overview)) == sorted(runs)
    assert 'href="/history/overlap"' in overview
    for target in ("/history", "/history/overlap"):
        status, _, page = browser.get(target)
        assert (status, "matched keys" in page) == (200, True)
        assert set(re.findall(r'href="/runs/([0-9a-f]{16})"', page)) == set(runs)
    assert browser.get("/history/other")[0] == 404
    for run in runs:
        status, headers, page = browser.get(f"/runs/{run}")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert run in page
    assert browser.get(f"/runs/{'0' * 16}")[0] == 404
    # A report that somebody has damaged is none, and a changed ledger is said to be one.
    for path in (pair.folder / "state" / "reports").iterdir():
        path.write_text("{")
    ledger = pair.folder / "state" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[1:]))
    assert browser.get(f"/runs/{runs[0]}")[0] == 404
    assert "The ledger is not as psicli left it" in browser.get("/")[2]
    browser.run.send(signal.SIGINT)
    assert browser.run.result().code == 0


@pytest.mark.more
def test_a_running_job_is_seen_live(pair: Pair, browser: Browser) -> None:
    browser.enter()
    long_pair(pair)
    runs = [pair.start(party) for party in PARTIES]

    def seen() -> list[dict[str, object]]:
        _, headers, text = browser.get("/api/status")
        assert headers["Content-Type"] == "application/json"
        return [each for each in json.loads(text)["running"] if str(self_port) in str(each["where"])]

    self_port = pair.port
    wait_until(lambda: any(each["phase"] == "exchanging" for each in seen()), "the page shows the running job")
    assert {each["party"] for each in seen()} <= {*PARTIES}
    _, _, part = browser.get("/now")
    assert "people: exchanging" in part
    assert "<html" not in part
    for run in runs:
        run.send(signal.SIGTERM)
    for run in runs:
        run.result()
    wait_until(lambda: not seen(), "the page no longer shows the job")


@pytest.mark.more
def test_many_clients_and_slow_ones(browser: Browser) -> None:
    browser.enter()
    # Clients that never send their request hold their places only for a time.
    idle = [socket.create_connection(("127.0.0.1", browser.port), DEADLINE) for _ in range(40)]
    try:
        for each in idle:
            each.sendall(b"GET / HTTP/1.1\r\n")

        def answered() -> bool:
            try:
                return browser.get("/api/status")[0] == 200
            except (ConnectionError, OSError):
                return False

        wait_until(answered, "a place is free again")
        for each in idle:
            assert each.recv(100) == b""
    finally:
        for each in idle:
            each.close()
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(browser.get("/api/status")[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert codes == [200] * 8


@pytest.mark.more
@pytest.mark.parametrize(
    ("number", "code", "text"), [(signal.SIGINT, 0, "psicli ui has ended"), (signal.SIGTERM, 143, "stopped by SIGTERM")]
)
def test_a_signal_ends_it_at_once(pair: Pair, number: signal.Signals, code: int, text: str) -> None:
    browser = started(pair, "--verbose")
    with socket.create_connection(("127.0.0.1", browser.port), DEADLINE) as held:
        held.sendall(b"GET /")
        begin = time.monotonic()
        browser.run.send(number)
        result = browser.run.result()
    assert (result.code, text in result.stderr) == (code, True)
    assert time.monotonic() - begin < 10
    assert "token" not in result.stderr


@pytest.mark.more
def test_a_port_of_its_own_choice(pair: Pair) -> None:
    browser = started(pair, "--port", str(pair.port))
    assert browser.port == pair.port
    second = pair.start_command("ui", "--port", str(pair.port)).result()
    assert (second.code, f"127.0.0.1:{pair.port}: the port is in use" in second.stderr) == (75, True)
    for port in ("70000", "-1", "x"):
        assert pair.start_command("ui", "--port", port).result().code == 2
    browser.run.send(signal.SIGINT)
    assert browser.run.result().code == 0


@pytest.mark.more
def test_a_state_folder_that_others_can_read(pair: Pair, browser: Browser) -> None:
    browser.enter()
    state: Path = pair.folder / "state"
    write_ledger(state, series("weekends", 1, 3))
    state.chmod(0o755)
    status, _, text = browser.get("/")
    assert (status, "other users have access to it" in text) == (500, True)
    assert browser.get("/api/status")[0] == 200
