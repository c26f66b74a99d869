"""An S3 on this machine, in memory, which misbehaves on request."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>'


class S3Server(ThreadingHTTPServer):
    """Keeps objects by `bucket/key`.

    Attributes:
        fault: how it answers from now on: well, `silent`, `drip`, `reset` or `refuse`.
    """

    daemon_threads = True
    fault: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.stopping = threading.Event()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


def _chunks(file: Any) -> Iterator[bytes]:
    """Yield the chunks of an HTTP body, or of those that S3 signs."""
    while size := int(file.readline().partition(b";")[0], 16):
        yield file.read(size)
        file.readline()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server

    def handle_expect_100(self) -> bool:
        return bool(self.server.fault) or super().handle_expect_100()

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        url = urlsplit(self.path)
        self.key = unquote(url.path).lstrip("/")
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        return not self._misbehaves()

    def _misbehaves(self) -> bool:
        fault = self.server.fault
        if fault is None:
            return False
        self.close_connection = True
        if fault == "refuse":
            self.send_error(403)
        elif fault == "reset":
            linger = b"\x01\0\0\0\0\0\0\0"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fault == "silent":
            self.server.stopping.wait()
        else:
            self._drip()
        return True

    def _drip(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self.server.stopping.wait(0.05):
                self.wfile.write(b"a")

    def _body(self) -> bytes:
        body = self._chunks() if "Transfer-Encoding" in self.headers else self._plain()
        is_packed = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return b"".join(_chunks(BytesIO(body))) if is_packed else body

    def _plain(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> bytes:
        body = b"".join(_chunks(self.rfile))
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _xml(self, text: str) -> None:
        self._answer(200, f"{XML}{text}".encode(), Content_Type="application/xml")

    def do_HEAD(self) -> None:
        found = self.server.objects.get(self.key)
        if found is None:
            return self._answer(404)
        self._answer(200, found, ETag='"x"', Last_Modified="Fri, 14 Mar 2014 00:00:00 GMT")

    def do_GET(self) -> None:
        if "list-type" in self.query:
            return self._list()
        found = self.server.objects.get(self.key)
        if found is None:
            error = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
            return self._answer(404, f"{XML}{error}".encode(), Content_Type="application/xml")
        unit, _, span = self.headers.get("Range", "").partition("=")
        if unit != "bytes":
            return self._answer(200, found, ETag='"x"')
        first, _, last = span.partition("-")
        part = found[int(first) : int(last) + 1 if last else len(found)]
        place = f"bytes {first}-{int(first) + len(part) - 1}/{len(found)}"
        self._answer(206, part, ETag='"x"', Content_Range=place)

    def _list(self) -> None:
        prefix, bucket = self.query.get("prefix", ""), self.key.rstrip("/")
        keys = [key.partition("/")[2] for key in sorted(self.server.objects)]
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{bucket}/{key}'])}"
            "</Size><LastModified>2014-03-14T00:00:00.000Z</LastModified></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        self._xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def do_PUT(self) -> None:
        body = self._body()
        if "partNumber" in self.query:
            number = int(self.query["partNumber"])
            self.server.parts.setdefault(self.query["uploadId"], {})[number] = body
        else:
            self.server.objects[self.key] = body
        self._answer(200, ETag='"x"')

    def do_POST(self) -> None:
        self._body()
        if "uploads" in self.query:
            self._xml(
                "<InitiateMultipartUploadResult>"
                f"<UploadId>{escape(self.key)}</UploadId></InitiateMultipartUploadResult>"
            )
        elif "uploadId" in self.query:
            parts = self.server.parts.pop(self.query["uploadId"], {})
            self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            self._xml(
                "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            )
        else:
            self._xml("<DeleteResult/>")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self._answer(204)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Yield an S3 that has no objects yet."""
    with S3Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
