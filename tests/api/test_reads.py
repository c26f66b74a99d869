"""Every GET of the API says what the files say, with all fields, and up to where it knows."""

import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.api_client import api_of, asked, problem_of
from support.asx_csv import figures, told, trades_of
from support.asx_facts import SYDNEY, exchange_of, quote_counts, symbols
from support.delete_files import delete_first_row
from support.lake_rows import append, at, gap, quote, rows_table, trade
from support.live import SOON, SYMBOLS, venue_of
from support.waiting import first, wait_until

from k2lib import K2
from k2lib.errors import QueryError
from k2lib.schema.records import TRADE
from k2lib.simulator import OfflineExchange

TRADES_TOPIC = "market.equities.trades.asx"
RECENT = "/v1/trades/recent"
LIVE = {"symbol": SYMBOLS[0], "limit": 1}
BAR = ("open", "high", "low", "close", "volume", "trades", "vwap", "turnover")


@pytest.fixture(scope="module")
def sample(asx_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Open the API over a home that has the ASX files."""
    home = tmp_path_factory.mktemp("api") / "home"
    with K2.open(home=home, commit_interval_s=0.5) as k2:
        k2.load_asx(asx_sample)
        with api_of(k2) as client:
            yield client


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[K2]:
    """Open a home without a Kafka."""
    with K2.open(home=tmp_path / "home") as k2:
        yield k2


@pytest.fixture
def small(lake: K2) -> Iterator[TestClient]:
    with api_of(lake) as client:
        yield client


def ids(page: dict[str, Any]) -> list[int]:
    return [int(row["message_id"][1:]) for row in page["data"]]


def has_all_of_kafka(page: dict[str, Any]) -> bool:
    """Say whether an answer waited long enough: none waits for more than two seconds."""
    return page["complete_to"]["trades_v2"]["behind"] == 0


def symbols_of(folder: Path) -> list[str]:
    known = symbols(folder)
    return sorted(known[path.stem] for path in (folder / "trades").glob("*.csv"))


@pytest.mark.slow
def test_every_field_of_every_trade_goes_from_the_file_to_http(k2: K2, asx_sample: Path) -> None:
    k2.load_asx(asx_sample)
    with api_of(k2) as client:
        for symbol in symbols_of(asx_sample):
            rows = asked(client, "/v1/trades", symbol=symbol, limit=100_000)["data"]
            loaded = {row.pop("ingestion_timestamp") for row in rows}
            assert rows == trades_of(asx_sample, symbol)
            assert all(one.endswith("Z") and len(one) == 27 for one in loaded)


@pytest.mark.slow
def test_an_answer_says_up_to_where_it_is_complete(sample: TestClient, asx_sample: Path) -> None:
    symbol = symbols_of(asx_sample)[-1]
    page = first(lambda: asked(sample, "/v1/trades", symbol=symbol), has_all_of_kafka)
    known = page["complete_to"]["trades_v2"]
    newest = max(row["last"] for row in figures(asx_sample, by="exchange"))
    assert known["time"] == newest
    assert known["log"] is True
    assert (known["tail_rows"], known["behind"], known["reason"]) == (0, 0, None)
    [ends] = [ends for log in known["offsets"].values() for ends in log.values()]
    assert sum(ends.values()) == sum(row["trades"] for row in figures(asx_sample, by="exchange"))


@pytest.mark.slow
def test_the_newest_trades_come_in_the_order_of_events(
    sample: TestClient, asx_sample: Path
) -> None:
    symbol = symbols_of(asx_sample)[0]
    rows = asked(sample, "/v1/trades/recent", symbol=symbol, limit=7)["data"]
    wanted = [row["message_id"] for row in trades_of(asx_sample, symbol)[-7:]]
    assert [row["message_id"] for row in rows] == wanted


@pytest.mark.slow
def test_quotes_are_as_many_as_lines(sample: TestClient, asx_sample: Path) -> None:
    for symbol, count in quote_counts(asx_sample).items():
        rows = asked(sample, "/v1/quotes", symbol=symbol, limit=100_000)["data"]
        assert len(rows) == count


@pytest.mark.slow
@pytest.mark.parametrize("market", ["all", "on"])
def test_bars_are_those_of_plain_duckdb(sample: TestClient, asx_sample: Path, market: str) -> None:
    start = "time_bucket(INTERVAL '5 minutes', timestamp) AS start"
    only = {"all": "true", "on": "venue IS DISTINCT FROM 'X'"}[market]
    for symbol in symbols_of(asx_sample):
        found = asked(sample, "/v1/bars", symbol=symbol, every="5m", market=market, limit=100_000)[
            "data"
        ]
        wanted = figures(asx_sample, by=start, where=f"symbol = '{symbol}' AND {only}")
        names = ("start", *BAR)
        assert [{name: row[name] for name in names} for row in found] == [
            {name: row[name] for name in names} for row in wanted
        ]


@pytest.mark.slow
def test_daily_bars_and_summaries_are_those_of_trading_dates(
    sample: TestClient, asx_sample: Path
) -> None:
    for day in figures(asx_sample, by="symbol, trading_date"):
        symbol, date = day["symbol"], day["trading_date"]
        path = f"/v1/summary/{exchange_of(asx_sample)}/{symbol}/{date}"
        [found] = asked(sample, path)["data"]
        assert found == {
            "exchange": exchange_of(asx_sample),
            **{name: day[name] for name in ("symbol", "trading_date", *BAR, "first", "last")},
        }
        following = (datetime.fromisoformat(date) + timedelta(days=1)).date()
        [bar] = asked(sample, "/v1/bars", symbol=symbol, every="1d", start=date, end=following)[
            "data"
        ]
        midnight = told(datetime.fromisoformat(date).replace(tzinfo=SYDNEY))
        shared = {name: found[name] for name in found if name not in ("first", "last")}
        assert bar == {**shared, "start": midnight}


@pytest.mark.slow
def test_symbols_and_stats_count_the_lines(sample: TestClient, asx_sample: Path) -> None:
    found = asked(sample, "/v1/symbols")["data"]
    wanted = figures(asx_sample, by="exchange, symbol")
    assert found == [
        {
            "exchange": row["exchange"],
            "symbol": row["symbol"],
            "rows": row["trades"],
            "first": row["first"],
            "last": row["last"],
        }
        for row in wanted
    ]
    [venue] = asked(sample, "/v1/stats")["data"]
    [all_of_it] = figures(asx_sample, by="exchange")
    assert venue == {
        "exchange": all_of_it["exchange"],
        "symbols": len(wanted),
        "rows": all_of_it["trades"],
        "first": all_of_it["first"],
        "last": all_of_it["last"],
    }


@pytest.mark.slow
def test_quotes_are_counted_by_instrument_too(sample: TestClient, asx_sample: Path) -> None:
    found = asked(sample, "/v1/symbols", table="quotes_v2")["data"]
    assert {row["symbol"]: row["rows"] for row in found} == quote_counts(asx_sample)


def test_a_date_is_the_trading_date_and_the_end_is_not_included(
    lake: K2, small: TestClient
) -> None:
    midnight = datetime(2014, 3, 11, tzinfo=SYDNEY)
    microsecond = timedelta(microseconds=1)
    times = [midnight - microsecond, midnight, midnight + timedelta(days=1)]
    append(lake.catalog, [trade(n, timestamp=one) for n, one in enumerate(times)])
    found = asked(small, "/v1/trades", symbol="BHP", start="2014-03-11", end="2014-03-12")
    assert ids(found) == [1]


def test_a_read_of_the_past_names_a_snapshot_a_tag_or_a_time(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1)])
    table = lake.table("trades_v2")
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "first").commit()
    append(lake.catalog, [trade(2)])
    newest, first = asked(small, "/v1/snapshots")["data"]
    assert (newest["tags"], first["tags"]) == ([], ["first"])
    assert (newest["rows_total"], first["rows_total"]) == (2, 1)
    for moment in (first["snapshot_id"], "first", first["committed"]):
        then = asked(small, "/v1/trades", symbol="BHP", as_of=moment)
        assert ids(then) == [1]
        assert then["complete_to"]["trades_v2"]["snapshot_id"] == first["snapshot_id"]
        assert asked(small, "/v1/stats", as_of=moment)["data"][0]["rows"] == 1
        assert asked(small, "/v1/bars", symbol="BHP", as_of=moment)["data"][0]["trades"] == 1
    assert ids(asked(small, "/v1/trades", symbol="BHP")) == [1, 2]


def test_a_date_is_the_state_at_its_first_moment(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1)])
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for text in (f"{tomorrow}", f"{tomorrow:%Y%m%d}"):
        assert ids(asked(small, "/v1/trades", symbol="BHP", as_of=text)) == [1]
    assert lake.trades("BHP", as_of=tomorrow).equals(lake.trades("BHP", as_of=f"{tomorrow}"))
    told = problem_of(small.get("/v1/trades?symbol=BHP&as_of=2014-03-11"), 404)
    assert "as_of=2014-03-11T00:00:00+00:00: trades_v2 keeps nothing that old" in told["detail"]


def test_the_same_moment_in_any_form_finds_the_same_trades(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(n) for n in range(4)])
    for start in (
        "2014-03-10T01:00:02Z",
        "2014-03-10t01:00:02.000z",
        "2014-03-10T12:00:02+11:00",
        "20140310T120002+1100",
        "2014-W11-1T01:00:02,0Z",
    ):
        assert ids(asked(small, "/v1/trades", symbol="BHP", start=start)) == [2, 3]
        assert lake.trades("BHP", start=start).height == 2
        assert lake.sql("SELECT * FROM trades_v2", start=start).height == 2
    assert lake.bars("BHP", start="20140310", end="2014-03-11")["trades"].sum() == 4
    assert lake.summary("BHP", "2014-03-10")["trades"].item() == 4


@pytest.mark.parametrize("name", ["start", "end", "as_of"])
def test_nanoseconds_are_refused(lake: K2, small: TestClient, name: str) -> None:
    append(lake.catalog, [trade(1)])
    text = "2014-03-10T01:00:00.123456789Z"
    told = problem_of(small.get("/v1/trades", params={"symbol": "BHP", name: text}), 400)
    [error] = told["errors"]
    assert (error["parameter"], error["value"]) == (name, text)
    assert "9 digits of a second: give 6 at most" in error["reason"]
    with pytest.raises(QueryError, match=f"{name}='{text}': 9 digits of a second"):
        lake.trades("BHP", **{name: text})  # type: ignore[arg-type]


def test_gaps_are_their_newest_revisions(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [gap("g", 0), gap("h", 0, from_id=20, to_id=21)], "gaps")
    then = asked(small, "/v1/snapshots", table="gaps")["data"][0]["snapshot_id"]
    append(lake.catalog, [gap("g", 1, state="lost", absent=10, note="gone")], "gaps")
    found = asked(small, "/v1/gaps")["data"]
    assert [(row["gap_id"], row["revision"], row["state"]) for row in found] == [
        ("g", 1, "lost"),
        ("h", 0, "noticed"),
    ]
    assert found[0] == {
        name: told(value)
        for name, value in gap("g", 1, state="lost", absent=10, note="gone").items()
    }
    assert [row["gap_id"] for row in asked(small, "/v1/gaps", state="noticed")["data"]] == ["h"]
    assert [row["revision"] for row in asked(small, "/v1/gaps", as_of=then)["data"]] == [0, 0]
    assert asked(small, "/v1/gaps", symbol="ETHUSDT")["data"] == []


def test_an_empty_side_of_a_quote_is_null(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [quote(1)], "quotes_v2")
    [row] = asked(small, "/v1/quotes", symbol="BHP")["data"]
    assert row == {name: told(value) if name != "vendor_data" else value
                   for name, value in quote(1).items()} | {
        "bid_price": "36.66000000",
        "bid_quantity": "300.00000000",
    }  # fmt: skip


def test_a_trade_that_only_kafka_has_is_in_unless_the_tail_is_off(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    options = {"commit_interval_s": 1000, **kafka_settings}
    with K2.open(home=tmp_path / "home", **options) as k2, api_of(k2) as client:
        k2.pipeline.produce(TRADES_TOPIC, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
        k2.pipeline.produce(TRADES_TOPIC, rows_table([trade(2)]), TRADE)
        k2.pipeline.flush()
        recent = first(lambda: asked(client, "/v1/trades/recent", symbol="BHP"), has_all_of_kafka)
        assert ids(recent) == [1, 2]
        assert recent["complete_to"]["trades_v2"]["tail_rows"] == 1
        stored = asked(client, "/v1/trades/recent", symbol="BHP", tail="false")
        assert ids(stored) == [1]
        assert stored["complete_to"]["trades_v2"]["log"] is False


@pytest.mark.slow
def test_a_live_trade_is_read_within_a_second_and_from_the_lake_within_five(
    tmp_path: Path,
) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=200.0) as exchange,
        K2.open(home=tmp_path / "home", commit_interval_s=0.5) as k2,
        api_of(k2) as client,
    ):
        k2.feed(SYMBOLS[:1], venue=venue_of(exchange), options=SOON)

        def median_age_s(tail: str) -> float:
            return statistics.median(age_s(client, tail=tail) for _ in range(20))

        for tail, within_s in (("true", 1), ("false", 5)):
            asking = {**LIVE, "tail": tail}
            wait_until(lambda asking=asking: client.get(RECENT, params=asking).status_code == 200)
            # The machine may pause during some answers, not during all.
            wait_until(lambda tail=tail, within_s=within_s: median_age_s(tail) < within_s)


def age_s(client: TestClient, *, tail: str) -> float:
    """Return how old the newest trade of an answer is when it is there."""
    [row] = asked(client, RECENT, **LIVE, tail=tail)["data"]
    read = datetime.fromisoformat(row["ingestion_timestamp"])
    return (datetime.now(UTC) - read).total_seconds()


def test_an_answer_without_kafka_says_so(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1)])
    known = asked(small, "/v1/trades", symbol="BHP")["complete_to"]["trades_v2"]
    assert known["log"] is False
    assert known["reason"]


def test_what_is_not_there_is_not_found(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1)])
    for path in (
        "/v1/trades?symbol=XYZ",
        "/v1/trades?symbol=BHP&exchange=BINANCE",
        "/v1/trades?symbol=BHP&as_of=yesterday",
        "/v1/trades?symbol=BHP&as_of=17",
        "/v1/summary/ASX/BHP/2014-03-11",
        "/v1/snapshots?table=gaps",
        "/v1/nothing",
        "/",
    ):
        problem_of(small.get(path), 404)


def test_a_symbol_at_two_venues_needs_one(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1), trade(2, exchange="ASX_SIM")])
    told = problem_of(small.get("/v1/trades?symbol=BHP"), 400)
    assert told["detail"] == "BHP is held at ASX, ASX_SIM: say which one with exchange="
    assert ids(asked(small, "/v1/trades", symbol="BHP", exchange="ASX_SIM")) == [2]


def test_a_table_with_delete_files_is_a_conflict(lake: K2, small: TestClient) -> None:
    delete_first_row(append(lake.catalog, [trade(1), trade(2)]))
    append(lake.catalog, [quote(1)], "quotes_v2")
    problem = problem_of(small.get(RECENT, params={"symbol": "BHP"}), 409)
    assert "trades_v2 has delete files" in problem["detail"]
    assert small.get("/v1/quotes", params={"symbol": "BHP"}).status_code == 200


def test_an_end_before_the_start_is_refused(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(1)])
    query = "symbol=BHP&start=2014-03-11&end=2014-03-10"
    assert "before start" in problem_of(small.get(f"/v1/trades?{query}"), 400)["detail"]


def test_another_method_is_refused_with_the_one_there_is(small: TestClient) -> None:
    response = small.post("/v1/trades", json={})
    problem_of(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


def test_a_wrong_parameter_is_named_with_its_value_and_reason(small: TestClient) -> None:
    told = problem_of(small.get("/v1/trades?symbol=BHP&limit=0&start=monday&x=1"), 400)
    errors = {one["parameter"]: one for one in told["errors"]}
    assert errors.keys() == {"limit", "start", "x"}
    assert errors["limit"]["value"] == "0"
    assert "1970" not in errors["start"]["reason"]
    assert "2014-03-10T01:00:00Z" in errors["start"]["reason"]


def test_a_missing_parameter_has_no_value(small: TestClient) -> None:
    [error] = problem_of(small.get("/v1/trades"), 400)["errors"]
    assert error == {"parameter": "symbol", "value": None, "reason": "Field required: give it"}


def test_a_moment_at_noon_is_taken_as_given(lake: K2, small: TestClient) -> None:
    append(lake.catalog, [trade(n) for n in range(4)])
    found = asked(small, "/v1/trades", symbol="BHP", start=at(1).isoformat(), end=told(at(3)))
    assert ids(found) == [1, 2]
