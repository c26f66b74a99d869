"""A whole feed: what is live is in the lake, what was missed is filled, a restart goes on."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pyiceberg.expressions import And, EqualTo, In
from pyiceberg.table.update.snapshot import ExpireSnapshots
from support.live import (
    CALM,
    SOON,
    SYMBOLS,
    Clock,
    assert_all_there,
    last_ids,
    venue_of,
    wait_for_lake,
)
from support.recorded_events import events_of
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import ConfigError, TransientError
from k2lib.events import (
    Event,
    FeedPaused,
    FramesReceived,
    FramesRefused,
    GapClosed,
    GapNoticed,
)
from k2lib.iceberg.tables import load_table
from k2lib.simulator import OfflineExchange
from k2lib.venues.binance.venue import binance

TRADE = """
    SELECT asset_class, currency, exchange, trade_id, side, source_sequence, platform_sequence,
        price > 0 AS priced, ingestion_timestamp >= timestamp - INTERVAL 1 SECOND AS stamped,
        vendor_data['base_asset'], vendor_data['quote_asset'], vendor_data['origin'],
        vendor_data['is_buyer_maker']
    FROM trades_v2 WHERE symbol = 'BTCUSDT' ORDER BY source_sequence LIMIT 1
"""


@pytest.mark.slow
def test_a_trade_of_the_stream_is_a_row_with_every_field(k2: K2) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=50.0) as exchange,
        k2.feed(["btcusdt", "BINANCE_SIM:ETHUSDT"], venue=venue_of(exchange), options=SOON),
    ):
        wait_for_lake(k2, exchange)
    row = k2.sql(TRADE).row(0)
    assert row[:3] == ("crypto", "USDT", "BINANCE_SIM")
    assert row[3] == f"BINANCE_SIM-{row[5]}"
    assert row[4] == ("SELL" if row[12] == "true" else "BUY")
    assert row[6:12] == (None, True, True, "BTC", "USDT", "stream")


@pytest.mark.slow
def test_a_clock_an_hour_behind_loses_no_trade_and_is_named(tmp_path: Path) -> None:
    events: list[Event] = []
    home, clock = tmp_path / "home", Clock(time.time, behind_s=-3600.0)
    with OfflineExchange(SYMBOLS, rate=50.0, clock=clock) as exchange:
        with (
            K2.open(home=home, on_event=events.append, commit_interval_s=0.2) as k2,
            k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM),
        ):
            first = last_ids(exchange)
            wait_until(lambda: "clock_behind" in [one.name for one in k2.watch.alerts.firing])
            last = wait_for_lake(k2, exchange)
            [alert] = k2.watch.alerts.firing
        assert_all_there(home, exchange, first=first, last=last)
    assert (alert.name, alert.subject) == ("clock_behind", "BINANCE_SIM")
    assert "this machine's clock is 3" in alert.summary
    assert not [event for event in events if isinstance(event, FramesRefused)]


@pytest.mark.slow
def test_quotes_come_too_where_they_are_asked_for(k2: K2) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=50.0) as exchange,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=replace(CALM, quotes=True)) as feed,
    ):
        wait_until(lambda: all(one.quotes for one in feed.status().symbols))
        wait_for_lake(k2, exchange)
        k2.pipeline.settle()
    quotes = k2.quotes("BTCUSDT")
    assert (quotes["bid_price"] < quotes["ask_price"]).all()
    assert quotes["timestamp"].equals(quotes["ingestion_timestamp"], check_names=False)
    assert quotes["source_sequence"].is_sorted() and quotes["source_sequence"].is_unique().all()


@pytest.mark.slow
def test_an_outage_of_a_minute_is_filled_within_five_seconds(tmp_path: Path) -> None:
    clock = Clock(time.time, behind_s=185.0)
    noticed: list[float] = []
    closed: list[float] = []
    took_s: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, GapNoticed):
            noticed.append(time.monotonic())
        if isinstance(event, GapClosed):
            closed.append(time.monotonic())

    home = tmp_path / "home"
    with (
        OfflineExchange(SYMBOLS, rate=50.0, clock=clock) as exchange,
        K2.open(home=home, on_event=on_event) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON) as feed,
    ):
        first = last_ids(exchange)
        wait_until(lambda: all(one.trades for one in feed.status().symbols))
        for gaps in (2, 4, 6):
            exchange.fault("refused", s=30.0, cut=True)
            clock.behind_s -= 60.0
            wait_until(lambda gaps=gaps: len(closed) >= gaps)
            took_s.append(closed[gaps - 1] - noticed[gaps - 2])
        last = wait_for_lake(k2, exchange)
        assert_all_there(home, exchange, first=first, last=last)
        assert sum(one.backfilled for one in feed.status().symbols) >= 3 * 2 * 60 * 50 * 0.8
    # The quickest of three: a pause of the machine is not the feed's.
    assert min(took_s) < 5.0


@pytest.mark.slow
def test_a_feed_started_again_fills_what_it_missed(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    clock = Clock(time.time, behind_s=120.0)
    home = tmp_path / "home"
    with OfflineExchange(SYMBOLS, rate=50.0, clock=clock) as exchange:
        firsts = []
        for _ in range(3):
            with (
                K2.open(home=home, commit_interval_s=0.3, **kafka_settings) as k2,
                k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON),
            ):
                firsts.append(last_ids(exchange))
                last = wait_for_lake(k2, exchange)
            clock.behind_s -= 30.0
        assert_all_there(home, exchange, first=firsts[0], last=last)
    with K2.open(home=home) as k2:
        gaps = k2.sql("select state, filled from gaps order by noticed")
    assert set(gaps["state"]) == {"filled"} and gaps["filled"].sum() >= 2 * 2 * 30 * 50 * 0.8


@pytest.mark.slow
def test_a_host_with_aggregates_only_covers_a_gap_until_another_gives_its_trades(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    states: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, GapClosed):
            states.append(event.state)

    with (
        OfflineExchange(SYMBOLS, rate=100.0, hosts=2) as exchange,
        K2.open(home=home, commit_interval_s=0.3) as k2,
        k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON, on_event=on_event) as feed,
    ):
        first = last_ids(exchange)
        wait_until(lambda: all(one.trades for one in feed.status().symbols))
        exchange.fault("refuse", host=0, status=503, s=600, ws=False, rest=True)
        exchange.fault("market_data_only", host=1)
        exchange.fault("skip", n=200, symbol="BTCUSDT")
        wait_until(lambda: "covered" in states)
        covered = wait_for_lake(k2, exchange)
        assert k2.sql("select state, covered > 0 from gaps").rows() == [("covered", True)]
        assert covered.keys() == first.keys()
        exchange.fault("heal", host=0)
        wait_until(lambda: "filled" in states)
        last = wait_for_lake(k2, exchange)
        wait_until(lambda: not k2.contiguity()["missing"].sum())
        assert_all_there(home, exchange, first=first, last=last)


@pytest.mark.slow
def test_what_came_before_the_first_trade_could_be_stored_is_filled(tmp_path: Path) -> None:
    home, events = tmp_path / "home", list[Event]()
    with (
        OfflineExchange(SYMBOLS, rate=50.0) as exchange,
        K2.open(home=home, timeout_s=0.5, commit_interval_s=0.2, on_event=events.append) as k2,
    ):
        wait_until(lambda: k2.pipeline and load_table(k2.catalog, "trades_v2") is not None)
        exchange.fault("skip", n=1_000_000)
        with k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM):
            with closing(sqlite3.connect(home / "catalog.db")) as catalog:
                catalog.execute("begin exclusive")
                exchange.fault("heal")
                wait_until(lambda: events_of(events, FeedPaused))
            wait_for_lake(k2, exchange)
            stored = k2.sql("select symbol, epoch_us(min(timestamp)) from trades_v2 group by all")
    received = {one.symbol: one.last_us for one in reversed(events_of(events, FramesReceived))}
    assert {symbol for symbol, first_us in stored.iter_rows() if first_us <= received[symbol]} == {
        *SYMBOLS
    }


def test_an_unknown_symbol_is_named_before_anything_is_subscribed(k2: K2) -> None:
    with (
        OfflineExchange(SYMBOLS, rate=10.0) as exchange,
        pytest.raises(ConfigError, match="BTCUSD"),
    ):
        k2.feed(["BTCUSD"], venue=venue_of(exchange), options=SOON)


def test_an_instrument_of_another_venue_is_refused(tmp_path: Path) -> None:
    with (
        OfflineExchange(SYMBOLS) as exchange,
        K2.open(home=tmp_path / "home") as k2,
        pytest.raises(ConfigError, match="BINANCE:BTCUSDT is not of BINANCE_SIM"),
    ):
        k2.feed(["ETHUSDT", "BINANCE:BTCUSDT"], venue=venue_of(exchange))


def test_a_venue_out_of_reach_is_an_error_at_the_start(tmp_path: Path) -> None:
    nowhere = binance(["ws://127.0.0.1:9"], ["http://127.0.0.1:9"])
    with (
        K2.open(home=tmp_path / "home") as k2,
        pytest.raises(TransientError, match=r"BINANCE lets us in nowhere: ws://127\.0\.0\.1:9"),
    ):
        k2.feed(["BTCUSDT"], venue=nowhere, options=SOON)


@pytest.mark.slow
def test_a_feed_started_again_leaves_alone_what_another_engine_deleted(tmp_path: Path) -> None:
    home, symbol = tmp_path / "home", SYMBOLS[0]
    with OfflineExchange(SYMBOLS, rate=200.0) as exchange:
        with K2.open(home=home, commit_interval_s=0.5) as k2:
            with k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON):
                wait_for_lake(k2, exchange)
            k2.pipeline.settle()
            ids = ids_in_lake(k2, symbol)
            deleted = {*ids[10:20], *ids[-20:]}
            delete_and_expire(k2, symbol, deleted)
        with (
            K2.open(home=home, commit_interval_s=0.5) as k2,
            k2.feed(SYMBOLS, venue=venue_of(exchange), options=SOON),
        ):
            last = exchange.truth(symbol).last_id + 50
            made = {*range(ids[0], last + 1)} - {*exchange.truth(symbol).void}
            wait_until(lambda: {*ids_in_lake(k2, symbol)} >= made - deleted)
            assert not deleted & {*ids_in_lake(k2, symbol)}


def ids_in_lake(k2: K2, symbol: str) -> list[int]:
    sql = "select source_sequence as id from lake.trades_v2 where symbol = ? order by id"
    return k2.sql(sql, [symbol])["id"].to_list()


def delete_and_expire(k2: K2, symbol: str, ids: set[int]) -> None:
    """Delete trades as another engine does, and expire every other snapshot."""
    table = load_table(k2.catalog, "trades_v2")
    assert table is not None
    table.delete(And(EqualTo("symbol", symbol), In("source_sequence", ids)))
    old = [one.snapshot_id for one in table.snapshots()]
    old.remove(table.metadata.current_snapshot_id)
    with table.transaction() as transaction:
        ExpireSnapshots(transaction).by_ids(old).commit()
