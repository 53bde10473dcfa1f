"""Pings: what a monitoring service gets, and what becomes of a service that does not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.waiting import DEADLINE

from psicli.batch.unattended import ping
from psicli.batch.unattended.hooks import ping as ping_of
from psicli.batch.unattended.ping import send
from psicli.config.batch import HooksEntry

SECRET = "7f3c-secret"


class Service(ThreadingHTTPServer):
    """A monitoring service on loopback, which records the paths of requests and answers with a status."""

    def __init__(self, status: int = 200, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.location = status, location
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Service)
        self.server.paths.append(self.path)
        is_first = len(self.server.paths) == 1
        self.send_response(self.server.status if is_first else 200)
        if self.server.location and is_first:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


@pytest.fixture(autouse=True)
def no_proxy_and_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    # On a busy machine, the process of a ping may take long to start.
    monkeypatch.setattr(ping, "TIMEOUT", DEADLINE)


def test_the_start_and_the_exit_code_of_a_batch() -> None:
    with serving(Service()) as service:
        hooks = HooksEntry(ping=f"{service.address}/?create=1")
        assert [ping_of(hooks, "start"), ping_of(hooks, "143")] == [None, None]
    assert service.paths == [f"/{SECRET}/start?create=1", f"/{SECRET}/143?create=1"]


def test_an_answer_that_is_an_error() -> None:
    with serving(Service(404)) as service:
        assert send(service.address, "0") == "the ping to 127.0.0.1 (hooks.ping) failed: the answer was 404"


def test_a_redirect_to_the_same_host_is_followed() -> None:
    with serving(Service(302, "/elsewhere")) as service:
        assert send(service.address, "0") is None
    assert service.paths == [f"/{SECRET}/0", "/elsewhere"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("target", ["http://localhost:{port}/{path}", "file:///etc/passwd"])
def test_a_redirect_to_another_host_is_not_followed(target: str) -> None:
    with serving(Service(302)) as service:
        service.location = target.format(port=service.server_port, path=SECRET)
        assert send(service.address, "0") == "the ping to 127.0.0.1 (hooks.ping) failed: the answer was 302"
    assert len(service.paths) == 1


def test_a_host_where_nobody_listens() -> None:
    # While the port is bound, no other process can get it and listen there.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        warning = send(f"http://127.0.0.1:{bound.getsockname()[1]}/{SECRET}", "0")
    assert warning == "the ping to 127.0.0.1 (hooks.ping) failed: connection refused"


def test_a_service_that_never_answers_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping, "TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        warning = send(f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}", "0")
    assert warning == "the ping to 127.0.0.1 (hooks.ping) failed: it did not end within 1 s"


@pytest.mark.sample(1)
@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/passwd", "http://127.0.0.1:1/passwd \n"])
def test_an_address_that_cannot_be_requested_is_not_repeated(address: str) -> None:
    warning = send(address, "0")
    assert warning is not None
    assert "passwd" not in warning
