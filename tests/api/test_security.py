"""Who may ask: loopback names without keys, keys elsewhere, and no web page of another origin."""

import hashlib
import json
import logging
import socket
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from starlette.datastructures import Headers
from support.api_edge import Edge, made_key, served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from k2lib import K2
from k2lib.api.access_log import (
    log_request,
    path_without_keys,
    request_id,
    without_secrets,
)
from k2lib.api.options import ApiKey, ApiOptions
from k2lib.api.security import (
    RequestRejectedError,
    check_loopback,
    is_loopback,
    key_name,
    new_key,
    parse_keys,
)
from k2lib.api.server import bind
from k2lib.errors import ConfigError
from k2lib.events import RequestDone
from k2lib.settings import Settings

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    with K2(Settings(home=tmp_path_factory.mktemp("home"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def open_edge(home: K2) -> Iterator[Edge]:
    with served(home, rate_per_s=1e6, burst=1_000_000) as edge:
        yield edge


@pytest.fixture(scope="module")
def keyed(home: K2) -> Iterator[tuple[Edge, str, str]]:
    alice, keys = made_key("alice")
    bob, more = made_key("bob")
    with served(home, keys=(*keys, *more), rate_per_s=1e6, burst=1_000_000) as edge:
        yield edge, alice, bob


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "localhost:8000", "127.0.0.2:8000", "LOCALHOST"]
)
def test_loopback_names_are_answered_without_a_key(open_edge: Edge, host: str) -> None:
    assert open_edge.client.get("/v1/quick", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "192.0.2.1",
        "127.1",
        "127.0.0.1.example.com",
        "localhost.example.com:8000",
        "",
        "127.0.0.1@evil",
    ],
)
def test_no_other_name_is(open_edge: Edge, host: str) -> None:
    refused = open_edge.client.get("/v1/quick", headers={"Host": host})
    assert refused.status_code == 421
    assert refused.headers["content-type"] == PROBLEM
    assert open_edge.client.get("/health", headers={"Host": host}).status_code == 421


def test_two_host_headers_are_refused() -> None:
    raw = [(b"host", b"localhost"), (b"host", b"example.com")]
    with pytest.raises(RequestRejectedError):
        check_loopback(Headers(raw=raw), "127.0.0.1")


def test_a_client_of_another_machine_is_refused_without_keys() -> None:
    headers = Headers({"host": "localhost"})
    with pytest.raises(RequestRejectedError) as refused:
        check_loopback(headers, "192.0.2.7")
    assert refused.value.status == 403
    check_loopback(headers, "::ffff:127.0.0.1")


@pytest.mark.parametrize(
    "media", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; a=b"]
)
def test_a_post_that_a_form_could_send_is_refused(open_edge: Edge, media: str | None) -> None:
    headers = {} if media is None else {"Content-Type": media}
    assert open_edge.client.post("/v1/quick", content=b"{}", headers=headers).status_code == 415


def test_a_post_of_json_passes_with_its_body(open_edge: Edge) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = open_edge.client.post("/v1/quick", content=b'{"a": 1}', headers=headers)
    assert answer.json() == {"bytes": 8}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_origins_are_refused(open_edge: Edge, headers: dict[str, str]) -> None:
    assert open_edge.client.get("/v1/quick", headers=headers).status_code == 403


def test_the_servers_own_pages_and_links_to_it_pass(open_edge: Edge) -> None:
    own = {"Origin": open_edge.app.url, "Sec-Fetch-Site": "same-origin"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert open_edge.client.get("/v1/quick", headers=own).status_code == 200
    assert open_edge.client.get("/v1/quick", headers=link).status_code == 200


def test_no_page_of_another_origin_reads_what_is_answered(open_edge: Edge) -> None:
    headers = {"Origin": "http://example.com", "Access-Control-Request-Method": "GET"}
    answer = open_edge.client.options("/v1/quick", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_an_allowed_origin_do(home: K2) -> None:
    page = {"Origin": "http://localhost:8888"}
    asking = {**page, "Access-Control-Request-Method": "GET"}
    with served(home, cors_origins=("http://localhost:8888",)) as edge:
        answer = edge.client.get("/v1/quick", headers=page)
        assert answer.headers["access-control-allow-origin"] == "http://localhost:8888"
        assert edge.client.options("/v1/quick", headers=asking).status_code == 200
        refused = edge.client.get("/v1/quick", headers={"Origin": "http://example.com"})
        assert refused.status_code == 403
        with connect(edge.ws_url, origin="http://localhost:8888", proxy=None):
            pass


@pytest.mark.parametrize("origin", ["http://example.com", "null", "http://localhost:1"])
def test_the_stream_is_not_for_pages_of_other_origins(open_edge: Edge, origin: str) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(open_edge.ws_url, origin=origin, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["status"] == 403


def test_the_stream_needs_a_loopback_name_too(open_edge: Edge) -> None:
    port = int(open_edge.app.url.rpartition(":")[2])
    sock = socket.create_connection(("127.0.0.1", port))
    url = f"ws://rebound.example:{port}/v1/stream"
    with pytest.raises(InvalidStatus) as refused, connect(url, sock=sock, proxy=None):
        pass
    assert refused.value.response.status_code == 421


def test_keys_are_asked_for_where_there_are_some(keyed: tuple[Edge, str, str]) -> None:
    edge, alice, bob = keyed
    bearer, named = {"Authorization": f"Bearer {alice}"}, {"X-API-Key": bob}
    assert edge.client.get("/v1/quick", headers=bearer).status_code == 200
    assert edge.client.get("/v1/quick", headers=named).status_code == 200
    refused = edge.client.get("/v1/quick")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.json()["instance"] == refused.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/quick", "/ready", "/metrics", "/docs", "/no/such/path"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "guessed"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}],
)
def test_without_a_known_key_only_health_answers(
    keyed: tuple[Edge, str, str], path: str, headers: dict[str, str]
) -> None:
    edge, _, _ = keyed
    assert edge.client.get(path, headers=headers).status_code == 401
    assert edge.client.get("/health", headers=headers).json() == {"status": "alive"}


def test_with_keys_any_name_is_answered(keyed: tuple[Edge, str, str]) -> None:
    edge, alice, _ = keyed
    headers = {"X-API-Key": alice, "Host": "k2.example.com"}
    assert edge.client.get("/v1/quick", headers=headers).status_code == 200


def test_the_hash_of_a_key_is_no_key(keyed: tuple[Edge, str, str]) -> None:
    edge, alice, _ = keyed
    stolen = hashlib.sha256(alice.encode()).hexdigest()
    assert edge.client.get("/v1/quick", headers={"X-API-Key": stolen}).status_code == 401


def test_the_stream_needs_a_key_too(keyed: tuple[Edge, str, str]) -> None:
    edge, alice, _ = keyed
    with pytest.raises(InvalidStatus) as refused, connect(edge.ws_url, proxy=None):
        pass
    assert refused.value.response.status_code == 401
    with connect(edge.ws_url, proxy=None, additional_headers={"X-API-Key": alice}):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "/v1/summary/ASX/{}/2014-03-10",
        "/{}",
        "/v1/quick/x{}y",
        "/v1/quick?symbol={}",
        "/v1/quick?symbol=BHP{}",
        "/v1/quick?{}",
        "/v1/quick?{}=1&symbol=BHP",
        "/v1/quick?cursor={}&symbol=BHP",
    ],
)
def test_no_part_of_a_url_brings_a_key_into_the_log(keyed: tuple[Edge, str, str], url: str) -> None:
    edge, alice, _ = keyed
    encoded = "".join(f"%{ord(one):02X}" for one in alice)
    for number, sent in enumerate((alice, encoded, encoded.replace("%", "%25"))):
        name = f"key-in-url-{number}-{abs(hash(url))}"
        edge.client.get(url.format(sent), headers={"X-API-Key": alice, "X-Request-Id": name})
        told = edge.told(name)
        assert alice not in unquote(unquote(str(told)))
        assert "***" in unquote(f"{told['path']}?{told['query']}")


def test_a_key_that_somebody_chose_is_masked_where_it_stands_alone() -> None:
    keys = (ApiKey("alice", hashlib.sha256(b"chosen by hand").hexdigest()),)
    assert without_secrets(b"a=chosen%20by%20hand&chosen+by+hand&b=BHP", keys) == (
        "a=%2A%2A%2A&%2A%2A%2A=&b=BHP"
    )
    assert path_without_keys("/v1/chosen by hand/x", keys) == "/v1/***/x"
    assert path_without_keys("/v1/%63hosen%2520by%20hand/x%41", keys) == "/v1/***/x%41"


def test_the_log_has_the_name_and_nothing_has_the_key(keyed: tuple[Edge, str, str]) -> None:
    edge, alice, _ = keyed
    headers = {"Authorization": f"Bearer {alice}", "X-Request-Id": "my-request-1"}
    edge.client.get(f"/v1/quick?api_key={alice}&symbol=BHP", headers=headers)
    told = edge.told("my-request-1")
    assert told["key"] == "alice"
    assert (told["method"], told["path"], told["status"]) == ("GET", "/v1/quick", 200)
    assert told["query"] == "api_key=%2A%2A%2A&symbol=BHP"
    assert alice not in str(edge.events)
    assert alice not in edge.client.get("/metrics", headers=headers).text


def test_every_answer_has_its_id_and_keeps_browsers_modest(open_edge: Edge) -> None:
    for path in ("/v1/quick", "/health", "/no/such/path"):
        answer = open_edge.client.get(path)
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_what_nobody_caught_is_a_problem_that_tells_nothing(
    open_edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    broken = open_edge.client.get("/v1/broken", headers={"X-Request-Id": "broken-one"})
    assert broken.status_code == 500
    assert broken.headers["content-type"] == PROBLEM
    assert broken.json()["instance"] == broken.headers["x-request-id"] == "broken-one"
    assert "the reason" not in broken.text
    assert "broken-one" in caplog.text and "the reason that stays in the log" in caplog.text


@pytest.mark.parametrize(
    "given", [None, "short", "a" * 65, "with blank", 'quote"quote', "ümlaut-1"]
)
def test_an_id_that_is_not_sane_is_replaced(given: str | None) -> None:
    assert request_id("sane-id-1") == "sane-id-1"
    assert request_id(given) != given


def test_a_query_is_logged_without_secrets() -> None:
    assert without_secrets(b"symbol=BHP&Token=abc&X-Api-Key=def") == (
        "symbol=BHP&Token=%2A%2A%2A&X-Api-Key=%2A%2A%2A"
    )
    assert "\n" not in without_secrets(b"symbol=%0AFAKE+LINE")


DONE = RequestDone(
    request_id="my-request-1",
    client="127.0.0.1",
    key=None,
    method="GET",
    path="/a\nb",
    query="",
    status=200,
    bytes=7,
    seconds=0.5,
    refused=None,
)


def test_a_logged_request_is_a_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="k2lib.api"):
        log_request(DONE)
    assert json.loads(caplog.messages[0]) == {
        "event": "request_done",
        "request_id": "my-request-1",
        "client": "127.0.0.1",
        "key": None,
        "method": "GET",
        "path": "/a\nb",
        "query": "",
        "status": 200,
        "bytes": 7,
        "seconds": 0.5,
    }
    assert "\n" not in caplog.messages[0]


def test_a_new_key_opens_what_its_entry_says() -> None:
    key, entry = new_key("alice")
    assert entry == f"alice:{hashlib.sha256(key.encode()).hexdigest()}"
    assert key_name(Headers({"x-api-key": key}), parse_keys(entry)) == "alice"
    assert new_key("alice")[0] != key


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a b", "ä", "a" * 65])
def test_a_name_must_fit_the_setting(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        new_key(name)


def test_keys_are_read_from_their_setting() -> None:
    assert parse_keys(f" alice:{'a' * 64}, bob:{'B' * 64},") == (
        ApiKey("alice", "a" * 64),
        ApiKey("bob", "b" * 64),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no key"),
        ("alice", "entry 1"),
        (f"a:{'a' * 64},bob:my-secret-key", "entry 2"),
        (f"a:{'a' * 64},a:{'b' * 64}", "twice"),
        (f"a:{'a' * 64},b:{'a' * 64}", "twice"),
    ],
)
def test_a_setting_that_names_no_keys_is_refused_and_not_shown(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        parse_keys(text)
    assert "my-secret-key" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_socket_is_opened_to_others_without_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="K2_API_KEYS"):
        bind(host, 0, options=ApiOptions())


def test_with_keys_it_is() -> None:
    _, keys = made_key("alice")
    with bind("0.0.0.0", 0, options=ApiOptions(keys=keys)) as listening:
        assert listening.getsockname()[1] > 0


def test_what_is_loopback_and_what_is_not() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.1", "example.com", ""]))
