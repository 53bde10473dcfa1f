"""Who may see the page on this machine, and what a request must look like.

Any user of the machine can connect to a port on 127.0.0.1, and any page in the browser can send requests to it. So:

- The address that psicli prints has a token, which works once. Whoever shows it gets a session, which is a cookie.
- The Host must be this server's own address. So a stranger's name for 127.0.0.1 (DNS rebinding) is of no use.
- A request that a page of another origin has caused is refused, also a link or a picture.
- The process at the other end must be this user's, or root's, as far as the system tells.
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
from email.message import Message
from urllib.parse import parse_qs, urlsplit

from psicli.core.peer_errors import OwnersUnknownError
from psicli.core.records import dataclass
from psicli.transport.door.lookup import End
from psicli.transport.door.owners import Owners

HOST = "127.0.0.1"
METHODS = ("GET", "HEAD")
# The longest target of a request; no address of this server comes near it [characters].
_MOST = 200


@dataclass(frozen=True)
class Refusal:
    """The status of an answer that refuses a request, and a sentence."""

    status: int
    text: str


class Door:
    """Decides about each request. Thread-safe."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._hosts = [f"{HOST}:{port}", f"localhost:{port}"]
        self._token: str | None = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._guard = threading.Lock()
        # Browsers send a cookie to all ports of a host, so each server has a name of its own for it.
        self._cookie = f"psicli-{port}"
        self.address = f"http://{HOST}:{port}/?token={self._token}"

    @property
    def cookie(self) -> str:
        """The header that gives a browser its session, as long as it runs."""
        return f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"

    def refusal(self, method: str, target: str, headers: Message) -> Refusal | None:
        """Return why a request is refused whoever makes it, if so."""
        hosts = headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return Refusal(421, f"This page is only at http://{HOST}:{self._port}/.")
        if method not in METHODS:
            return Refusal(405, "This page only shows; nothing can be changed here.")
        origins = headers.get_all("Origin") or []
        if any(origin != f"http://{hosts[0].lower()}" for origin in origins):
            return Refusal(403, "A page of another origin has caused this request.")
        if any(site not in ("same-origin", "none") for site in headers.get_all("Sec-Fetch-Site") or []):
            return Refusal(403, "Another page has caused this request: type the address, or copy it from the terminal.")
        if not target.startswith("/") or len(target) > _MOST:
            return Refusal(404, "There is no such page.")
        return None

    def admits(self, target: str) -> bool:
        """Return whether a request shows the token, which nobody has used yet; from now on, it is used."""
        given = parse_qs(urlsplit(target).query).get("token", [""])[0]
        with self._guard:
            if self._token is None or not _equal(given, self._token):
                return False
            self._token = None
        return True

    def knows(self, headers: Message) -> bool:
        """Return whether a request comes from the browser that has shown the token."""
        # Programs on other ports of this host set cookies too, in any form and even with this name.
        cookies = [each for header in headers.get_all("Cookie") or [] for each in header.split(";")]
        for name, _, value in (cookie.strip().partition("=") for cookie in cookies):
            if name == self._cookie and _equal(value, self._session):
                return True
        return False


def is_own_user(near: End, far: End) -> bool:
    """Return whether the process at the far end of a connection is this user's or root's, or nobody can tell."""
    try:
        return Owners(near[1]).user_of(far, near) in (os.geteuid(), 0)
    except OwnersUnknownError:
        return True


def _equal(given: str, right: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), right.encode())
