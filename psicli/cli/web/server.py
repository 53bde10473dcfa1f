"""The server of the page on this machine: Python's own, with limits for whoever connects."""

from __future__ import annotations

import errno
import html
import io
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from psicli.cli.web.door import HOST, METHODS, Door, is_own_user
from psicli.cli.web.pages import HTML, TEXT, Answer, answer
from psicli.core.errors import BindError, PortBusyError, printable, reason, unexpected

logger = logging.getLogger(__name__)

# How many connections are served at the same time.
MOST_CONNECTIONS = 16
# How long a client may take to send its request, and to take the answer [s]; the largest request [bytes].
PATIENCE, SLOWEST = 5.0, 20.0
MOST_BYTES = 16 << 10
# How long, and how many times, it takes what follows a request that it refuses [s].
_DRAIN, _MOST_PARTS = 0.5, 64
_END = re.compile(rb"\r?\n\r?\n")
# A page says itself what it may load, and nothing else may load anything.
_POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]*)"')
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1. port: 0 for any. Raises PortBusyError, BindError."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, port: int) -> None:
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as exc:
            where = f"{HOST}:{port}"
            raise (
                PortBusyError(where=where)
                if exc.errno == errno.EADDRINUSE
                else BindError(where=where, reason=reason(exc))
            ) from exc
        self.door = Door(self.server_address[1])

    def server_bind(self) -> None:
        # Not that of HTTPServer, which asks the network for the name of this machine.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The client has gone, or takes its answer too slowly.
        logger.debug("a request was not answered", exc_info=True)


@contextmanager
def serving(port: int) -> Iterator[Server]:
    """Serve the page in the background."""
    with Server(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    # One request a connection, so that a browser holds no place.
    protocol_version = "HTTP/1.0"
    timeout = SLOWEST

    def version_string(self) -> str:
        return "psicli"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(self._head())

    def _head(self) -> bytes:
        """Return the request without its body; nothing if it is not there in time, too long, or another user's."""
        near, far = self.request.getsockname(), self.request.getpeername()
        if not is_own_user(near, far):
            # Anybody on this machine can cause it, so it is only in a log with details.
            logger.debug("refused a connection: no process of this user is at its other end")
            return b""
        octets, deadline = b"", time.monotonic() + PATIENCE
        while not _END.search(octets) and len(octets) <= MOST_BYTES:
            left = deadline - time.monotonic()
            self.request.settimeout(max(left, 0.001))
            try:
                part = self.request.recv(MOST_BYTES) if left > 0 else b""
            except TimeoutError:
                part = b""
            if not part:
                return b""
            octets += part
        self.request.settimeout(SLOWEST)
        found = _END.search(octets)
        return octets[: found.end()] if found and found.end() <= MOST_BYTES else b""

    def handle(self) -> None:
        # The server has no HTTP/0.9, whose answers have no headers.
        self.raw_requestline = self.rfile.readline(MOST_BYTES)
        self.close_connection = True
        if self.raw_requestline and self.parse_request():
            if self.request_version == "HTTP/0.9":
                return
            self._answer()

    def _answer(self) -> None:
        door = self.server.door
        refusal = door.refusal(self.command, self.path, self.headers)
        if refusal is not None:
            self._send(Answer(refusal.status, TEXT, refusal.text))
            return
        path = self.path.partition("?")[0]
        if door.knows(self.headers):
            if path == "/" != self.path:
                # The address with the token, once more.
                self._redirect("/")
                return
            try:
                found = answer(self.path)
            except Exception as exc:
                found = Answer(500, TEXT, unexpected(exc, logger).message)
            self._send(found)
        elif self.command == "GET" and path == "/" and door.admits(self.path):
            self._redirect("/", cookie=door.cookie)
        else:
            text = "Open the address that `psicli ui` has printed. It works once, in one browser; to get another one,"
            self._send(Answer(403, TEXT, f"{text} start `psicli ui` again."))

    def _redirect(self, path: str, cookie: str | None = None) -> None:
        more = {"Location": path, **({"Set-Cookie": cookie} if cookie else {})}
        self._send(Answer(303, TEXT, ""), more)

    def _send(self, found: Answer, more: dict[str, str] | None = None) -> None:
        octets = (found.text if found.kind != TEXT or not found.text else f"{found.text}\n").encode()
        allowed = _POLICY.search(found.text) if found.kind == HTML else None
        policy = html.unescape(allowed[1]) if allowed else "default-src 'none'"
        headers = {
            "Content-Type": found.kind,
            "Content-Length": str(len(octets)),
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
            **_HEADERS,
            **({"Allow": ", ".join(METHODS)} if found.status == 405 else {}),
            **(more or {}),
        }
        self.send_response(found.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(octets)
        if self.command not in METHODS:
            self._drain()

    def _drain(self) -> None:
        """Take what the client still sends: if it stayed unread, the system would drop the answer."""
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(_DRAIN)
            for _ in range(_MOST_PARTS):
                if not self.request.recv(MOST_BYTES):
                    return

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none."""
        self.command = self.command or "GET"
        # Without a version, the answer would have no headers.
        self.request_version = "HTTP/1.0"
        self._send(Answer(int(code), TEXT, "This is no request that psicli understands."))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # Without the query, which may be the token.
        path = getattr(self, "path", "").partition("?")[0]
        logger.debug("%s %s: %s", printable(self.command or "-"), printable(path), int(code))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing else."""
