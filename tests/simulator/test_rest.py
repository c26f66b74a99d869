"""The REST side of the offline exchange: rows, pages, errors and limits."""

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain, pairwise
from typing import Any

import httpx2
import pytest
from support.exchange_clients import START, SetClock, consecutive, get, historical, received, stream
from support.waiting import wait_until

from k2lib.simulator import OfflineExchange
from k2lib.simulator.binance.limits import ExchangeLimits, WeightLimiter
from k2lib.simulator.binance.rest import weight_of

NOW_MS = int((START + 3600) * 1000)


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    """Open an exchange that has traded for an hour, and whose time stands still."""
    clock = SetClock()
    with OfflineExchange(
        rate=20.0, clock=clock, limits=ExchangeLimits(weight_per_minute=10**6)
    ) as opened:
        clock.advance(3600)
        due = opened.tape("ETHUSDT").generator.next_id(int(clock.now * 1e6)) - 1
        wait_until(lambda: opened.truth("ETHUSDT").last_id == due)
        yield opened


def rows(exchange: OfflineExchange, name: str, **params: Any) -> list[Any]:
    """Return the rows of an endpoint for BTCUSDT."""
    answer = get(exchange, name, symbol="BTCUSDT", **params)
    assert answer.status_code == 200, answer.text
    body: list[Any] = answer.json()
    return body


def last_id(exchange: OfflineExchange) -> int:
    return exchange.truth("BTCUSDT").last_id


def test_time_is_the_exchanges_own_in_the_unit_asked_for(exchange: OfflineExchange) -> None:
    assert get(exchange, "ping").json() == {}
    assert get(exchange, "time").json() == {"serverTime": NOW_MS}
    url = exchange.rest_urls[0] + "/api/v3/time"
    for unit in ("MICROSECOND", "microsecond"):
        answer = httpx2.get(url, headers={"X-MBX-TIME-UNIT": unit})
        assert answer.json() == {"serverTime": NOW_MS * 1000}


def test_a_trade_has_the_documented_fields(exchange: OfflineExchange) -> None:
    [row] = rows(exchange, "trades", limit=1)
    names = ["id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"]
    assert list(row) == names
    assert Decimal(row["quoteQty"]) == Decimal(row["price"]) * Decimal(row["qty"])
    assert row["id"] == last_id(exchange)
    assert NOW_MS - 10_000 < row["time"] <= NOW_MS


@pytest.mark.parametrize("name", ["trades", "historicalTrades"])
@pytest.mark.parametrize(
    ("params", "count"), [({}, 500), ({"limit": 5}, 5), ({"limit": 5000}, 1000)]
)
def test_the_newest_trades_come_in_order(
    exchange: OfflineExchange, name: str, params: dict[str, int], count: int
) -> None:
    ids = [row["id"] for row in rows(exchange, name, **params)]
    assert ids == list(range(last_id(exchange) - count + 1, last_id(exchange) + 1))


def test_pages_from_an_id_lead_through_the_past(exchange: OfflineExchange) -> None:
    first = last_id(exchange) - 2500
    pages = [historical(exchange, first + offset) for offset in (0, 1000, 2000)]
    assert [len(page) for page in pages] == [1000, 1000, 501]
    assert consecutive(list(chain.from_iterable(pages)))
    assert historical(exchange, last_id(exchange) + 1) == []


def test_the_past_before_the_start_is_there(exchange: OfflineExchange) -> None:
    assert historical(exchange, 0, limit=2) == [0, 1]
    before = exchange.truth("BTCUSDT").first_id - 10
    assert consecutive(historical(exchange, before, limit=20))


def test_stream_and_rest_tell_the_same_trade() -> None:
    with OfflineExchange(["BTCUSDT"], rate=200.0) as live, stream(live) as ws:
        events = {row["t"]: row for row in received(ws, 50)}
        for row in rows(live, "historicalTrades", fromId=min(events), limit=50):
            event = events[row["id"]]
            assert (row["price"], row["qty"], row["time"], row["isBuyerMaker"]) == (
                event["p"],
                event["q"],
                event["T"],
                event["m"],
            )


def test_aggregates_fold_the_trades_they_span(exchange: OfflineExchange) -> None:
    for row in rows(exchange, "aggTrades", limit=10):
        count = row["l"] - row["f"] + 1
        trades = rows(exchange, "historicalTrades", fromId=row["f"], limit=count)
        assert {trade["price"] for trade in trades} == {row["p"]}
        assert {trade["time"] for trade in trades} == {row["T"]}
        assert sum(Decimal(trade["qty"]) for trade in trades) == Decimal(row["q"])


def test_aggregates_page_by_id_without_a_hole(exchange: OfflineExchange) -> None:
    newest = rows(exchange, "aggTrades", limit=1)[0]["a"]
    page = rows(exchange, "aggTrades", fromId=newest - 1200, limit=1000)
    page += rows(exchange, "aggTrades", fromId=newest - 200, limit=1000)
    assert consecutive([row["a"] for row in page])
    assert all(b["f"] == a["l"] + 1 for a, b in pairwise(page))
    assert page[-1]["l"] == last_id(exchange)


def test_aggregates_of_a_time_begin_with_the_oldest(exchange: OfflineExchange) -> None:
    start, end = NOW_MS - 60_000, NOW_MS - 50_000
    between = rows(exchange, "aggTrades", startTime=start, endTime=end, limit=1000)
    assert all(start <= row["T"] <= end for row in between)
    oldest = rows(exchange, "aggTrades", startTime=start, limit=10)
    newest = rows(exchange, "aggTrades", endTime=end, limit=10)
    assert (oldest, newest) == (between[:10], between[-10:])
    micros = rows(exchange, "aggTrades", startTime=start * 1000, limit=10)
    assert micros == oldest


@pytest.mark.parametrize(
    "params",
    [{"startTime": NOW_MS + 1}, {"startTime": 2**62}, {"endTime": 1000}, {"fromId": 2**62}],
)
def test_there_are_no_aggregates_outside_of_the_past(
    exchange: OfflineExchange, params: dict[str, int]
) -> None:
    assert rows(exchange, "aggTrades", **params) == []


def test_there_are_no_trades_in_the_far_future(exchange: OfflineExchange) -> None:
    assert historical(exchange, 2**62) == []


@pytest.mark.parametrize(
    "params",
    [{}, {"symbol": "BTCUSDT"}, {"symbols": '["BTCUSDT","ETHUSDT"]'}, {"symbolStatus": "HALT"}],
)
def test_exchange_info_tells_what_clients_read(
    exchange: OfflineExchange, params: dict[str, str]
) -> None:
    info = get(exchange, "exchangeInfo", **params).json()
    names = [one["symbol"] for one in info["symbols"]]
    count = 0 if "symbolStatus" in params else 1 if "symbol" in params else 2
    assert names[:2] == ["BTCUSDT", "ETHUSDT"][:count]
    # Without a symbol, all that Binance lists.
    assert len(names) == count if params else len(names) > 700
    for one in info["symbols"]:
        assert one["status"] == "TRADING"
        assert one["symbol"] == one["baseAsset"] + one["quoteAsset"]
        assert one["permissionSets"] == [["SPOT"]]
        assert [one["filters"][place]["filterType"] for place in (0, 1)] == [
            "PRICE_FILTER",
            "LOT_SIZE",
        ]


def test_depth_has_its_best_levels_first(exchange: OfflineExchange) -> None:
    tape = get(exchange, "depth", symbol="BTCUSDT", limit=20).json()
    bids = [Decimal(price) for price, _ in tape["bids"]]
    asks = [Decimal(price) for price, _ in tape["asks"]]
    assert len(bids) == len(asks) == 20
    assert bids == sorted(bids, reverse=True)
    assert bids[0] < asks[0] == min(asks)


@pytest.mark.parametrize(
    ("name", "query", "code"),
    [
        ("trades", "", -1102),
        ("trades", "symbol=", -1102),
        ("trades", "symbol=NOPEUSDT", -1121),
        ("trades", "symbol=btcusdt", -1100),
        ("trades", "symbol=BTCUSDT&limit=x", -1100),
        ("trades", "symbol=BTCUSDT&limit=", -1105),
        ("trades", "symbol=BTCUSDT&limit=0", -1130),
        ("trades", "symbol=BTCUSDT&symbol=BTCUSDT", -1101),
        ("trades", "symbol=BTCUSDT&fromId=1", -1104),
        ("historicalTrades", "symbol=BTCUSDT&fromId=99999999999999999999", -1130),
        ("aggTrades", "symbol=BTCUSDT&fromId=1&startTime=2", -1128),
        ("aggTrades", "symbol=BTCUSDT&startTime=3&endTime=2", -1128),
        ("exchangeInfo", 'symbols=["BTCUSDT","BTCUSDT"]', -1151),
        ("exchangeInfo", "symbols=BTCUSDT", -1100),
        ("exchangeInfo", "symbol=BTCUSDT&symbolStatus=TRADING", -1128),
        ("exchangeInfo", "symbol=BTCUSDT&permissions=SPOT", -1128),
        ("exchangeInfo", 'symbols=["BTCUSDT","NOPEUSDT"]', -1121),
        ("exchangeInfo", "symbol=NOPEUSDT", -1121),
        ("exchangeInfo", "symbolStatus=AWAKE", -1122),
        ("exchangeInfo", "permissions=spot!", -1100),
        ("exchangeInfo", "showPermissionSets=maybe", -1100),
        ("klines", "symbol=BTCUSDT", -1102),
        ("klines", "interval=1m", -1102),
        ("klines", "symbol=NOPEUSDT&interval=1m", -1121),
        ("klines", "symbol=BTCUSDT&interval=2m", -1120),
        ("klines", "symbol=BTCUSDT&interval=1D", -1120),
        ("klines", "symbol=BTCUSDT&interval=1m&startTime=3&endTime=2", -1128),
        ("klines", "symbol=BTCUSDT&interval=1m&startTime=x", -1100),
        ("klines", "symbol=BTCUSDT&interval=1m&startTime=-1", -1100),
        ("klines", "symbol=BTCUSDT&interval=1m&limit=0", -1130),
        ("klines", "symbol=BTCUSDT&interval=1m&timeZone=", -1105),
        ("klines", "symbol=BTCUSDT&interval=1m&timeZone=Sydney", -1100),
        ("klines", "symbol=BTCUSDT&interval=1m&timeZone=14:01", -1130),
        ("klines", "symbol=BTCUSDT&interval=1m&fromId=1", -1104),
        ("ticker/24hr", "symbol=NOPEUSDT", -1121),
        ("ticker/24hr", 'symbols=["BTCUSDT","NOPEUSDT"]', -1121),
        ("ticker/24hr", 'symbols=["btcusdt"]', -1100),
        ("ticker/24hr", 'symbols=["BTCUSDT","BTCUSDT"]', -1151),
        ("ticker/24hr", 'symbol=BTCUSDT&symbols=["BTCUSDT"]', -1128),
        ("ticker/24hr", "symbol=", -1102),
        ("ticker/24hr", "symbols=", -1105),
        ("ticker/24hr", "symbol=BTCUSDT&type=SMALL", -1139),
        ("ticker/24hr", "symbol=BTCUSDT&symbolStatus=HALT", -1220),
        ("ticker/price", "symbol=NOPEUSDT", -1121),
        ("ticker/price", "symbol=BTCUSDT&type=MINI", -1104),
        ("ticker/bookTicker", "symbol=NOPEUSDT", -1121),
        ("depth", "symbol=BTCUSDT&symbolStatus=HALT", -1220),
        ("avgPrice", "", -1102),
        ("avgPrice", "symbol=NOPEUSDT", -1121),
    ],
)
def test_a_wrong_request_is_answered_by_its_code(
    exchange: OfflineExchange, name: str, query: str, code: int
) -> None:
    answer = httpx2.get(f"{exchange.rest_urls[0]}/api/v3/{name}?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    assert answer.json()["msg"]


def test_an_unknown_endpoint_is_not_found(exchange: OfflineExchange) -> None:
    assert get(exchange, "nothing").status_code == 404


def test_weights_are_counted_and_told() -> None:
    with OfflineExchange(["BTCUSDT"], clock=SetClock()) as exchange:
        names = ("ping", "time", "exchangeInfo", "trades", "historicalTrades", "aggTrades")
        answers = [
            get(exchange, name, **({"symbol": "BTCUSDT"} if "rades" in name else {})).headers
            for name in names
        ]
        deep = get(exchange, "depth", symbol="BTCUSDT", limit=5000).headers
    used = [int(headers["X-MBX-USED-WEIGHT-1M"]) for headers in [*answers, deep]]
    assert used == [1, 2, 22, 47, 72, 76, 326]


@pytest.mark.parametrize(
    ("name", "params", "weight"),
    [
        ("klines", {"symbol": "BTCUSDT", "interval": "1s", "limit": "1"}, 2),
        ("avgPrice", {"symbol": "BTCUSDT"}, 2),
        ("ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("ticker/24hr", {"symbols": json.dumps([f"S{n}" for n in range(20)])}, 2),
        ("ticker/24hr", {"symbols": json.dumps([f"S{n}" for n in range(100)])}, 40),
        ("ticker/24hr", {"symbols": json.dumps([f"S{n}" for n in range(101)])}, 80),
        ("ticker/24hr", {}, 80),
        ("ticker/price", {"symbol": "BTCUSDT"}, 2),
        ("ticker/price", {"symbols": '["BTCUSDT"]'}, 4),
        ("ticker/price", {}, 4),
        ("ticker/bookTicker", {"symbol": "BTCUSDT"}, 2),
        ("ticker/bookTicker", {}, 4),
    ],
)
def test_statistics_weigh_as_documented(name: str, params: dict[str, str], weight: int) -> None:
    assert weight_of(name, params) == weight


def test_bars_and_tickers_tell_the_weight_they_used(exchange: OfflineExchange) -> None:
    used = [
        int(get(exchange, "ticker/price", symbol="BTCUSDT").headers["X-MBX-USED-WEIGHT-1M"])
        for _ in range(2)
    ]
    assert used[1] - used[0] == 2


def test_any_symbol_that_binance_lists_has_trades(exchange: OfflineExchange) -> None:
    rows = get(exchange, "historicalTrades", symbol="DOGEUSDT", limit=3).json()
    assert consecutive([row["id"] for row in rows])
    again = get(exchange, "historicalTrades", symbol="DOGEUSDT", fromId=rows[0]["id"], limit=3)
    assert again.json() == rows


def test_too_much_weight_is_429_until_the_next_minute() -> None:
    clock = SetClock(START + 20)
    with OfflineExchange(
        ["BTCUSDT"], clock=clock, limits=ExchangeLimits(weight_per_minute=2)
    ) as exchange:
        answers = [get(exchange, "ping") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["Retry-After"] == "40"
        assert answers[2].json()["code"] == -1003
        clock.advance(40)
        assert get(exchange, "ping").status_code == 200


def test_going_on_after_429_is_a_ban() -> None:
    weights = WeightLimiter(ExchangeLimits(weight_per_minute=1, ban_s=120))
    taken = [weights.take(1, now=START) for _ in range(22)]
    assert taken[0] is None
    assert [refusal.status for refusal in taken[1:] if refusal] == [429] * 20 + [418]
    banned = weights.take(1, now=START + 119)
    assert banned is not None
    assert (banned.status, banned.retry_after_s) == (418, 1)
    assert weights.take(1, now=START + 120) is None


def test_a_restarted_exchange_serves_what_was_traded_meanwhile() -> None:
    clock = SetClock()
    with OfflineExchange(["BTCUSDT"], clock=clock) as exchange:
        before = rows(exchange, "trades", limit=10)
    clock.advance(100)
    with OfflineExchange(["BTCUSDT"], clock=clock) as exchange:
        first = exchange.truth("BTCUSDT").first_id
        missed = historical(exchange, before[-1]["id"] + 1, limit=1000)
        missed += historical(exchange, missed[-1] + 1) + historical(exchange, missed[-1] + 1001)
        missed = sorted(set(missed))
        again = rows(exchange, "historicalTrades", fromId=before[0]["id"], limit=10)
    assert again == before
    assert json.dumps(again) == json.dumps(before)
    assert consecutive([before[-1]["id"], *missed])
    assert first > before[-1]["id"] + 4000
