"""A proxy before a REST catalog, which can lose the reply to a commit, or the commit itself."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

LIMIT_S = 60
NOT_PASSED_ON = {"connection", "content-length", "host", "transfer-encoding", "content-encoding"}
Forward = Callable[[], httpx2.Response]
OnCommit = Callable[[Forward], httpx2.Response | None]


class CatalogProxy:
    """Passes requests on.

    Attributes:
        on_commit: what becomes of a commit: it may forward it, and returns the reply, or None where
            the connection is to break.
    """

    def __init__(self, catalog_url: str) -> None:
        self.on_commit: OnCommit = lambda forward: forward()
        self.client = httpx2.Client(base_url=catalog_url, timeout=LIMIT_S, trust_env=False)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def once(self, on_commit: OnCommit) -> threading.Event:
        """Do this with the next commit alone; the event returned is set when that has come."""
        came = threading.Event()

        def on_next(forward: Forward) -> httpx2.Response | None:
            self.on_commit = lambda forward: forward()
            came.set()
            return on_commit(forward)

        self.on_commit = on_next
        return came


def lose_reply(forward: Forward) -> None:
    """Let the catalog commit, and say nothing of it."""
    forward()


def lose_commit(_: Forward) -> None:
    """Let the catalog know nothing of the commit."""


def _handler(proxy: CatalogProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in NOT_PASSED_ON}

            def forward() -> httpx2.Response:
                return proxy.client.request(self.command, self.path, content=body, headers=headers)

            is_commit = self.command == "POST" and "/tables/" in self.path
            answer = proxy.on_commit(forward) if is_commit else forward()
            if answer is None:
                self.close_connection = True
                return
            self._answer(answer)

        do_POST = do_HEAD = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _answer(self, answer: httpx2.Response) -> None:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in NOT_PASSED_ON:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)

    return Handler


@contextmanager
def catalog_proxy(catalog_url: str) -> Iterator[CatalogProxy]:
    """Run a proxy before a catalog."""
    proxy = CatalogProxy(catalog_url)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
        proxy.client.close()
