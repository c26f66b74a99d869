"""HTTP as RFC 9110 has it: HEAD, conditional requests, encodings, methods, targets."""

import gzip
import socket
from collections.abc import Iterator

import httpx2
import pytest
from support.api_client import LIMITLESS, problem_of
from support.lake_rows import append, at, quote, trade

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.compression import choose_encoding
from k2lib.api.options import ApiOptions
from k2lib.api.server import ServedApp, bind

TRADES = "/v1/trades?symbol=BHP"
GETS = [
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/assets/swagger-ui.css",
    TRADES,
    "/v1/trades/recent?symbol=BHP&format=parquet",
    "/v1/quotes?symbol=BHP&format=csv",
    "/v1/bars?symbol=BHP&every=1d",
    "/v1/summary/ASX/BHP/2014-03-10",
    "/v1/symbols",
    "/v1/stats",
    "/v1/snapshots",
    "/v1/gaps?tail=false",
    "/v1/trades?symbol=XYZ",
    "/v1/trades",
    "/no/such/path",
]
# How a body is sent is of no use without one.
OF_ONE_ANSWER = {"x-request-id", "date", "transfer-encoding"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the API over a few rows."""
    options = ApiOptions(**LIMITLESS)
    with K2.open(home=tmp_path_factory.mktemp("http") / "home") as k2:
        append(k2.catalog, [trade(n, timestamp=at(n)) for n in range(5)])
        append(k2.catalog, [quote(n, timestamp=at(n)) for n in range(3)], "quotes_v2")
        app = create_app(k2, options=options)
        with ServedApp(app, bind("127.0.0.1", 0, options=options)) as served:
            yield served.url


@pytest.fixture
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as opened:
        yield opened


def raw(url: str, request: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(request)
        parts = list(iter(lambda: sock.recv(65536), b""))
    return b"".join(parts)


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(client: httpx2.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    same = set(got.headers) - OF_ONE_ANSWER
    if path != "/metrics":  # it counts both requests
        assert {name: head.headers[name] for name in same} == {
            name: got.headers[name] for name in same
        }
    assert set(head.headers) | OF_ONE_ANSWER == set(got.headers) | OF_ONE_ANSWER


def test_head_leaves_the_connection_to_the_next_request(url: str) -> None:
    head = f"HEAD {TRADES} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = raw(url, head + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.endswith(b'{"status":"alive"}')
    assert b'"data"' not in answers


def test_head_of_a_post_is_refused_as_its_get_is(client: httpx2.Client) -> None:
    refused = client.head("/v1/trades/query")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("form", ["W/{}", "{}", '"other", W/{}', '"other" ,{}, W/"last"', "*"])
@pytest.mark.parametrize("path", [TRADES, "/v1/snapshots"])
def test_what_the_client_has_is_not_sent_again(client: httpx2.Client, path: str, form: str) -> None:
    first = client.get(path)
    tag = first.headers["etag"].removeprefix("W/")
    for method in ("GET", "HEAD"):
        again = client.request(method, path, headers={"If-None-Match": form.format(tag)})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["vary"] == first.headers["vary"]


@pytest.mark.parametrize("tags", ['"other"', 'W/"other", "another"', '"*"', ""])
def test_what_the_client_has_not_is_sent(client: httpx2.Client, tags: str) -> None:
    assert client.get(TRADES, headers={"If-None-Match": tags}).status_code == 200


def test_any_answer_is_none_where_there_is_no_answer(client: httpx2.Client) -> None:
    missing = client.get("/v1/trades?symbol=XYZ", headers={"If-None-Match": "*"})
    problem_of(missing, 404)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("br", "identity"),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.000, br", "identity"),
        ("gzip;q=0, *", "identity"),
        ("*", "gzip"),
        ("*;q=0.1, identity;q=0.5", "identity"),
        ("gzip;q=0.5, identity", "identity"),
        ("identity;q=0, gzip", "gzip only"),
        ("*;q=0, gzip", "gzip only"),
        ("identity;q=0, *", "gzip only"),
        ("*;q=0, identity", "identity"),
        ("identity;q=0", None),
        ("*;q=0", None),
        ("gzip;q=0, *;q=0", None),
    ],
)
def test_the_encoding_is_the_one_that_weighs_most(accept: str | None, encoding: str | None) -> None:
    assert choose_encoding(accept) == encoding


@pytest.mark.parametrize("path", ["/health", TRADES, f"{TRADES}&format=parquet", "/no/such/path"])
def test_who_takes_gzip_alone_gets_nothing_else(client: httpx2.Client, path: str) -> None:
    plain = client.get(path, headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip, *;q=0"}) as packed:
        body = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"]
    assert len(gzip.decompress(body)) == len(plain.content)


def test_who_takes_no_encoding_is_refused(client: httpx2.Client) -> None:
    problem_of(client.get(TRADES, headers={"Accept-Encoding": "*;q=0"}), 406)


@pytest.mark.parametrize("media", [None, "text/plain", "application/json"])
@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/v1/trades", 405, "GET, HEAD"),
        ("POST", "/health", 405, "GET, HEAD"),
        ("POST", "/docs", 405, "GET, HEAD"),
        ("POST", "/docs/assets/swagger-ui.css", 405, "GET, HEAD"),
        ("PUT", "/v1/trades/query", 405, "POST"),
        ("DELETE", "/v1/summary/ASX/BHP/2014-03-10", 405, "GET, HEAD"),
        ("POST", "/no/such/path", 404, None),
    ],
)
def test_a_path_without_the_method_says_so_whatever_is_sent(
    client: httpx2.Client, method: str, path: str, status: int, allow: str | None, media: str | None
) -> None:
    headers = {} if media is None else {"Content-Type": media}
    refused = client.request(method, path, content=b"{}", headers=headers)
    problem_of(refused, status)
    assert refused.headers.get("allow") == allow


def test_every_post_takes_json_alone(client: httpx2.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    posts = [path for path, methods in paths.items() if "post" in methods]
    assert len(posts) >= 4
    for path in posts:
        for media in ("text/plain", "application/x-www-form-urlencoded", ""):
            refused = client.post(path, content=b"{}", headers={"Content-Type": media})
            problem_of(refused, 415)


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://evil.example/v1/stats", "localhost", 421),
        ("http://evil.example:8000/v1/stats", "127.0.0.1", 421),
        ("http://127.0.0.1@evil.example/v1/stats", "127.0.0.1", 421),
        ("https://evil.example/health", "localhost", 421),
        ("http://evil.example", "localhost", 421),
        ("http://localhost/v1/stats", "localhost", 200),
        ("http://localhost:8000/v1/stats?table=quotes_v2", "evil.example", 200),
        ("http://[::1]:8000/v1/stats", "localhost", 200),
        ("http://localhost", "localhost", 404),
        ("http://:80/v1/stats", "localhost", 400),
    ],
)
def test_the_host_of_an_absolute_target_is_the_one_that_counts(
    url: str, target: str, host: str, status: int
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert raw(url, request.encode()).startswith(b"HTTP/1.1 %d " % status)


def test_two_host_headers_are_not_made_one_by_an_absolute_target(url: str) -> None:
    request = (
        b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert raw(url, request).startswith(b"HTTP/1.1 4")


def test_an_absolute_target_of_the_stream_is_held_to_the_rule_too(url: str) -> None:
    request = (
        b"GET http://%b/v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert raw(url, request % b"evil.example").startswith(b"HTTP/1.1 421 ")
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(request % b"localhost")
        assert sock.recv(1024).startswith(b"HTTP/1.1 101 ")
