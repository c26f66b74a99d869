"""Klines and tickers of the offline exchange, beside those made of its own trades."""

import json
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import httpx2
import pytest
from support.exchange_clients import START, SetClock, get, received, reply_to, stream
from support.waiting import wait_until

from k2lib.simulator import OfflineExchange
from k2lib.simulator.binance.klines import INTERVALS
from k2lib.simulator.binance.limits import ExchangeLimits

NOW_MS = int((START + 3600) * 1000)
MINUTE_MS, DAY_MS = 60_000, 86_400_000
CENT = Decimal("0.00000001")


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    """Open an exchange whose time stands still."""
    limits = ExchangeLimits(weight_per_minute=10**6)
    with OfflineExchange(rate=1.0, clock=SetClock(START + 3600), limits=limits) as opened:
        yield opened


def answer(exchange: OfflineExchange, name: str, **params: Any) -> Any:
    response = get(exchange, name, **params)
    assert response.status_code == 200, response.text
    return response.json()


def trades(exchange: OfflineExchange, symbol: str, start_ms: int, end_ms: int) -> list[Any]:
    """Return the trades with start ≤ time < end, page by page over REST."""
    first = answer(exchange, "aggTrades", symbol=symbol, startTime=start_ms, limit=1)
    rows: list[Any] = []
    next_id = first[0]["f"] if first else 0
    while first:
        page = answer(exchange, "historicalTrades", symbol=symbol, fromId=next_id, limit=1000)
        rows += [row for row in page if row["time"] < end_ms]
        if len(page) < 1000 or page[-1]["time"] >= end_ms:
            break
        next_id = page[-1]["id"] + 1
    return rows


def total(rows: list[Any], name: str) -> str:
    return f"{sum((Decimal(row[name]) for row in rows), Decimal()):.8f}"


def kline(rows: list[Any], open_ms: int, close_ms: int) -> list[Any]:
    """Return the kline that trades make."""
    bought = [row for row in rows if not row["isBuyerMaker"]]
    prices = [row["price"] for row in rows]
    return [
        open_ms,
        prices[0],
        max(prices, key=Decimal),
        min(prices, key=Decimal),
        prices[-1],
        total(rows, "qty"),
        close_ms,
        total(rows, "quoteQty"),
        len(rows),
        total(bought, "qty"),
        total(bought, "quoteQty"),
        "0",
    ]


@pytest.mark.parametrize("interval", [name for name in INTERVALS if name not in ("1w", "1M")])
def test_a_kline_is_what_its_trades_make(exchange: OfflineExchange, interval: str) -> None:
    symbol = "XRPUSDT" if interval in ("12h", "1d", "3d") else "BTCUSDT"
    [row] = answer(exchange, "klines", symbol=symbol, interval=interval, limit=1)
    assert row[0] <= NOW_MS <= row[6]
    assert row[6] - row[0] + 1 == (INTERVALS[interval] or 0) // 1000
    own = trades(exchange, symbol, row[0], row[6] + 1)
    if own:
        assert row == kline(own, row[0], row[6])


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["1w", "1M"])
def test_a_long_kline_is_what_its_trades_make(exchange: OfflineExchange, interval: str) -> None:
    params = {"symbol": "XRPUSDT", "interval": interval, "endTime": NOW_MS - 31 * DAY_MS}
    row = answer(exchange, "klines", limit=1, **params)[0]
    tape = exchange.tape("XRPUSDT")
    ids = [tape.generator.id_at(time * 1000) for time in (row[0], row[6] + 1)]
    own = tape.trades(*ids)
    assert row[8] == len(own) == ids[1] - ids[0]
    item, steps = tape.instrument, own.steps.tolist()
    amounts = [ticks * size for ticks, size in zip(own.ticks.tolist(), steps, strict=True)]
    maker = own.buyer_maker.tolist()
    taken = [size for size, sold in zip(steps, maker, strict=True) if not sold]
    bought = [amount for amount, sold in zip(amounts, maker, strict=True) if not sold]
    scaled = [
        (sum(steps), item.quantity_scale),
        (sum(amounts), item.amount_scale),
        (sum(taken), item.quantity_scale),
        (sum(bought), item.amount_scale),
    ]
    assert [row[5], row[7], row[9], row[10]] == [str(n * scale * CENT) for n, scale in scaled]


def test_klines_of_a_time_begin_with_the_oldest(exchange: OfflineExchange) -> None:
    start, end = NOW_MS - 10 * MINUTE_MS, NOW_MS - 5 * MINUTE_MS
    ask = {"symbol": "BTCUSDT", "interval": "1m"}
    between = answer(exchange, "klines", startTime=start, endTime=end, **ask)
    assert [row[0] for row in between] == list(range(start, end + 1, MINUTE_MS))
    for row in between:
        assert row == kline(trades(exchange, "BTCUSDT", row[0], row[6] + 1), row[0], row[6])
    assert answer(exchange, "klines", startTime=start, limit=2, **ask) == between[:2]
    assert answer(exchange, "klines", endTime=end, limit=2, **ask) == between[-2:]
    # The times are inclusive, those of the opening.
    inside = answer(exchange, "klines", startTime=start + 1, endTime=end - 1, **ask)
    assert inside == between[1:-1]
    assert answer(exchange, "klines", startTime=start * 1000, limit=2, **ask) == between[:2]
    assert answer(exchange, "klines", startTime=NOW_MS + MINUTE_MS, **ask) == []


@pytest.mark.parametrize(
    ("params", "count"), [({}, 500), ({"limit": 7}, 7), ({"limit": 5000}, 1000)]
)
def test_as_many_klines_come_as_were_asked_for(
    exchange: OfflineExchange, params: dict[str, int], count: int
) -> None:
    rows = answer(exchange, "klines", symbol="BTCUSDT", interval="1m", **params)
    assert [row[0] for row in rows] == [
        NOW_MS - MINUTE_MS * back for back in reversed(range(count))
    ]


@pytest.mark.parametrize(
    ("zone", "east_min"),
    [("0", 0), ("8", 480), ("+8:00", 480), ("05:45", 345), ("-1:00", -60), ("-12", -720)],
)
def test_days_begin_in_the_time_zone_but_times_are_utc(
    exchange: OfflineExchange, zone: str, east_min: int
) -> None:
    rows = answer(exchange, "klines", symbol="XRPUSDT", interval="1d", limit=2, timeZone=zone)
    assert [(row[0] + east_min * MINUTE_MS) % DAY_MS for row in rows] == [0, 0]
    again = answer(
        exchange, "klines", symbol="XRPUSDT", interval="1d", startTime=rows[0][0], timeZone=zone
    )
    assert again == rows


def test_klines_have_microseconds_when_asked(exchange: OfflineExchange) -> None:
    url = f"{exchange.rest_urls[0]}/api/v3/klines"
    params = {"symbol": "BTCUSDT", "interval": "1m", "limit": "1"}
    headers = {"X-MBX-TIME-UNIT": "MICROSECOND"}
    [row] = httpx2.get(url, params=params, headers=headers).json()
    assert (row[0], row[6]) == (NOW_MS * 1000, (NOW_MS + MINUTE_MS) * 1000 - 1)


@pytest.fixture(scope="module")
def day(exchange: OfflineExchange) -> list[Any]:
    """The trades of the last 24 hours of a symbol that nobody named when the exchange began."""
    return trades(exchange, "XRPUSDT", NOW_MS - DAY_MS, NOW_MS + 1)


def test_a_full_ticker_is_what_the_trades_of_24_hours_make(
    exchange: OfflineExchange, day: list[Any]
) -> None:
    found = answer(exchange, "ticker/24hr", symbol="XRPUSDT")
    row = kline(day, 0, 0)
    change = Decimal(row[4]) - Decimal(row[1])
    percent = (100 * change / Decimal(row[1])).quantize(Decimal("0.001"), ROUND_HALF_UP)
    average = (Decimal(row[7]) / Decimal(row[5])).quantize(CENT, ROUND_HALF_UP)
    params = {"symbol": "XRPUSDT", "fromId": day[0]["id"] - 1, "limit": 1}
    [before] = answer(exchange, "historicalTrades", **params)
    best = answer(exchange, "ticker/bookTicker", symbol="XRPUSDT")
    expected = {
        "symbol": "XRPUSDT",
        "priceChange": str(change),
        "priceChangePercent": str(percent),
        "weightedAvgPrice": str(average),
        "prevClosePrice": before["price"],
        "lastPrice": day[-1]["price"],
        "lastQty": day[-1]["qty"],
        **{name: best[name] for name in ("bidPrice", "bidQty", "askPrice", "askQty")},
        "openPrice": row[1],
        "highPrice": row[2],
        "lowPrice": row[3],
        "volume": row[5],
        "quoteVolume": row[7],
        "openTime": NOW_MS - DAY_MS,
        "closeTime": NOW_MS,
        "firstId": day[0]["id"],
        "lastId": day[-1]["id"],
        "count": len(day),
    }
    assert found == expected
    assert list(found) == list(expected)


def test_a_mini_ticker_has_the_documented_part_of_the_full_one(exchange: OfflineExchange) -> None:
    full = answer(exchange, "ticker/24hr", symbol="XRPUSDT")
    mini = answer(exchange, "ticker/24hr", symbol="XRPUSDT", type="MINI")
    names = ["openPrice", "highPrice", "lowPrice", "lastPrice", "volume", "quoteVolume"]
    names = ["symbol", *names, "openTime", "closeTime", "firstId", "lastId", "count"]
    assert list(mini) == names
    assert mini == {name: full[name] for name in names}


@pytest.mark.parametrize("name", ["ticker/24hr", "ticker/price", "ticker/bookTicker"])
def test_tickers_come_for_one_for_some_and_for_all(exchange: OfflineExchange, name: str) -> None:
    one = answer(exchange, name, symbol="XRPUSDT")
    some = answer(exchange, name, symbols='["ETHUSDT","XRPUSDT"]')
    assert [row["symbol"] for row in some] == ["ETHUSDT", "XRPUSDT"]
    assert some[1] == one
    assert answer(exchange, name, symbols='["XRPUSDT"]') == [one]
    assert answer(exchange, name, symbols='["XRPUSDT"]', symbolStatus="HALT") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ticker/24hr", "ticker/price", "ticker/bookTicker"])
def test_all_tickers_are_those_of_all_listed_symbols(exchange: OfflineExchange, name: str) -> None:
    listed = [one["symbol"] for one in answer(exchange, "exchangeInfo")["symbols"]]
    assert [row["symbol"] for row in answer(exchange, name)] == listed


def test_a_price_is_that_of_the_newest_trade(exchange: OfflineExchange, day: list[Any]) -> None:
    expected = {"symbol": "XRPUSDT", "price": day[-1]["price"]}
    assert answer(exchange, "ticker/price", symbol="XRPUSDT") == expected


def test_the_average_price_is_that_of_five_minutes(exchange: OfflineExchange) -> None:
    rows = trades(exchange, "BTCUSDT", NOW_MS - 5 * MINUTE_MS, NOW_MS + 1)
    average = Decimal(total(rows, "quoteQty")) / Decimal(total(rows, "qty"))
    assert answer(exchange, "avgPrice", symbol="BTCUSDT") == {
        "mins": 5,
        "price": str(average.quantize(CENT, ROUND_HALF_UP)),
        "closeTime": rows[-1]["time"],
    }


def test_a_book_ticker_is_the_top_of_the_book(exchange: OfflineExchange) -> None:
    depth = answer(exchange, "depth", symbol="BTCUSDT", limit=1)
    best = answer(exchange, "ticker/bookTicker", symbol="BTCUSDT")
    assert [best["bidPrice"], best["bidQty"]] == depth["bids"][0]
    assert [best["askPrice"], best["askQty"]] == depth["asks"][0]


def test_a_restarted_exchange_has_the_same_klines(exchange: OfflineExchange) -> None:
    ask = {"symbol": "ADAUSDT", "interval": "1h", "endTime": NOW_MS - 2 * 3_600_000, "limit": 5}
    with OfflineExchange(rate=1.0, clock=SetClock(START + 3000)) as earlier:
        assert answer(earlier, "klines", **ask) == answer(exchange, "klines", **ask)


def test_too_many_trades_for_one_kline_are_a_timeout() -> None:
    with OfflineExchange(["BTCUSDT"], rate=2000.0, clock=SetClock()) as exchange:
        for name, params in [("klines", {"interval": "1w"}), ("ticker/24hr", {})]:
            response = get(exchange, name, symbol="BTCUSDT", **params)
            assert response.status_code == 503
            assert response.json()["code"] == -1007


def test_clients_that_look_for_futures_find_none(exchange: OfflineExchange) -> None:
    for path in ("/fapi/v1/exchangeInfo", "/dapi/v1/exchangeInfo"):
        assert answer(exchange, path)["symbols"] == []


def streamed(exchange: OfflineExchange, clock: SetClock, path: str, count: int = 1) -> list[Any]:
    """Let a second pass once the streams are open, and return their messages."""
    with stream(exchange, path) as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        clock.advance(1)
        return received(ws, count)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(START + 3601)


@pytest.fixture
def trading(clock: SetClock) -> Iterator[OfflineExchange]:
    with OfflineExchange(["BTCUSDT"], rate=5.0, clock=clock) as opened:
        yield opened


def caught_up(exchange: OfflineExchange, clock: SetClock) -> None:
    due = exchange.tape("BTCUSDT").generator.next_id(int(clock.now * 1e6)) - 1
    wait_until(lambda: exchange.truth("BTCUSDT").last_id == due)


def test_a_kline_stream_sends_the_bar_of_rest(trading: OfflineExchange, clock: SetClock) -> None:
    [event] = streamed(trading, clock, "/ws/btcusdt@kline_1m")
    [row] = answer(trading, "klines", symbol="BTCUSDT", interval="1m", limit=1)
    bar = event["k"]
    assert list(event) == ["e", "E", "s", "k"]
    assert list(bar) == [*"tTsifLochlvnxqVQB"]
    assert (event["e"], event["E"], event["s"]) == ("kline", int(clock.now * 1000), "BTCUSDT")
    assert [bar[name] for name in "tohlcvTqnVQ"] == row[:-1]
    assert (bar["i"], bar["x"], bar["L"] - bar["f"] + 1) == ("1m", False, bar["n"])


def test_a_kline_is_sent_once_more_when_it_is_closed(
    trading: OfflineExchange, clock: SetClock
) -> None:
    with stream(trading, "/ws/btcusdt@kline_1s") as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        events: list[Any] = []
        for _ in range(3):
            clock.advance(1)
            caught_up(trading, clock)
            events += received(ws, 2 if events else 1)
    assert [event["k"]["x"] for event in events] == [False, True, False, True, False]
    for event in events:
        if event["k"]["x"]:
            own = trades(trading, "BTCUSDT", event["k"]["t"], event["k"]["T"] + 1)
            assert event["k"]["n"] == len(own)
            assert event["k"]["v"] == total(own, "qty")


def test_klines_of_days_may_begin_in_utc_8(trading: OfflineExchange, clock: SetClock) -> None:
    [event] = streamed(trading, clock, "/ws/btcusdt@kline_1d@+08:00")
    assert (event["k"]["t"] + 8 * 3_600_000) % DAY_MS == 0


def test_ticker_streams_send_what_rest_has(trading: OfflineExchange, clock: SetClock) -> None:
    kinds = ["ticker", "miniTicker", "avgPrice", "ticker_1h"]
    path = "/stream?streams=" + "/".join(f"btcusdt@{kind}" for kind in kinds)
    events = {one["stream"]: one["data"] for one in streamed(trading, clock, path, len(kinds))}
    full = answer(trading, "ticker/24hr", symbol="BTCUSDT")
    average = answer(trading, "avgPrice", symbol="BTCUSDT")
    ticker, mini, avg, hour = (events[f"btcusdt@{kind}"] for kind in kinds)
    fields = dict(zip("pPwxcQbBaAohlvqOCFLn", list(full.values())[1:], strict=True))
    assert ticker == {"e": "24hrTicker", "E": full["closeTime"], "s": "BTCUSDT", **fields}
    head = {"e": "24hrMiniTicker", "E": full["closeTime"], "s": "BTCUSDT"}
    assert mini == head | {name: fields[name] for name in "cohlvq"}
    assert (avg["w"], avg["T"], avg["i"]) == (average["price"], average["closeTime"], "5m")
    assert (hour["e"], hour["O"] % MINUTE_MS) == ("1hTicker", 0)
    assert 3_600_000 <= hour["C"] - hour["O"] < 3_600_000 + MINUTE_MS
    assert hour["n"] == len(trades(trading, "BTCUSDT", hour["O"], hour["C"] + 1))


def test_all_mini_tickers_come_in_one_list(trading: OfflineExchange, clock: SetClock) -> None:
    [event] = streamed(trading, clock, "/ws/!miniTicker@arr")
    assert [one["s"] for one in event] == ["BTCUSDT"]
    [wrapped] = streamed(trading, clock, "/stream?streams=!miniTicker@arr")
    assert wrapped["stream"] == "!miniTicker@arr"


def test_a_listed_symbol_that_nobody_named_streams_too(
    trading: OfflineExchange, clock: SetClock
) -> None:
    with stream(trading, "/ws") as ws:
        subscribe = {"method": "SUBSCRIBE", "params": ["dogeusdt@trade"], "id": 1}
        assert reply_to(ws, subscribe) == {"result": None, "id": 1}
        clock.advance(1)
        wait_until(lambda: "DOGEUSDT" in trading.market.tapes)
        clock.advance(300)
        [trade] = received(ws)
    [row] = answer(trading, "historicalTrades", symbol="DOGEUSDT", fromId=trade["t"], limit=1)
    assert (row["price"], row["qty"], row["time"]) == (trade["p"], trade["q"], trade["T"])


def test_unsubscribed_statistics_end(trading: OfflineExchange, clock: SetClock) -> None:
    with stream(trading, "/stream?streams=btcusdt@ticker/btcusdt@kline_1s") as ws:
        unsubscribe = {"method": "UNSUBSCRIBE", "params": ["btcusdt@ticker"], "id": 1}
        assert reply_to(ws, unsubscribe) == {"result": None, "id": 1}
        listed = reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert listed == {"result": ["btcusdt@kline_1s"], "id": 2}
        clock.advance(1)
        first = received(ws)
        clock.advance(1)
        assert {one["stream"] for one in first + received(ws, 2)} == {"btcusdt@kline_1s"}
    assert json.dumps(listed)
