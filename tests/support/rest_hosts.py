"""REST hosts on 127.0.0.1 that answer as they are told."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from k2lib.events import Event
from k2lib.venues.binance.rest import Rest


@dataclass(frozen=True)
class Answer:
    """One answer; `hangs_up` ends the connection without one."""

    status: int = 200
    body: bytes = b"[]"
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs_up: bool = False


def refusal(code: int, msg: str = "no", *, status: int = 400) -> Answer:
    return Answer(status, json.dumps({"code": code, "msg": msg}).encode())


class RestHost:
    """Gives its answers in turn; past the last one, the last one again."""

    def __init__(self, *answers: Answer, by_path: Mapping[str, Answer] | None = None) -> None:
        self._answers = answers or (Answer(),)
        self._by_path = by_path or {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.url = ""

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def answer(self, target: str, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append((parts.path, asked))
        self.headers.append(headers)
        if parts.path in self._by_path:
            return self._by_path[parts.path]
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


@contextmanager
def serving(host: RestHost) -> Iterator[RestHost]:
    """Let a host answer at a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = host.answer(self.path, dict(self.headers))
            if answer.hangs_up:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rest_of(urls: Sequence[str], events: list[Event], **options: Any) -> Rest:
    """Return a client of Binance's REST at these addresses."""
    options = {"stop": threading.Event(), **options}
    tls = ssl.create_default_context()
    return Rest(urls, exchange="BINANCE", tls=tls, on_event=events.append, **options)


@contextmanager
def asking(*hosts: RestHost, events: list[Event] | None = None, **options: Any) -> Iterator[Rest]:
    """Ask these hosts in turn."""
    events = [] if events is None else events
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(serving(host))
        urls = tuple(host.url for host in hosts)
        yield stack.enter_context(rest_of(urls, events, **options))
