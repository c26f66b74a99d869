"""How much one client gets, so that the others get theirs."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.types import Message
from support.api_edge import connected, made_key, served
from support.fake_clock import FakeClock
from support.waiting import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from k2lib import K2
from k2lib.api.limiters import OpenRequestLimiter, QueryLimiter, RateLimiter, client_network
from k2lib.api.middleware import read_body
from k2lib.api.security import RequestRejectedError
from k2lib.settings import Settings

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    with K2(Settings(home=tmp_path_factory.mktemp("home"))) as opened:
        yield opened


def rates(clock: FakeClock, **options: int) -> RateLimiter:
    return RateLimiter(2.0, 3, clock=clock, **options)


def test_so_many_requests_at_once_then_so_many_a_second() -> None:
    clock = FakeClock()
    limit = rates(clock)
    assert [limit.take("a") for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    clock.advance(0.5)
    assert [limit.take("a") for _ in range(2)] == [0, 0.5]
    clock.advance(3600)
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_the_headers_of_a_rate_have_the_numbers_of_its_bucket() -> None:
    clock = FakeClock()
    limit = rates(clock)
    assert limit.headers("a") == {
        "RateLimit-Policy": '"default";q=3;w=2',
        "RateLimit": '"default";r=3;t=0',
    }
    for _ in range(4):
        limit.take("a")
    assert limit.headers("a")["RateLimit"] == '"default";r=0;t=2'
    clock.advance(0.6)
    assert limit.headers("a")["RateLimit"] == '"default";r=1;t=1'
    assert limit.headers("b")["RateLimit"] == '"default";r=3;t=0'


def test_each_client_has_a_rate_of_its_own() -> None:
    limit = rates(FakeClock())
    assert [limit.take(one) for one in "aaab"] == [0, 0, 0, 0]
    assert limit.take("a") > 0


def test_only_so_many_clients_are_remembered() -> None:
    limit = rates(FakeClock(), max_clients=10)
    for number in range(1000):
        limit.take(str(number))
    assert len(limit) == 10


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = FakeClock()
    limit = rates(clock)
    for _ in range(3):
        limit.take("a")
    clock.advance(-100)
    assert limit.take("a") > 0


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("a name", "a name"),
    ],
)
def test_a_client_is_an_address_or_the_network_of_a_subscriber(host: str, client: str) -> None:
    assert client_network({"client": (host, 5000)}) == client


def test_turns_are_given_to_who_waited_longest() -> None:
    async def work() -> list[int]:
        limiter, order = QueryLimiter(1, wait_s=30), []

        async def one(number: int) -> None:
            slot = await limiter.acquire()
            order.append(number)
            await asyncio.sleep(0)
            slot.release()

        await asyncio.gather(*(one(number) for number in range(5)))
        return order

    assert asyncio.run(work()) == [0, 1, 2, 3, 4]


def test_who_gets_no_turn_in_time_is_refused_and_waits_no_more() -> None:
    async def work() -> None:
        limiter = QueryLimiter(1, wait_s=0.01)
        first = await limiter.acquire()
        with pytest.raises(RequestRejectedError) as refused:
            await limiter.acquire()
        assert (refused.value.status, refused.value.reason) == (503, "busy")
        assert limiter.queued == 0
        first.release()
        (await limiter.acquire()).release()

    asyncio.run(work())


def test_a_key_has_half_of_the_turns() -> None:
    async def work() -> None:
        limiter = QueryLimiter(4, wait_s=0.01)
        held = [await limiter.acquire("alice") for _ in range(2)]
        with pytest.raises(RequestRejectedError):
            await limiter.acquire("alice")
        held.append(await limiter.acquire("bob"))
        held[0].release()
        held[0].release()
        held.append(await limiter.acquire("alice"))
        with pytest.raises(RequestRejectedError):
            await limiter.acquire("alice")

    asyncio.run(work())


def test_who_leaves_while_waiting_takes_no_turn_along() -> None:
    async def work() -> None:
        limiter = QueryLimiter(1, wait_s=30)
        first = await limiter.acquire()
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        first.release()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            (await limiter.acquire()).release()

    asyncio.run(work())


def test_posts_leave_half_of_the_turns_to_others() -> None:
    async def work() -> None:
        limiter = QueryLimiter(4, wait_s=0.01)
        for key in ("alice", "bob"):
            await limiter.acquire("POST", key)
        with pytest.raises(RequestRejectedError):
            await limiter.acquire("POST", "carol")
        for key in ("alice", "bob"):
            await limiter.acquire(key)

    asyncio.run(work())


def test_a_turn_goes_to_the_client_that_runs_the_fewest() -> None:
    async def work() -> list[str]:
        limiter, order = QueryLimiter(2, wait_s=30), []

        async def one(client: str) -> None:
            slot = await limiter.acquire(client=client)
            order.append(client)
            await asyncio.sleep(0)
            slot.release()

        await asyncio.gather(*map(one, ("many",) * 6 + ("few",) * 2))
        return order

    assert asyncio.run(work())[:5] == ["many", "many", "few", "many", "few"]


def test_who_leaves_while_waiting_is_no_failure_of_the_server(
    home: K2, caplog: pytest.LogCaptureFixture
) -> None:
    with served(home, concurrency=1, wait_s=30) as edge, ThreadPoolExecutor() as pool:
        held = pool.submit(edge.client.get, "/v1/held")
        wait_until(lambda: edge.metric("k2_api_in_flight") == 2)
        with connected(edge) as leaving:
            leaving.sendall(
                b"POST /v1/quick HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: left-early\r\n"
                b"Content-Type: application/json\r\n\r\n"
            )
            wait_until(lambda: edge.metric("k2_api_in_flight") == 3)
        edge.let_go.set()
        assert held.result().status_code == 200
        assert edge.told("left-early")["status"] == 499
    assert "failed" not in caplog.text


def test_of_open_requests_a_key_or_an_address_has_half() -> None:
    limit = OpenRequestLimiter(2)
    with limit.open("alice"):
        with pytest.raises(RequestRejectedError), limit.open("alice"):
            pass
        with limit.open("bob"), pytest.raises(RequestRejectedError), limit.open("carol"):
            pass
    with limit.open("carol"):
        pass


def test_a_body_that_grows_too_long_is_refused_without_being_kept() -> None:
    parts: list[Message] = [
        {"type": "http.request", "body": b"x" * 60, "more_body": True} for _ in range(3)
    ]

    async def receive() -> Message:
        return parts.pop()

    with pytest.raises(RequestRejectedError) as refused:
        asyncio.run(read_body(receive, Headers(), max_bytes=100, within_s=30))
    assert refused.value.status == 413
    assert len(parts) == 1


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async def receive() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    with pytest.raises(RequestRejectedError) as refused:
        asyncio.run(read_body(receive, Headers(), max_bytes=100, within_s=0.01))
    assert refused.value.status == 408


def test_who_asks_too_often_is_told_when_to_come_back(home: K2) -> None:
    with served(home, rate_per_s=0.5, burst=2) as edge:
        answers = [edge.client.get("/v1/quick") for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "2"
        assert [one.headers["ratelimit"] for one in answers] == [
            '"default";r=1;t=2',
            '"default";r=0;t=4',
            '"default";r=0;t=4',
        ]
        assert {one.headers["ratelimit-policy"] for one in answers} == {'"default";q=2;w=4'}
        assert answers[2].json()["detail"].startswith("more than 0.5 requests a second")
        assert edge.client.get("/health").status_code == 200
        edge.now += 2
        assert edge.client.get("/v1/quick").status_code == 200


def test_a_key_has_its_own_rate_and_guesses_have_none_of_it(home: K2) -> None:
    alice, keys = made_key("alice")
    with served(home, keys=keys, rate_per_s=0.5, burst=2) as edge:
        guesses = [edge.client.get("/v1/quick", headers={"X-API-Key": "x"}) for _ in range(3)]
        assert [one.status_code for one in guesses] == [401, 401, 429]
        assert edge.client.get("/v1/quick", headers={"X-API-Key": alice}).status_code == 200


def test_large_bodies_and_long_addresses_are_refused(home: K2) -> None:
    with served(home, max_body_bytes=100, max_url_bytes=200) as edge:
        post = edge.client.post
        assert post("/v1/quick", content=b"x" * 100, headers=JSON).json() == {"bytes": 100}
        assert post("/v1/quick", content=b"x" * 101, headers=JSON).status_code == 413
        chunks = iter([b"x" * 60] * 3)
        assert post("/v1/quick", content=chunks, headers=JSON).status_code == 413
        assert edge.client.get("/v1/quick", params={"a": "x" * 200}).status_code == 414


def test_what_cannot_begin_is_refused_with_a_problem(home: K2) -> None:
    with served(home, concurrency=1, wait_s=0.05) as edge, ThreadPoolExecutor() as pool:
        held = pool.submit(edge.client.get, "/v1/held")
        wait_until(lambda: edge.client.get("/v1/quick").status_code == 503)
        refused = edge.client.get("/v1/quick")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert edge.metric('k2_api_rejected_total{reason="busy"}') >= 1
        edge.let_go.set()
        assert held.result().json() == {"held": True}
        assert edge.client.get("/v1/quick").status_code == 200


def test_who_reads_slowly_keeps_nobody_waiting(home: K2) -> None:
    with (
        served(home, concurrency=1, wait_s=5) as edge,
        edge.client.stream("GET", "/v1/parts") as slow,
    ):
        parts = slow.iter_raw()
        assert next(parts) == b"first "
        assert edge.client.get("/v1/quick").status_code == 200
        edge.let_go.set()
        assert b"".join(parts) == b"last"


def test_only_so_many_requests_are_open(home: K2) -> None:
    with (
        served(home, open_requests=1) as edge,
        edge.client.stream("GET", "/v1/parts") as held,
    ):
        parts = held.iter_raw()
        assert next(parts) == b"first "
        assert edge.client.get("/v1/quick").status_code == 503
        edge.let_go.set()
        assert next(parts) == b"last"


def test_a_keys_heavy_queries_leave_others_their_turns(home: K2) -> None:
    alice, keys = made_key("alice")
    bob, more = made_key("bob")
    with (
        served(home, keys=(*keys, *more), concurrency=4, wait_s=0.2) as edge,
        ThreadPoolExecutor(8) as pool,
    ):
        headers = {"X-API-Key": alice}
        heavy = [pool.submit(edge.client.get, "/v1/held", headers=headers) for _ in range(8)]
        wait_until(lambda: sum(one.done() for one in heavy) == 6)
        for _ in range(20):  # who had to wait here would be refused: no turn ends
            answer = edge.client.get("/v1/quick", headers={"X-API-Key": bob})
            assert answer.status_code == 200
        edge.let_go.set()
        statuses = sorted(one.result().status_code for one in heavy)
    assert statuses == [200, 200, *[503] * 6]


def test_the_metrics_count_what_was_answered(home: K2) -> None:
    with served(home) as edge:
        edge.client.get("/v1/quick")
        edge.client.get("/no/such/path")
        answered = 'k2_api_requests_total{method="GET",path="/v1/quick",status="200"}'
        wait_until(lambda: edge.metric(answered) == 1)
        assert edge.metric('k2_api_requests_total{method="GET",path="other",status="404"}') == 1
        assert edge.metric('k2_api_request_seconds_count{path="/v1/quick"}') == 1
        assert edge.metric("k2_api_in_flight") == 1


def test_the_server_is_ready_while_the_lake_can_be_read(tmp_path: Path) -> None:
    with K2(Settings(home=tmp_path / "home")) as k2, served(k2) as edge:
        ready = edge.client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["log"]["answers"] is False
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "catalog.db").write_bytes(b"no database" * 1000)
        lost = edge.client.get("/ready")
        assert (lost.status_code, lost.json()["title"]) == (503, "Not ready")
        assert edge.client.get("/health").status_code == 200


def test_the_stream_has_a_rate_too(home: K2) -> None:
    with served(home, rate_per_s=0.5, burst=1) as edge:
        with connect(edge.ws_url, proxy=None):
            pass
        with pytest.raises(InvalidStatus) as refused, connect(edge.ws_url, proxy=None):
            pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"] == "2"
