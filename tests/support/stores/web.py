"""A web server with TLS on this machine, whose certificate an authority of the test has issued."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.processes.certificates import Authority


class _Answer(http.server.BaseHTTPRequestHandler):
    """Serves the content of the server; the first part of a path says how."""

    server: Web

    def do_GET(self) -> None:
        how, name = self.path.lstrip("/").partition("?")[0].split("/")
        content = self.server.content.get(name)
        self.server.asked.append(self.path)
        if how == "moved":
            self._head(302, Location=f"/file/{name}")
        elif how == "clear":
            self._head(302, Location=f"http://127.0.0.1:{self.server.server_port}/file/{name}")
        elif how == "circle":
            self._head(302, Location=self.path)
        elif how == "nowhere":
            self._head(302, Location="https://[x/a.csv")
        elif how.isdigit() or content is None:
            self._head(int(how) if how.isdigit() else 404)
        else:
            lengths = {"short": str(len(content) + 100), "negative": "-1", "odd": "1_0", "slow": "100000"}
            self.send_response(200)
            if how != "endless":
                self.send_header("Content-Length", lengths.get(how, str(len(content))))
            self.end_headers()
            self.wfile.write(content)
            if how == "slow":
                self._drip()

    def _drip(self) -> None:
        """Send a byte every moment, until the client goes."""
        with suppress(OSError):
            while not self.server.ended.wait(0.05):
                self.wfile.write(b"1")

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Web(http.server.ThreadingHTTPServer):
    """The server. content: its files; asked: the paths of all requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()
        authority = Authority("web")
        (folder / "web-ca.pem").write_bytes(authority.pem)
        authority.issue(folder, "web", ["localhost"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "web.pem", folder / "web.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.trusting = {"SSL_CERT_FILE": str(folder / "web-ca.pem")}

    def url(self, path: str) -> str:
        return f"https://localhost:{self.server_port}/{path}"

    def handle_error(self, *_: object) -> None:
        """A client that does not trust the server leaves in the middle."""


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    with Web(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
