"""A proxy before a schema registry that asks for a user or a token, as a cloud's does."""

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx2
import trustme

TOKEN = "registry-token-3c"
LIMIT_S = 60
DENIED = b'{"error_code": 401, "message": "Unauthorized"}'


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that end a handshake, as those do that know no such authority."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def registry_proxy(
    registry_url: str, *, user: str, password: str, authority: trustme.CA
) -> Iterator[str]:
    """Run a proxy that speaks TLS and yield its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    allowed = {f"Basic {basic}", f"Bearer {TOKEN}"}
    host, path = urlsplit(registry_url).netloc, urlsplit(registry_url).path
    with httpx2.Client(base_url=f"http://{host}", timeout=LIMIT_S, trust_env=False) as client:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("authorization") not in allowed:
                    self._answer(401, DENIED)
                    return
                kind = {"content-type": self.headers.get("content-type", "application/json")}
                answer = client.request(self.command, self.path, content=body, headers=kind)
                self._answer(answer.status_code, answer.content)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        with QuietServer(("127.0.0.1", 0), Handler) as server:
            # The handshake is made in the thread of a connection, at its first read.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"https://127.0.0.1:{server.server_port}{path}"
            finally:
                server.shutdown()
                thread.join()
