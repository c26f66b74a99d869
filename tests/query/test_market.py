"""On-market and off-market trades part all trades in two, the same in Python, SQL and HTTP."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient
from support.api_client import api_of, asked, posted
from support.asx_csv import figures
from support.asx_facts import exchange_of, is_real
from support.lake_rows import quote, rows_table, trade

from k2lib import K2
from k2lib.errors import QueryError
from k2lib.schema.market import Market
from k2lib.schema.records import QUOTE, TRADE

TOPIC = "market.equities.trades.asx"
DAY = date(2014, 3, 10)
PRINT = {"venue": "X"}
HIGHS = {"all": "76.00000000", "on": "62.15000000", "off": "76.00000000"}
# By number: which trades there are; the last two are in Kafka alone.
NUMBERS = {"all": [0, 1, 2, 3, 4, 5], "on": [0, 2, 3, 5], "off": [1, 4]}
markets = pytest.mark.parametrize("market", get_args(Market))


def rio(number: int, price: str, vendor_data: dict[str, str] | None) -> dict[str, Any]:
    return trade(number, symbol="RIO", price=Decimal(price), vendor_data=vendor_data)


ROWS = [
    rio(0, "62.00", None),
    rio(1, "76.00", PRINT),
    rio(2, "62.15", {"venue": "Y"}),
    rio(3, "61.90", {}),
    rio(4, "61.00", {"buyer_id": "1", **PRINT}),
    rio(5, "62.05", {"buyer_id": "X"}),
]


@pytest.fixture(scope="module")
def rows_k2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    """Open a home whose lake has some trades and whose Kafka has the others."""
    home = tmp_path_factory.mktemp("market") / "home"
    with K2.open(home=home, commit_interval_s=1000) as k2:
        k2.pipeline.produce(TOPIC, rows_table(ROWS[:4]), TRADE)
        quotes = rows_table([quote(1)], "quotes_v2")
        k2.pipeline.produce("market.equities.quotes.asx", quotes, QUOTE)
        k2.pipeline.settle()
        k2.pipeline.produce(TOPIC, rows_table(ROWS[4:]), TRADE)
        k2.pipeline.flush()
        yield k2


@pytest.fixture(scope="module")
def client(rows_k2: K2) -> Iterator[TestClient]:
    with api_of(rows_k2) as client:
        yield client


def numbers(ids: list[str]) -> list[int]:
    return [int(one[1:]) for one in ids]


@markets
def test_python_reads_the_trades_of_a_market(rows_k2: K2, market: Market) -> None:
    wanted = NUMBERS[market]
    rows = rows_k2.trades("RIO", exchange="ASX", market=market)
    assert numbers(rows["message_id"].to_list()) == wanted
    newest = rows_k2.trades("RIO", market=market, last=2)
    assert numbers(newest["message_id"].to_list()) == wanted[-2:]
    [daily] = rows_k2.bars("RIO", every="1d", market=market).to_dicts()
    assert (daily["trades"], daily["high"]) == (len(wanted), Decimal(HIGHS[market]))
    [summed] = rows_k2.summary("RIO", DAY, market=market).to_dicts()
    assert {name: summed[name] for name in ("high", "trades", "volume")} == {
        name: daily[name] for name in ("high", "trades", "volume")
    }


@markets
def test_http_reads_the_trades_of_a_market_and_says_which(
    client: TestClient, market: Market
) -> None:
    wanted, query = NUMBERS[market], {"symbols": ["RIO"], "market": market}
    pages = [
        asked(client, "/v1/trades", symbol="RIO", market=market),
        asked(client, "/v1/trades/recent", symbol="RIO", market=market),
        posted(client, "/v1/trades/query", query),
    ]
    for page in pages:
        assert numbers([row["message_id"] for row in page["data"]]) == wanted
    metrics = {"metrics": ["count", "max_price"]}
    figures = [
        asked(client, "/v1/bars", symbol="RIO", every="1d", market=market),
        asked(client, f"/v1/summary/ASX/RIO/{DAY}", market=market),
    ]
    for page in figures:
        assert (page["data"][0]["trades"], page["data"][0]["high"]) == (
            len(wanted),
            HIGHS[market],
        )
    groups = posted(client, "/v1/aggregations", {**query, **metrics})
    assert groups["data"] == [{"count": len(wanted), "max_price": HIGHS[market]}]
    assert {page["market"] for page in [*pages, *figures, groups]} == {market}


def test_all_trades_count_where_nothing_is_said(rows_k2: K2, client: TestClient) -> None:
    assert rows_k2.bars("RIO", every="1d")["high"].item() == Decimal(HIGHS["all"])
    assert rows_k2.sql("SELECT high FROM bars_1d").item() == Decimal(HIGHS["all"])
    response = client.get("/v1/bars", params={"symbol": "RIO", "every": "1d", "format": "csv"})
    assert response.headers["X-K2-Market"] == "all"
    assert HIGHS["all"] in response.text


def test_pages_of_a_market_leave_nothing_out(client: TestClient) -> None:
    found, cursor = [], {}
    while True:
        page = asked(client, "/v1/trades", symbol="RIO", market="on", limit=1, **cursor)
        found += numbers([row["message_id"] for row in page["data"]])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == NUMBERS["on"]


def test_sql_has_the_bars_on_market_with_what_only_kafka_has(rows_k2: K2) -> None:
    found = rows_k2.sql("SELECT trades, high FROM on_market.bars_1d").row(0)
    assert found == (len(NUMBERS["on"]), Decimal(HIGHS["on"]))
    stored = rows_k2.sql("SELECT sum(trades) FROM on_market.bars_1m", tail=False)
    assert stored.item() == 3


def test_quotes_have_no_market(rows_k2: K2, client: TestClient) -> None:
    response = client.get("/v1/quotes", params={"symbol": "BHP", "market": "on"})
    assert response.status_code == 400
    body = {"table": "quotes_v2", "metrics": ["count"], "market": "off"}
    assert "quotes have no market" in client.post("/v1/aggregations", json=body).text
    assert "market" not in asked(client, "/v1/quotes", symbol="BHP")


@pytest.mark.parametrize("market", ["dark", "", None, "ON"])
def test_a_market_that_is_none_is_refused(rows_k2: K2, market: Any) -> None:
    with pytest.raises(QueryError, match=r"market=.*: give 'all', 'on' or 'off'"):
        rows_k2.trades("RIO", market=market)


@pytest.mark.slow
def test_highs_of_days_are_those_of_the_files_with_and_without_off_market_prints(
    asx_sample: Path, tmp_path: Path
) -> None:
    highs: dict[tuple[str, str], Decimal] = {}
    with K2.open(home=tmp_path / "home", commit_interval_s=0.5) as k2:
        k2.load_asx(asx_sample)
        for market, where in (("all", "true"), ("on", "venue IS DISTINCT FROM 'X'")):
            for row in figures(asx_sample, by="symbol, trading_date", where=where):
                day = datetime.fromisoformat(row["trading_date"]).date()
                found = k2.summary(row["symbol"], day, market=market)  # type: ignore[arg-type]
                assert f"{found['high'].item():f}" == row["high"]
                following = day + timedelta(days=1)
                exchange = exchange_of(asx_sample)
                [bar] = k2.bars(
                    row["symbol"],
                    exchange=exchange,
                    every="1d",
                    start=day,
                    end=following,
                    market=market,  # type: ignore[arg-type]
                ).to_dicts()
                assert bar["high"] == found["high"].item()
                highs[row["symbol"], f"{day} {market}"] = bar["high"]
    if is_real(asx_sample):
        assert highs["BHP", "2014-03-11 all"] == Decimal("42.00")
        assert highs["BHP", "2014-03-11 on"] == Decimal("36.45")
