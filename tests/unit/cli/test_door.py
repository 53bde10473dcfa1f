"""Who may see the page on this machine: hosts, origins, the token and the session."""

from __future__ import annotations

import os
import socket
from email.message import Message
from http.cookies import SimpleCookie

import pytest

from psicli.cli.web import door as door_module
from psicli.cli.web.door import Door, is_own_user
from psicli.core.peer_errors import OwnersUnknownError

PORT = 8123
OWN = ("Host", f"127.0.0.1:{PORT}")


@pytest.fixture
def door() -> Door:
    return Door(PORT)


def headers(*pairs: tuple[str, str]) -> Message:
    message = Message()
    for name, value in pairs:
        message[name] = value
    return message


def status(door: Door, *pairs: tuple[str, str], method: str = "GET", target: str = "/") -> int | None:
    refusal = door.refusal(method, target, headers(*pairs))
    return refusal and refusal.status


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"])
def test_its_own_hosts(door: Door, host: str) -> None:
    assert status(door, ("Host", host)) is None
    assert status(door, ("Host", host), ("Origin", f"http://{host.lower()}")) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1:{PORT}.evil.example",
        f"evil@127.0.0.1:{PORT}",
        f"[::1]:{PORT}",
        f"0.0.0.0:{PORT}",
        f"127.1:{PORT}",
        f"localhost.:{PORT}",
        "",
    ],
)
def test_another_host_is_refused(door: Door, host: str) -> None:
    assert status(door, ("Host", host)) == 421


def test_no_host_and_two_hosts_are_refused(door: Door) -> None:
    assert status(door) == 421
    assert status(door, OWN, OWN) == 421


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", f"https://127.0.0.1:{PORT}", f"http://localhost:{PORT}", "http://127.0.0.1"],
)
def test_another_origin_is_refused(door: Door, origin: str) -> None:
    assert status(door, OWN, ("Origin", origin)) == 403
    assert status(door, OWN, ("Origin", f"http://127.0.0.1:{PORT}"), ("Origin", origin)) == 403


@pytest.mark.parametrize(
    ("site", "expected"), [("none", None), ("same-origin", None), ("same-site", 403), ("cross-site", 403), ("x", 403)]
)
def test_what_another_page_has_caused_is_refused(door: Door, site: str, expected: int | None) -> None:
    assert status(door, OWN, ("Sec-Fetch-Site", site)) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "TRACE", "CONNECT", "PATCH"])
def test_nothing_can_be_changed(door: Door, method: str) -> None:
    assert status(door, OWN, method=method) == 405


@pytest.mark.parametrize("target", ["http://127.0.0.1/", "*", "", "evil.example:80", "/" + "a" * 300])
def test_targets_that_are_no_path(door: Door, target: str) -> None:
    assert status(door, OWN, target=target) == 404


def test_the_token_works_once(door: Door) -> None:
    target = door.address.removeprefix(f"http://127.0.0.1:{PORT}")
    assert len(target) > 50
    for wrong in ("/", "/?token=", target[:-1], target + "x", target.upper(), "/?token=%00", "/?other=1"):
        assert not door.admits(wrong)
    assert door.admits(target)
    assert not door.admits(target)


def test_a_session(door: Door) -> None:
    cookie = SimpleCookie(door.cookie)[f"psicli-{PORT}"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    assert cookie.value not in door.address
    right = f"psicli-{PORT}={cookie.value}"
    assert door.knows(headers(("Cookie", right)))
    # Programs on other ports of this host set cookies, too.
    for others in ("other=1", 'a={"b":1}', "x[y]=1", "foo", "\u00e9=1", '"', "path=/", f"psicli-{PORT}=x"):
        assert door.knows(headers(("Cookie", f"{others}; {right}")))
        assert door.knows(headers(("Cookie", f"{right}; {others}")))
    for wrong in ("", right[:-1], f"psicli-1={cookie.value}", f"psicli-{PORT}=", "\x00", "psicli-8123=\u00fc"):
        assert not door.knows(headers(("Cookie", wrong)))
    assert not door.knows(headers())
    assert not Door(PORT).knows(headers(("Cookie", right)))


def test_the_process_at_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, far = server.accept()
        with accepted:
            near = accepted.getsockname()
            assert client.getsockname() == far
            assert is_own_user(near, far)
            user = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: user + 1)
            # Root may do anything anyway.
            assert is_own_user(near, far) == (user == 0)
            monkeypatch.setattr(door_module.Owners, "user_of", lambda *_: 12345)
            assert not is_own_user(near, far)
            monkeypatch.setattr(door_module.Owners, "user_of", lambda *_: None)
            assert not is_own_user(near, far)

            def unknown(_: int) -> None:
                raise OwnersUnknownError(reason="no table")

            monkeypatch.setattr(door_module, "Owners", unknown)
            assert is_own_user(near, far)
