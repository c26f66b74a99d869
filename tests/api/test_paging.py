"""Pages skip and repeat nothing that was there; what a client has is not sent again."""

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.api_client import api_of, asked, posted, problem_of
from support.lake_rows import append, at, gap, rows_table, trade
from support.waiting import first, wait_until

from k2lib import K2
from k2lib.api.problems import WrongParameterError
from k2lib.api.requests.cursor import decode_row_cursor, encode_cursor
from k2lib.schema.order import EVENT_ORDER
from k2lib.schema.records import TRADE

TRADES_TOPIC = "market.equities.trades.asx"
PLACE = (None, 0, "ASX", "BHP", None, 0, "m1")


@pytest.fixture
def k2(tmp_path: Path) -> Iterator[K2]:
    with K2.open(home=tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def client(k2: K2) -> Iterator[TestClient]:
    with api_of(k2, max_rows=1000) as opened:
        yield opened


def ids(page: dict[str, Any]) -> list[str]:
    return [row["message_id"] for row in page["data"]]


def pages(client: TestClient, path: str, **params: Any) -> Iterator[dict[str, Any]]:
    """Yield each page, asked for when the one before was taken."""
    cursor: dict[str, str] = {}
    while True:
        page = asked(client, path, **params, **cursor)
        yield page
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def found(client: TestClient, path: str, **body: Any) -> Iterator[dict[str, Any]]:
    """Yield each page of a POST."""
    cursor: dict[str, str] = {}
    while True:
        page = posted(client, path, {**body, **cursor})
        yield page
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    key = lambda row: [(row[name] is not None, row[name]) for name in EVENT_ORDER]  # noqa: E731
    return [row["message_id"] for row in sorted(rows, key=key)]


sequences = st.none() | st.integers(0, 2)
batches = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("AB"), sequences, sequences), max_size=6),
    min_size=1,
    max_size=3,
)
examples = itertools.count()


def rows_of(batch: list[tuple[Any, ...]], *, name: str, first: int) -> list[dict[str, Any]]:
    """Return trades of which many share their time and sequences, ids against the order."""
    return [
        trade(
            first + number,
            message_id=f"{name}{(first + number) * 7919 % 10_000:06d}",
            symbol=f"{letter}{name}",
            timestamp=at(second),
            source_sequence=source,
            platform_sequence=platform,
        )
        for number, (second, letter, source, platform) in enumerate(batch)
    ]


class Arriving:
    """Rows of two symbols of their own, more of them with every page that is read."""

    def __init__(self, k2: K2, batches: list[list[tuple[Any, ...]]]) -> None:
        self.name = f"x{next(examples)}"
        self.k2 = k2
        self.stored: list[dict[str, Any]] = []
        numbered = enumerate(batches)
        self._coming = (rows_of(one, name=self.name, first=20 * n) for n, one in numbered)
        both = [(0, "A", None, None), (3, "B", None, None)]
        self._add(rows_of(both, name=self.name, first=1000) + next(self._coming))
        self.at_first = list(self.stored)

    def read(self, pages: Iterator[dict[str, Any]]) -> list[str]:
        told: list[str] = []
        for page in pages:
            told += ids(page)
            self._add(next(self._coming, []))
        return told

    def _add(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            append(self.k2.catalog, rows)
        self.stored += rows


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[K2, TestClient]]:
    home = tmp_path_factory.mktemp("paging") / "home"
    with K2.open(home=home) as k2, api_of(k2) as client:
        yield k2, client


@pytest.mark.slow
@settings(max_examples=20)
@given(some=batches, limit=st.integers(1, 3))
def test_pages_have_what_was_there_once_and_nothing_behind_the_cursor(
    shared: tuple[K2, TestClient], some: list[list[tuple[Any, ...]]], limit: int
) -> None:
    k2, client = shared
    rows = Arriving(k2, some)
    symbol = f"A{rows.name}"
    told = rows.read(pages(client, "/v1/trades", symbol=symbol, limit=limit))
    there = in_order([row for row in rows.at_first if row["symbol"] == symbol])
    assert [one for one in told if one in there] == there
    assert told == in_order([row for row in rows.stored if row["message_id"] in told])


@pytest.mark.slow
@settings(max_examples=20)
@given(some=batches, limit=st.integers(1, 3), down=st.booleans())
def test_pages_of_several_instruments_have_what_was_there_once(
    shared: tuple[K2, TestClient], some: list[list[tuple[Any, ...]]], limit: int, down: bool
) -> None:
    k2, client = shared
    rows = Arriving(k2, some)
    body = {"symbols": [f"B{rows.name}", f"A{rows.name}"], "limit": limit}
    order, step = ("desc", -1) if down else ("asc", 1)
    told = rows.read(found(client, "/v1/trades/query", **body, order=order))
    there = in_order(rows.at_first)[::step]
    assert [one for one in told if one in there] == there
    assert told == in_order([row for row in rows.stored if row["message_id"] in told])[::step]


def test_a_late_row_behind_the_cursor_is_not_shown_one_before_it_is(
    k2: K2, client: TestClient
) -> None:
    append(k2.catalog, [trade(1), trade(3), trade(5)])
    read = pages(client, "/v1/trades", symbol="BHP", limit=2)
    assert ids(next(read)) == ["m000001", "m000003"]
    append(k2.catalog, [trade(2), trade(4)])
    assert ids(next(read)) == ["m000004", "m000005"]


def test_as_of_pins_the_pages_to_the_snapshot_of_the_first(k2: K2, client: TestClient) -> None:
    table = append(k2.catalog, [trade(1), trade(3)])
    tag(table, "mine")
    for path, read in (
        ("/v1/trades", lambda: pages(client, "/v1/trades", symbol="BHP", limit=1, as_of="mine")),
        (
            "/v1/trades/query",
            lambda: found(client, "/v1/trades/query", symbols=["BHP"], limit=1, as_of="mine"),
        ),
    ):
        told = read()
        first = next(told)
        tag(append(k2.catalog, [trade(4, message_id=f"late {path}")]), "mine")
        second = next(told)
        assert ids(first)[0] < ids(second)[0]
        snapshots = [page["complete_to"]["trades_v2"]["snapshot_id"] for page in (first, second)]
        assert snapshots[0] == snapshots[1]
        tag(table, "mine")


def tag(table: Any, name: str) -> None:
    """Let a tag mean the snapshot at which a table was loaded."""
    snapshot_id = table.current_snapshot().snapshot_id
    table.refresh()
    table.manage_snapshots().create_tag(snapshot_id, name).commit()


def test_a_second_venue_between_two_pages_changes_nothing(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(1), trade(2)])
    read = pages(client, "/v1/trades", symbol="BHP", limit=1)
    next(read)
    append(k2.catalog, [trade(3, exchange="ASX_SIM")])
    assert ids(next(read)) == ["m000002"]


def test_bars_come_page_by_page(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(n, timestamp=at(60 * n)) for n in range(5)])
    whole = asked(client, "/v1/bars", symbol="BHP")
    read = list(pages(client, "/v1/bars", symbol="BHP", limit=2))
    assert [len(page["data"]) for page in read] == [2, 2, 1]
    assert [row for page in read for row in page["data"]] == whole["data"]


def test_the_link_of_a_page_leads_to_the_next(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(n) for n in range(3)])
    response = client.get("/v1/trades?symbol=BHP&limit=2&start=2014-03-10T01:00:00%2B00:00")
    link = response.links["next"]
    assert unquote(link["url"]).endswith(f"&cursor={response.json()['next']}")
    assert ids(client.get(link["url"]).json()) == ["m000002"]


def test_page_size_and_format_may_change_between_pages(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(n) for n in range(5)])
    cursor = asked(client, "/v1/trades", symbol="BHP", limit=1)["next"]
    query = {"symbol": "BHP", "cursor": cursor, "limit": 3, "format": "csv"}
    assert client.get("/v1/trades", params=query).text.count("\n") == 4


def test_a_cursor_of_another_question_is_refused(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(n) for n in range(3)])
    cursor = asked(client, "/v1/trades", symbol="BHP", limit=1)["next"]
    for other in (
        "/v1/trades?symbol=MWR",
        "/v1/trades?symbol=BHP&exchange=ASX",
        "/v1/trades?symbol=BHP&start=2014-03-10",
        "/v1/trades?symbol=BHP&tail=false",
        "/v1/quotes?symbol=BHP",
        "/v1/bars?symbol=BHP",
    ):
        told = problem_of(client.get(f"{other}&cursor={cursor}"), 400)
        assert told["errors"][0]["parameter"] == "cursor"
    problem_of(client.post("/v1/trades/query", json={"symbols": ["BHP"], "cursor": cursor}), 400)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_cursor_with_any_byte_changed_is_refused(place: int, flip: int) -> None:
    asked_for = {"symbol": "BHP"}
    cursor = encode_cursor(PLACE, scope=asked_for)
    assert decode_row_cursor(cursor, scope=asked_for) == PLACE
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[place % len(raw)] ^= flip
    changed = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    with pytest.raises(WrongParameterError, match="does not belong to this question"):
        decode_row_cursor(changed, scope=asked_for)


@given(st.text(max_size=60))
def test_no_text_is_taken_for_a_cursor(text: str) -> None:
    with pytest.raises(WrongParameterError):
        decode_row_cursor(text, scope={})


@pytest.mark.parametrize(
    "place",
    [
        (None, 2**60, "ASX", "BHP", None, 0, "m1"),
        (None, 0, "ASX", "BHP", 2**70, 0, "m1"),
        (None, 0, "ASX", "BHP", 0.5, 0, "m1"),
        (None, 0, "ASX"),
    ],
)
def test_a_cursor_that_was_made_up_is_refused(place: tuple[Any, ...]) -> None:
    with pytest.raises(WrongParameterError):
        decode_row_cursor(encode_cursor(place, scope={}), scope={})


def test_a_page_of_too_many_rows_is_refused(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(1)])
    for path in ("/v1/trades", "/v1/trades/recent", "/v1/bars"):
        told = problem_of(client.get(f"{path}?symbol=BHP&limit=1001"), 400)
        assert told["errors"][0]["reason"] == "a page has at most 1000 rows"
    body = {"symbols": ["BHP"], "limit": 1001}
    problem_of(client.post("/v1/trades/query", json=body), 400)
    assert len(asked(client, "/v1/trades", symbol="BHP", limit=1000)["data"]) == 1


def test_without_a_limit_a_page_has_at_most_what_the_server_allows(k2: K2) -> None:
    append(k2.catalog, [trade(n) for n in range(3)])
    with api_of(k2, max_rows=2) as client:
        for path in ("trades", "trades/recent", "bars"):
            params = {"symbol": "BHP"} | ({"every": "1s"} if path == "bars" else {})
            assert len(asked(client, f"/v1/{path}", **params)["data"]) == 2, path
        assert len(asked(client, "/v1/trades", symbol="BHP", order="desc")["data"]) == 2
        assert len(posted(client, "/v1/trades/query", {"symbols": ["BHP"]})["data"]) == 2


def test_an_answer_that_has_no_pages_is_refused_where_it_is_too_long(k2: K2) -> None:
    append(k2.catalog, [trade(n, symbol=f"S{n}") for n in range(3)])
    append(k2.catalog, [gap(f"g{n}", 0) for n in range(3)], "gaps")
    with api_of(k2, max_rows=2) as client:
        for path in ("/v1/symbols", "/v1/gaps"):
            assert "of at most 2" in problem_of(client.get(path), 400)["detail"]
        body = {"metrics": ["count"], "group_by": ["symbol"]}
        problem_of(client.post("/v1/aggregations", json=body), 400)


def unchanged(client: TestClient, path: str, tag: str) -> bool:
    response = client.get(path, headers={"If-None-Match": tag})
    assert response.status_code in (200, 304)
    assert response.status_code == 200 or response.content == b""
    assert (response.headers["etag"] == tag) is (response.status_code == 304)
    return response.status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/v1/trades?symbol=BHP",
        "/v1/trades/recent?symbol=BHP",
        "/v1/bars?symbol=BHP",
        "/v1/summary/ASX/BHP/2014-03-10",
        "/v1/symbols",
        "/v1/stats",
        "/v1/snapshots",
    ],
)
def test_an_answer_is_not_sent_again_until_it_changes(
    k2: K2, client: TestClient, path: str
) -> None:
    append(k2.catalog, [trade(1)])
    tag = client.get(path).headers["etag"]
    assert unchanged(client, path, tag)
    among_others = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert among_others.status_code == 304
    append(k2.catalog, [trade(2)])
    assert not unchanged(client, path, tag)


def test_a_tag_is_of_one_question_and_format(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(1)])
    queries = ("", "&limit=5", "&tail=false", "&format=csv", "&start=2014-03-10")
    tags = {client.get(f"/v1/trades?symbol=BHP{query}").headers["etag"] for query in queries}
    as_csv = client.get("/v1/trades?symbol=BHP", headers={"Accept": "text/csv"})
    assert len(tags | {as_csv.headers["etag"]}) == len(queries) + 1
    assert as_csv.headers["vary"].startswith("Accept")


def test_unchanged_is_said_without_reading_the_rows(k2: K2, client: TestClient) -> None:
    append(k2.catalog, [trade(1)])
    tag = client.get("/v1/trades?symbol=BHP").headers["etag"]
    for data in k2.settings.home.rglob("*.parquet"):
        data.unlink()
    assert unchanged(client, "/v1/trades?symbol=BHP", tag)


def has_all_of_kafka(response: Any) -> bool:
    """Say whether an answer waited long enough: none waits for more than two seconds."""
    return response.json()["complete_to"]["trades_v2"]["behind"] == 0


@pytest.mark.slow
def test_a_trade_that_only_kafka_has_changes_the_tag(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "live", commit_interval_s=1000) as k2, api_of(k2) as client:
        path, stored = "/v1/trades/recent?symbol=BHP", "/v1/trades/recent?symbol=BHP&tail=false"
        k2.pipeline.produce(TRADES_TOPIC, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
        whole = first(lambda: client.get(path), has_all_of_kafka)
        tag, tag_stored = whole.headers["etag"], client.get(stored).headers["etag"]
        wait_until(lambda: unchanged(client, path, tag))
        k2.pipeline.produce(TRADES_TOPIC, rows_table([trade(2)]), TRADE)
        k2.pipeline.flush()
        assert not unchanged(client, path, tag)
        assert unchanged(client, stored, tag_stored)
